"""The hash that a Hub states of a file, and whether bytes are those of it."""

import hashlib

NO_DIGEST = "commit-"  # begins what stands for the hash of a file of which the Hub states none: equal to no other's
_GIT = "git-"


class StatedDigest:
    """A digest as in `FileIdentity` that the Hub states, against which a file's bytes are hashed, from first to last."""

    def __init__(self, digest: str, size: int) -> None:
        self._digest = digest
        if digest.startswith(_GIT):
            self._hash = hashlib.sha1(b"blob %d\0" % size)
        else:
            self._hash = hashlib.sha256()

    def update(self, content: memoryview | bytes) -> None:
        self._hash.update(content)

    def matches(self) -> bool:
        return self._digest.removeprefix(_GIT) == self._hash.hexdigest()
