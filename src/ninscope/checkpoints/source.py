"""A source of checkpoints: what every one can do, be it a folder, a Hub repository or adapters on a base; how it is opened."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ninscope.checkpoints.file_names import MODEL_FOLDERS
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.checkpoints.in_memory import in_memory_source
from ninscope.checkpoints.local import local_file, local_source
from ninscope.checkpoints.revisions import step_of
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.checks import did_you_mean
from ninscope.errors import RequestError
from ninscope.wording import outer_names


class Source(Protocol):
    """Where revisions of one model come from."""

    @property
    def label(self) -> str:
        """As the user named it."""

    @property
    def kind(self) -> str:
        """ "local" (tensors are read, and checked, whole) or "hub" (only the rows that are wanted)."""

    def revisions(self) -> list[str]:
        """Names in step order, at least one. Raises RequestError."""

    def names(self) -> list[str]:
        """Names of all that could be a revision, whether they state a step or not. Raises RequestError."""

    def step_of(self, revision: str) -> int | None:
        """The training step of a revision, or None."""

    def models_of(self, revision: str) -> tuple[str, ...]:
        """Names of the model that the revision is of: two revisions that share none are of two models, as far as places tell."""

    def identify(
        self, revision: str, known: Mapping[str, FileIdentity] | None = None, thorough: bool = True
    ) -> Identity:
        """What the revision is, without reading a weight where a hash is known. Raises CheckpointError.

        thorough: False makes do with digests that tell files apart, where a true one would take reading all of them.
        """

    def config(self, revision: str) -> dict:
        """What its configuration says, as `Checkpoint.config`. Raises CheckpointError."""

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


# org/name, and of a diffusers pipeline also the folder of its model
_NAME = r"[A-Za-z0-9][\w.-]{0,95}"
_REPOSITORY = re.compile(rf"(?P<id>{_NAME}/{_NAME})(?:/(?P<folder>{'|'.join(MODEL_FOLDERS)}))?")


def open_source(source: object, base: object = None, base_revision: str | None = None) -> Source:
    """A folder or a file of weights if there is one of that name, else a Hub repository id, or the folder of a pipeline's model in
    one (org/name/unet); a torch module or a state dict is a source of its own (`in_memory_source`).

    base: the source holds adapters, and each is merged into this model, a folder or a repository; base_revision: which revision
    of it, where there are several (a repository's is main). Raises RequestError when it is neither.
    """
    if base is not None:
        from ninscope.checkpoints.lora.adapted_source import adapted_source  # compiles, and few sources hold adapters

        return adapted_source(open_source(source), open_source(base), base_revision)
    if base_revision is not None:
        raise RequestError("base_revision is of a base; name the base too")
    if not isinstance(source, str | Path):
        return in_memory_source(source)
    text = str(source)
    if not text.strip():
        raise RequestError("an empty name is no source; name a folder, or a Hub repository id (org/name)")
    try:
        folder = Path(text).expanduser()
        kind = "folder" if folder.is_dir() else "file" if folder.is_file() else "other" if folder.exists() else ""
    except (OSError, RuntimeError, ValueError):  # too long, an unknown user's home, a zero byte
        kind = ""
    if kind == "folder":
        return local_source(text, folder)
    if kind == "other":  # a pipe would be waited for
        raise RequestError(
            f"{text} is neither a folder nor a plain file (a pipe, say); name a folder, or a file of weights"
        )
    if kind == "file":
        return local_file(text, folder)
    return _on_the_hub(text)


def _on_the_hub(text: str) -> Source:
    """The source that a name stands for where no folder or file is called so. Raises RequestError."""
    named = None if text.startswith((".", "/", "~")) else _REPOSITORY.fullmatch(text)
    names = _beside(text)
    missing, outer = Path(text).name, text.rpartition("/")[0] or "/"
    beside = (did_you_mean(missing, names) or f"; {outer} has {outer_names(names)}") if names else ""
    if named is None:
        beside = beside or did_you_mean(missing, _neighbours(text))
        raise RequestError(f"{text}: no such folder, and not a Hub repository id (org/name){beside}")
    # Who cannot reach the Hub would wait half a minute for the same answer. An organisation's models state no steps.
    if names and all(step_of(name) is not None for name in names):
        raise RequestError(
            f"{text}: no such folder, and not looked for on the Hub, for {outer} holds revisions{beside}"
        )
    from ninscope.checkpoints.hub.repository import hub_source  # the client is slow to import and local work needs none

    return hub_source(named["id"], named["folder"] or "", beside)


def _neighbours(text: str) -> list[str]:
    """What lies in the folder that a path should lie in, by name; nothing where that cannot be read."""
    try:
        return sorted(path.name for path in Path(text).expanduser().parent.iterdir())
    except (OSError, RuntimeError, ValueError):
        return []


def _beside(text: str) -> list[str]:
    """The revisions that a folder holds in place of a path that is not in it; none where there is no such folder."""
    try:
        folder = Path(text).expanduser().parent
        return local_source(str(folder), folder).revisions() if "/" in text and folder.is_dir() else []
    except (OSError, RuntimeError, ValueError, RequestError):
        return []
