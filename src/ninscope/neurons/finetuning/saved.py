"""Where a fine-tune has got to, on disk: whole or not there, and without pickle."""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_HEADER = "state"


class SavedState:
    """States in one folder, of which the last whole one counts: <step>-<sha256>.safetensors.

    What a process that dies leaves behind is a file that is not whole or has no such name, and is not taken for a state. A state
    may be as large as memory allows: neither way is there a second copy of it.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], facts: Mapping) -> None:
        """tensors: of any shape and dtype, on any device; they may share memory. facts: JSON values.

        Earlier states go once this one is there. Raises OSError.
        """
        stated = json.dumps({"step": step, "facts": dict(facts)})
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f".{uuid.uuid4().hex}"
        try:
            _write(aside, _apart(tensors), {_HEADER: stated})
            place = self.folder / f"{step}-{_digest(aside)}.safetensors"
            aside.rename(place)
        except FileNotFoundError:  # another process has come to the end of the same fine-tune, and cleared its states
            return
        finally:
            aside.unlink(missing_ok=True)
        for path in self._listed():
            if path != place:
                path.unlink(missing_ok=True)

    def load(self) -> tuple[int, dict[str, torch.Tensor], dict] | None:
        """(step, tensors, facts) of the last state that is whole; None where there is none.

        tensors: on the CPU, of the shapes and dtypes that were saved. They may lie in the file and not in memory: who keeps one
        for longer than the state copies it.
        """
        for path in self._listed():
            with suppress(OSError, ValueError, KeyError, SafetensorError, TypeError):
                if _digest(path) != path.stem.partition("-")[2]:
                    continue
                with safe_open(path, framework="pt") as file:
                    stored = json.loads(file.metadata()[_HEADER])
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
                return int(stored["step"]), tensors, dict(stored["facts"])
        return None

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _listed(self) -> list[Path]:
        """Files named as states are, the furthest first."""
        found = [path for path in self.folder.glob("*-*.safetensors") if path.name.partition("-")[0].isdecimal()]
        return sorted(found, key=lambda path: -int(path.name.partition("-")[0]))


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values on the CPU, no two in the same memory: tied weights are, and the file format refuses them."""
    found, storages = {}, set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        if own.untyped_storage().data_ptr() in storages:
            own = own.clone()
        storages.add(own.untyped_storage().data_ptr())
        found[name] = own
    return found


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Raises OSError; FileNotFoundError where the folder is not there any more."""
    path.touch()
    mode = path.stat().st_mode  # the library may write a file that nobody else can read, and rename it to this one
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:  # what the library makes of an OSError, whose number tells a full disk from others
        if not path.exists():
            raise FileNotFoundError(f"{path.parent}: cleared while a state was written to it") from None
        if (number := re.search(r"os error (\d+)", str(error))) is None:
            raise OSError(f"a state cannot be written: {error}") from None
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    path.chmod(mode)


def _digest(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal, of which few are in memory at a time. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
