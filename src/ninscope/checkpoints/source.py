"""A source of checkpoints: what a user names, be it a folder or a Hub repository, behind one small interface."""

import re
from pathlib import Path

from ninscope.checkpoints.local import local_source
from ninscope.checkpoints.lora.adapted_source import adapted_source
from ninscope.checkpoints.pipelines import MODEL_FOLDERS
from ninscope.checkpoints.source_protocol import Source
from ninscope.errors import RequestError

# org/name, and of a diffusers pipeline also the folder of its model
_NAME = r"[A-Za-z0-9][\w.-]{0,95}"
_REPOSITORY = re.compile(rf"(?P<id>{_NAME}/{_NAME})(?:/(?P<folder>{'|'.join(MODEL_FOLDERS)}))?")


def open_source(source: str | Path, base: str | Path | None = None, base_revision: str | None = None) -> Source:
    """A folder if there is one of that name, else a Hub repository id, or the folder of a pipeline's model in one (org/name/unet).

    base: the source holds adapters, and each is merged into this model, a folder or a repository; base_revision: which revision
    of it, where there are several (a repository's is main). Raises RequestError when it is neither.
    """
    if base is not None:
        return adapted_source(open_source(source), open_source(base), base_revision)
    if base_revision is not None:
        raise RequestError("base_revision is of a base; name the base too")
    text = str(source)
    if not text.strip():
        raise RequestError("an empty name is no source; name a folder, or a Hub repository id (org/name)")
    try:
        folder = Path(text).expanduser()
        kind = "folder" if folder.is_dir() else "file" if folder.exists() else ""
    except (OSError, RuntimeError, ValueError):  # too long, an unknown user's home, a zero byte
        kind = ""
    if kind == "folder":
        return local_source(text, folder)
    if kind == "file":
        raise RequestError(f"{text} is a file; name the folder that holds config.json and the weights")
    named = None if text.startswith((".", "/", "~")) else _REPOSITORY.fullmatch(text)
    if named is None:
        raise RequestError(f"{text}: no such folder, and not a Hub repository id (org/name)")
    from ninscope.checkpoints.hub.repository import hub_source  # the client is slow to import and local work needs none

    return hub_source(named["id"], named["folder"] or "")
