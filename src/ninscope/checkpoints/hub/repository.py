"""Checkpoints in a Hub repository, read by byte ranges through the real client: unused tensors are never fetched.

A revision is resolved to its commit once, and everything of it is read at that commit.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it lists no exports

from ninscope.checkpoints.checkpoint_files import (
    ReadFile,
    checkpoint_of_files,
    read_config,
    weight_files,
    with_settings,
)
from ninscope.checkpoints.file_names import CONFIG_NAME, config_name, model_folder, weight_names
from ninscope.checkpoints.hub.file import HubFile
from ninscope.checkpoints.hub.http import Refused, ask_json
from ninscope.checkpoints.hub.retries import Passing, persistently
from ninscope.checkpoints.hub.stated_digest import NO_DIGEST
from ninscope.checkpoints.hub.traffic import current_traffic
from ninscope.checkpoints.identity import FileIdentity, Identity, shape_of
from ninscope.checkpoints.revisions import in_step_order, step_of
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.checks import did_you_mean
from ninscope.errors import CheckpointError, NoRepository, RequestError

# Of one checkpoint at a time: rows of a few KB, far apart, are mostly waited for.
PARALLEL_REQUESTS = 32
_KEPT_BYTES, _KEPT_FILES = 1_000_000, 32

Answer = TypeVar("Answer")


class _Small:
    """Contents of small files by digest, the latest few: config.json is the same in every revision."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contents: OrderedDict[str, bytes] = OrderedDict()

    def get(self, digest: str) -> bytes | None:
        with self._lock:
            return self._contents.get(digest)

    def put(self, digest: str, content: bytes) -> None:
        with self._lock:
            self._contents[digest] = content
            while len(self._contents) > _KEPT_FILES:
                self._contents.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._contents.clear()


SMALL = _Small()


