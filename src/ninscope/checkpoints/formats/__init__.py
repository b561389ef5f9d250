"""Formats of weight files: what their files are called, and which module reads them.

To add a format: a module here with `open_tensors`, and its entry in FORMATS. Names of files, indexes of shards, variants and
adapters follow from the entry.
"""

from dataclasses import dataclass
from importlib import import_module

from ninscope.checkpoints.formats.weight_file import Complaint, TensorEntry, WeightFile

MAX_NAME = 512
DIFFUSION_STEM, ADAPTER_STEM = "diffusion_pytorch_model", "adapter_model"


@dataclass(frozen=True)
class WeightFormat:
    """suffix: ends the names of its files. stem: begins the name of a model's single file, or of its index. others: what else
    ends the names of such files, where a trainer chose them.

    module: has `open_tensors(file)`, which returns the file's entries by tensor name, every offset checked, and the file to
    read them from, and raises CheckpointError. Imported when such a file is opened.
    """

    suffix: str
    stem: str
    module: str
    others: tuple[str, ...] = ()

    @property
    def suffixes(self) -> tuple[str, ...]:
        return self.suffix, *self.others

    @property
    def single_names(self) -> tuple[str, str]:
        """The names that a model's one file may have, the preferred one first."""
        return f"{self.stem}{self.suffix}", f"{DIFFUSION_STEM}{self.suffix}"


# A checkpoint that is there in several formats is read in the first.
FORMATS = (
    WeightFormat(".safetensors", "model", f"{__name__}.safetensors"),
    WeightFormat(".bin", "pytorch_model", f"{__name__}.torch_zip", (".pt", ".pth", ".ckpt")),
)


def open_tensors(file: WeightFile) -> tuple[dict[str, TensorEntry], WeightFile]:
    """The tensors of a weight file by name, and the file to read them from. Raises CheckpointError.

    Names go into tables, figures and messages: one that is no text, or endless, is no tensor's name.
    """
    chosen = next((known for known in FORMATS if file.name.endswith(known.suffixes)), FORMATS[0])
    entries, opened = import_module(chosen.module).open_tensors(file)
    for name in entries:
        if len(name) > MAX_NAME:
            raise Complaint(file.name).corrupt(f"a tensor's name has {len(name)} characters ({name[:40]}...)")
        if not _is_utf8(name):
            raise Complaint(file.name).corrupt(f"the tensor's name {name!r} is not UTF-8")
    return entries, opened


def _is_utf8(name: str) -> bool:
    """Whether a name can be written: a JSON header may spell half of a surrogate pair."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
