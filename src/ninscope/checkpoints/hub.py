"""Checkpoints in a Hub repository, read by byte ranges through the real client: unused tensors are never fetched.

A revision is resolved to its commit once, and everything of it is read at that commit. The client retries ranges that fail;
it does not notice a range that is answered short, nor a server that ignores the range, so lengths are checked here.
"""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from ninscope.checkpoints.assemble import checkpoint_of_files, read_config, weight_files
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.checkpoints.steps import in_step_order, step_of
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.errors import CheckpointError, RequestError

PARALLEL_RANGES = 8
TIMEOUT_SECONDS = 30.0
# What the client raises when the network or the server fails; not all of it is an OSError.
_FAILURES = (HTTPError, OSError, ValueError)  # ValueError: an answer that is not the Hub's JSON


class HubFile:
    """One file at one commit."""

    reads_are_free = False

    def __init__(self, files: HfFileSystem, repository: str, commit: str, name: str, size: int, label: str):
        self._files, self._repository, self._commit, self._path = files, repository, commit, name
        self.name, self.size = label, size
        self._opened = threading.local()  # a file object has one position, so each thread has its own

    def read_ranges(self, ranges: list[tuple[int, int]]) -> list[memoryview]:
        """The bytes of every range, several at a time. Raises CheckpointError (missing, corrupt)."""
        if len(ranges) == 1:
            return [self._read(ranges[0])]
        with ThreadPoolExecutor(min(PARALLEL_RANGES, len(ranges) or 1)) as pool:
            return list(pool.map(self._read, ranges))

    def _read(self, span: tuple[int, int]) -> memoryview:
        start, stop = span
        if start == stop:
            return memoryview(b"")
        try:
            if not hasattr(self._opened, "file"):
                path = f"{self._repository}/{self._path}"
                self._opened.file = self._files.open(path, "rb", revision=self._commit, cache_type="none")
            self._opened.file.seek(start)
            content = self._opened.file.read(stop - start)
        except FileNotFoundError:
            raise CheckpointError("missing", f"{self.name}: no longer in {self._repository}") from None
        except _FAILURES as error:
            raise CheckpointError("missing", f"{self.name}: cannot be fetched ({_reason(error)}); run again") from None
        if len(content) != stop - start:
            raise CheckpointError(
                "corrupt",
                f"{self.name}: asked for {stop - start} bytes at {start}, the server sent {len(content)}; run again",
            )
        return memoryview(content)


class HubSource:
    """A model repository on the Hub: its step branches (or main, where there are none) are the revisions."""

    kind = "hub"

    def __init__(self, repository: str):
        self.label = self.repository = repository
        self._api = HfApi()
        self._listings: dict[str, _Listing] = {}

    @cached_property
    def _files(self) -> HfFileSystem:
        return HfFileSystem(skip_instance_cache=True)

    def revisions(self) -> list[str]:
        """Branches whose names state a step, in step order; "main" where there are none. Raises RequestError."""
        try:
            refs = self._api.list_repo_refs(self.repository)
        except RepositoryNotFoundError:
            raise _no_repository(self.repository) from None
        except _FAILURES as error:
            raise RequestError(
                f"{self.repository}: no such folder, and the Hub cannot be asked ({_reason(error)})"
            ) from None
        steps = [branch.name for branch in refs.branches if step_of(branch.name) is not None]
        return in_step_order(steps) or ["main"]

    def step_of(self, revision: str) -> int | None:
        return step_of(revision)

    def identify(self, revision: str, known: Mapping[str, FileIdentity] | None = None) -> Identity:
        """From the Hub's metadata and config.json; no weight is read. Raises CheckpointError."""
        listing = self._listing(revision)
        read = self._reader(revision, listing)
        read_config(revision, listing.sizes, read)
        names = weight_files(listing.sizes, read, revision)
        files = tuple(FileIdentity(name, listing.sizes[name], listing.digests[name]) for name in names)
        return Identity(revision, step_of(revision), files, listing.commit)

    def open(self, revision: str, identity: Identity | None = None) -> Checkpoint:
        """The checkpoint; at the commit of `identity` where one is given, wherever the branch stands by now."""
        listing = self._listing(revision, identity.commit if identity is not None else None)
        read = self._reader(revision, listing)
        return checkpoint_of_files(revision, listing.sizes, read, lambda name: self._open_file(revision, listing, name))

    def check_unchanged(self, identity: Identity) -> None:
        """A commit cannot change."""

    def stamp_path(self, revision: str, file: FileIdentity) -> str:
        return f"{self.repository}@{revision}/{file.name}"

    def _listing(self, revision: str, commit: str | None = None) -> "_Listing":
        """The files in the repository's top folder at a revision, or at a commit: one request, once."""
        at = commit or revision
        if at not in self._listings:
            self._listings[at] = self._fetch_listing(revision, at)
        return self._listings[at]

    def _fetch_listing(self, revision: str, at: str) -> "_Listing":
        try:
            info = self._api.model_info(self.repository, revision=at, files_metadata=True, timeout=TIMEOUT_SECONDS)
        except RevisionNotFoundError:
            raise CheckpointError("missing", f"{revision}: no such revision in {self.repository}") from None
        except GatedRepoError:
            raise CheckpointError(
                "missing", f"{revision}: {self.repository} is gated; log in and accept its terms"
            ) from None
        except RepositoryNotFoundError:
            raise _no_repository(self.repository) from None
        except _FAILURES as error:
            raise CheckpointError(
                "missing", f"{revision}: {self.repository} cannot be asked ({_reason(error)}); run again"
            ) from None
        files = [file for file in info.siblings or () if "/" not in file.rfilename]
        sizes = {file.rfilename: int(file.size or 0) for file in files}
        digests = {file.rfilename: file.lfs.sha256 if file.lfs else f"git-{file.blob_id}" for file in files}
        return _Listing(str(info.sha), sizes, digests)

    def _open_file(self, revision: str, listing: "_Listing", name: str) -> HubFile:
        return HubFile(self._files, self.repository, listing.commit, name, listing.sizes[name], f"{revision}/{name}")

    def _reader(self, revision: str, listing: "_Listing"):
        def read(name: str, limit: int) -> bytes:
            size = listing.sizes[name]
            if size > limit:
                raise CheckpointError("corrupt", f"{revision}/{name}: {size} bytes are too many for such a file")
            return bytes(self._open_file(revision, listing, name).read_ranges([(0, size)])[0])

        return read


@dataclass(frozen=True)
class _Listing:
    """Files at one commit: size and digest by name."""

    commit: str
    sizes: dict[str, int]
    digests: dict[str, str]


def hub_source(repository: str) -> HubSource:
    """The source for a repository id. Raises RequestError when it cannot be one."""
    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise RequestError(f"{repository}: no such folder, and not a Hub repository id (org/name)") from None
    return HubSource(repository)


def _no_repository(repository: str) -> RequestError:
    return RequestError(f"{repository}: no such folder, and no such model repository on the Hub (or no access to it)")


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160] or type(error).__name__