class HubSource:
    """A model repository on the Hub: its step branches (or main, where there are none) are the revisions.

    subfolder: where its checkpoint lies, "" for the top; a repository that is a pipeline is the model in its unet/ or
    transformer/. beside: what a message says of a local folder, where the repository is absent and might have been a path.
    """

    kind = "hub"

    def __init__(self, repository: str, subfolder: str = "", beside: str = ""):
        self.repository, self._subfolder, self._beside = repository, subfolder, beside
        self.label = f"{repository}/{subfolder}" if subfolder else repository
        self._endpoint = constants.ENDPOINT
        self._traffic = current_traffic()
        self._listings: dict[str, _Listing] = {}
        self._commits: dict[str, str] | None = None  # by branch, once asked

    def names(self) -> list[str]:
        """All branches. Raises RequestError."""
        return list(self._branches())

    def revisions(self) -> list[str]:
        """Branches whose names state a step, in step order; "main" where there are none. Raises RequestError."""
        return in_step_order(name for name in self._branches() if step_of(name) is not None) or ["main"]

    def _branches(self) -> dict[str, str]:
        """Commit by branch: one request, once. Raises RequestError."""
        if self._commits is not None:
            return self._commits
        try:
            commits = self._answered("refs", _commits_of)
        except (Passing, Refused) as fault:
            if isinstance(fault, Refused) and _no_access(fault):
                raise _no_repository(self.repository, self._beside) from None
            raise RequestError(
                f"{self.repository}: no such folder, and the Hub cannot be asked ({fault.reason}){self._beside}"
            ) from None
        self._commits = {name: f"{self.label}@{commit}" for name, commit in commits.items()}
        return self._commits

    def step_of(self, revision: str) -> int | None:
        return step_of(revision)

    def models_of(self, revision: str) -> tuple[str, ...]:
        return (self.label,)

    def identify(
        self, revision: str, known: Mapping[str, FileIdentity] | None = None, thorough: bool = True
    ) -> Identity:
        """From the Hub's metadata and config.json; no weight is read. Raises CheckpointError."""
        listing = self._listing(revision)
        read = self._reader(revision, listing)
        shape = shape_of(read_config(revision, listing.sizes, read, lambda: self._expects_config(revision)))
        names = weight_files(listing.sizes, read, revision)
        beside = [
            name for name in (config_name(listing.sizes), weight_names(listing.sizes)[1]) if name in listing.sizes
        ]
        identity = Identity(
            revision,
            step_of(revision),
            listing.of(names),
            listing.commit,
            shape,
            listing.of(beside),
            listing.folder,
        )
        return with_settings(identity, listing.sizes, read)

    def open(self, revision: str, identity: Identity | None = None) -> Checkpoint:
        """The checkpoint; at the commit of `identity` where one is given, wherever the branch stands by now."""
        listing = self._listing(revision) if identity is None else _listing_in(identity)
        pool = ThreadPoolExecutor(PARALLEL_REQUESTS)
        return checkpoint_of_files(
            revision,
            listing.sizes,
            self._reader(revision, listing),
            lambda name: self._open_file(revision, listing, name, pool),
            lambda: identity is None and self._expects_config(revision),
        )

    def config(self, revision: str) -> dict:
        """What its configuration says. Raises CheckpointError."""
        listing = self._listing(revision)
        expected = self._expects_config
        return read_config(revision, listing.sizes, self._reader(revision, listing), lambda: expected(revision))

    def fingerprint(self, revision: str) -> str | None:
        """The commit of a branch. Raises RequestError."""
        return self._branches().get(revision)

    def check_unchanged(self, identity: Identity) -> None:
        """A commit cannot change."""

    def stamp_path(self, revision: str, file: FileIdentity) -> str:
        return f"{self.label}@{revision}/{file.name}"

    def _expects_config(self, revision: str) -> bool:
        """Whether another revision, of those that were looked at or else of one more, has a config.json."""
        known = [listing for name, listing in list(self._listings.items()) if name != revision]
        if not known:
            try:
                others = [name for name in ("main", *self._branches()) if name != revision and name in self._branches()]
                known = [self._listing(name) for name in others[:1]]
            except (CheckpointError, RequestError):
                return False
        return any(CONFIG_NAME in listing.sizes for listing in known)

    def _listing(self, revision: str) -> "_Listing":
        """The files in the checkpoint's folder at a revision: one request, once."""
        if revision not in self._listings:
            self._listings[revision] = self._fetch_listing(revision)
        return self._listings[revision]

    def _fetch_listing(self, revision: str) -> "_Listing":
        try:
            return self._answered(
                f"revision/{quote(revision, safe='')}?blobs=True", lambda answer: _listing_of(answer, self._subfolder)
            )
        except Passing as fault:
            reason = fault.reason
        except Refused as fault:
            if isinstance(fault.error, RevisionNotFoundError):
                near = did_you_mean(revision, self._commits or ())  # those that are known already
                raise CheckpointError("missing", f"{revision}: no such revision in {self.repository}{near}") from None
            if isinstance(fault.error, GatedRepoError):
                raise CheckpointError(
                    "missing", f"{revision}: {self.repository} is gated; log in and accept its terms"
                ) from None
            if _no_access(fault):
                raise _no_repository(self.repository, self._beside) from None
            reason = fault.reason
        raise CheckpointError(
            "missing", f"{revision}: {self.repository} cannot be asked ({reason}); run again", passing=True
        )

    def _answered(self, path: str, read: Callable[[dict], Answer]) -> Answer:
        """What `read` makes of the Hub's answer about this repository. Raises Passing, Refused."""

        def once() -> Answer:
            answer = ask_json(f"{self._endpoint}/api/models/{self.repository}/{path}", self._traffic)
            try:
                return read(answer)
            except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
                raise Passing("its answer is not the Hub's") from None

        return persistently(once)

    def _open_file(
        self, revision: str, listing: "_Listing", name: str, pool: Executor, ahead: int | None = None
    ) -> HubFile:
        path = f"{listing.folder}/{name}" if listing.folder else name
        url = hf_hub_url(self.repository, path, revision=listing.commit, endpoint=self._endpoint)
        size, digest = listing.sizes[name], listing.digests[name]
        return HubFile(url, f"{revision}/{name}", size, digest, pool, self._traffic, ahead)

    def _reader(self, revision: str, listing: "_Listing") -> ReadFile:
        def read(name: str, limit: int) -> bytes:
            size, digest = listing.sizes[name], listing.digests[name]
            if size > limit:
                raise CheckpointError("corrupt", f"{revision}/{name}: {size} bytes are too many for such a file")
            if (kept := SMALL.get(digest)) is not None:
                return kept
            unused = ThreadPoolExecutor(1)  # what the first request brings is fetched in this thread
            content = bytes(self._open_file(revision, listing, name, unused, size).read_ranges([(0, size)])[0])
            if size <= _KEPT_BYTES and not digest.startswith(NO_DIGEST):
                SMALL.put(digest, content)
            return content

        return read


