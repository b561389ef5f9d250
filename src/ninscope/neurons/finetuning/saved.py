"""Where a fine-tune has got to, on disk: whole or not there, and without pickle."""

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of

_HEADER = "state"


class SavedState:
    """States in one folder, of which the last whole one counts: <step>-<sha256>.safetensors.

    What a process that dies leaves behind is a file that is not whole or has no such name, and is not taken for a state.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], facts: Mapping) -> None:
        """facts: JSON values. Earlier states go once this one is there. Raises OSError."""
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = bytes_of(whole, {_HEADER: json.dumps({"step": step, "facts": dict(facts)})})
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / f"{step}-{hashlib.sha256(content).hexdigest()}.safetensors"
        aside = self.folder / f".{uuid.uuid4().hex}"
        try:
            aside.write_bytes(content)
            aside.rename(place)
        except FileNotFoundError:  # another process has come to the end of the same fine-tune, and cleared its states
            return
        finally:
            aside.unlink(missing_ok=True)
        for path in self._listed():
            if path != place:
                path.unlink(missing_ok=True)

    def load(self) -> tuple[int, dict[str, torch.Tensor], dict] | None:
        """(step, tensors, facts) of the last state that is whole; None where there is none."""
        for path in self._listed():
            with suppress(OSError, ValueError, KeyError, SafetensorError, TypeError):
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() != path.stem.partition("-")[2]:
                    continue
                size = int.from_bytes(content[:8], "little")
                stored = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][_HEADER])
                return int(stored["step"]), tensors_of(content), dict(stored["facts"])
        return None

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _listed(self) -> list[Path]:
        """Files named as states are, the furthest first."""
        found = [path for path in self.folder.glob("*-*.safetensors") if path.name.partition("-")[0].isdecimal()]
        return sorted(found, key=lambda path: -int(path.name.partition("-")[0]))
