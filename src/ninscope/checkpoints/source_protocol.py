"""What every source of checkpoints can do, be it a folder, a Hub repository, or adapters on a base."""

from collections.abc import Mapping
from typing import Protocol

from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.checkpoints.tensors import Checkpoint


class Source(Protocol):
    """Where revisions of one model come from."""

    label: str
    kind: str  # "local" (tensors are read, and checked, whole) or "hub" (only the rows that are wanted)

    def revisions(self) -> list[str]:
        """Names in step order, at least one. Raises RequestError."""

    def names(self) -> list[str]:
        """Names of all that could be a revision, whether they state a step or not. Raises RequestError."""

    def step_of(self, revision: str) -> int | None:
        """The training step of a revision, or None."""

    def identify(
        self, revision: str, known: Mapping[str, FileIdentity] | None = None, thorough: bool = True
    ) -> Identity:
        """What the revision is, without reading a weight where a hash is known. Raises CheckpointError.

        thorough: False makes do with digests that tell files apart, where a true one would take reading all of them.
        """

    def fingerprint(self, revision: str) -> str | None:
        """Something that changes whenever the revision's files do, had for next to nothing; None where it is not known.

        Raises RequestError.
        """

    def open(self, revision: str, identity: Identity | None = None) -> Checkpoint:
        """The revision as a lazy Checkpoint, that of `identity` where one is given. Raises CheckpointError."""

    def check_unchanged(self, identity: Identity) -> None:
        """To be called after reading. Raises CheckpointError when what was read may not be what was identified."""

    def stamp_path(self, revision: str, file: FileIdentity) -> str:
        """The key of `known` in `identify`."""