def _commits_of(answer: dict) -> dict[str, str]:
    """Commit by branch. Raises what a senseless answer makes of itself."""
    commits = {str(branch["name"]): str(branch["targetCommit"]) for branch in answer["branches"]}
    if not all(name.isprintable() for name in commits):
        raise ValueError("a branch that git would not allow")
    return commits


@dataclass(frozen=True)
class _Listing:
    """Files of one folder ("" is the top) at one commit: size and digest by name."""

    commit: str | None
    sizes: dict[str, int]
    digests: dict[str, str]
    folder: str = ""

    def of(self, names: Iterable[str]) -> tuple[FileIdentity, ...]:
        return tuple(FileIdentity(name, self.sizes[name], self.digests[name]) for name in names)


def _listing_in(identity: Identity) -> _Listing:
    """What identifying a revision found of its files: no need to ask again."""
    files = (*identity.files, *identity.beside)
    return _Listing(
        identity.commit,
        {file.name: file.size for file in files},
        {file.name: file.digest for file in files},
        identity.folder,
    )


def _listing_of(answer: dict, subfolder: str) -> _Listing:
    """The files in a folder of the repository: the named one, or that of a pipeline's model, or the top.

    Raises what a senseless answer makes of itself.
    """
    paths = {str(file["rfilename"]): file for file in answer["siblings"]}
    folder = subfolder or model_folder(paths.__contains__)
    start = f"{folder}/" if folder else ""
    files = {path.removeprefix(start): file for path, file in paths.items() if path.startswith(start)}
    files = {name: file for name, file in files.items() if "/" not in name}
    sizes = {name: int(file.get("size") or 0) for name, file in files.items()}
    if min(sizes.values(), default=0) < 0:
        raise ValueError("a file of less than no bytes")
    digests = {
        name: str(file["lfs"]["sha256"])
        if file.get("lfs")
        else f"git-{file['blobId']}"
        if file.get("blobId")
        else f"{NO_DIGEST}{answer['sha']}-{start}{name}"
        for name, file in files.items()
    }
    return _Listing(str(answer["sha"]), sizes, digests, folder)


def hub_source(repository: str, subfolder: str = "", beside: str = "") -> HubSource:
    """The source for a repository id, or a subfolder of it; beside: as in `HubSource`.

    Raises RequestError when it cannot be one.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise RequestError(f"{repository}: no such folder, and not a Hub repository id (org/name){beside}") from None
    return HubSource(repository, subfolder, beside)


def _no_access(fault: Refused) -> bool:
    """Whether the repository is absent or private, which the Hub does not tell apart."""
    return isinstance(fault.error, RepositoryNotFoundError) or fault.code == 401


def _no_repository(repository: str, beside: str) -> NoRepository:
    return NoRepository(
        f"{repository}: no such folder, and no such model repository on the Hub (or no access to it: hf auth login, or HF_TOKEN)"
        f"{beside}"
    )
