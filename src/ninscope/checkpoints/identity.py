"""What a checkpoint is, told from its files' hashes without reading a weight: the first part of every content key."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class FileIdentity:
    """One weight file. digest: sha256 in hex, or `git-<blob id>` where a Hub states no more.

    stamp: (size, mtime_ns, ctime_ns) of a local file, by which a digest computed once can be trusted again; empty elsewhere.
    """

    name: str
    size: int
    digest: str
    stamp: tuple[int, ...] = ()


@dataclass(frozen=True)
class Identity:
    """A revision's weight files. commit: where they lie at, in a Hub repository."""

    revision: str
    step: int | None
    files: tuple[FileIdentity, ...]
    commit: str | None = None

    @property
    def content_sha256(self) -> str:
        """The weights' sha256: the file's own where there is one file (the Hub shows the same), else over `digest  name` lines."""
        if len(self.files) == 1 and not self.files[0].digest.startswith("git-"):
            return self.files[0].digest
        lines = "".join(f"{file.digest}  {file.name}\n" for file in sorted(self.files, key=lambda file: file.name))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)
