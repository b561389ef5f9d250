"""The state of an unfinished fine-tune, on disk: whole or not there, and without pickle."""

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
    """States in one folder, <step>-<sha256>.safetensors; the last whole one counts.

    A process that dies leaves a file that is not whole or has no such name; it is not taken for a state. A state may be as large
    as memory allows: neither saving nor loading makes a second copy of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], facts: Mapping) -> None:
        """tensors: of any shape and dtype, on any device; they may share memory. facts: JSON values.

        Earlier states go once this one is there. Raises OSError.
        """
        header = json.dumps({"step": step, "facts": dict(facts)})
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f".{uuid.uuid4().hex}"
        try:
            _write(aside, _apart(tensors), {_HEADER: header})
            state = self.folder / f"{step}-{_digest(aside)}.safetensors"
            aside.rename(state)
        except FileNotFoundError:  # another process has come to the end of the same fine-tune, and cleared its states
            return
        finally:
            aside.unlink(missing_ok=True)
        for path in self._listed():
            if path != state:
                path.unlink(missing_ok=True)

    def load(self) -> tuple[int, dict[str, torch.Tensor], dict] | None:
        """(step, tensors, facts) of the last state that is whole; None where there is none.

        tensors: on the CPU, with the shapes and dtypes that were saved. They may lie in the file and not in memory: copy a tensor
        to keep it for longer than the state.
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
        states = [path for path in self.folder.glob("*-*.safetensors") if path.name.partition("-")[0].isdecimal()]
        return sorted(states, key=lambda path: -int(path.name.partition("-")[0]))


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values on the CPU, no two in the same memory, as tied weights are; the file format refuses those."""
    apart, storages = {}, set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        if own.untyped_storage().data_ptr() in storages:
            own = own.clone()
        storages.add(own.untyped_storage().data_ptr())
        apart[name] = own
    return apart


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Raises OSError; FileNotFoundError where the folder is not there any more."""
    path.touch()
    mode = path.stat().st_mode  # the library may write a file that only its owner can read, and rename it to this one
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:  # the library turns an OSError into this; the number tells a full disk from others
        if not path.exists():
            raise FileNotFoundError(f"{path.parent}: cleared while a state was written to it") from None
        if (number := re.search(r"os error (\d+)", str(error))) is None:
            raise OSError(f"a state cannot be written: {error}") from None
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    path.chmod(mode)


def _digest(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal; few of them are in memory at a time. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
