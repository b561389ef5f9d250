"""What a checkpoint is, told from its files' hashes without reading a weight: the first part of every content key."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

# What configurations of every family call a model's dimensions. Others differ between revisions for no reason of shape.
_DIMENSIONS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "n_embd", "n_inner", "n_layer", "n_head", "d_model", "d_ff", "n_layers", "n_heads", "mlp_hidden_size",
    "block_out_channels", "layers_per_block", "attention_head_dim", "cross_attention_dim", "transformer_layers_per_block",
    "num_layers", "caption_channels", "patch_size", "in_channels", "out_channels",
)  # fmt: skip

_MOST_LEVELS = 64


@dataclass(frozen=True)
class FileIdentity:
    """One weight file. digest: sha256 in hex, or `git-<blob id>` where a Hub states no more, or, where it states
    nothing at all, something that no other file has.

    stamp: (size, mtime_ns, ctime_ns) of a local file, by which a digest computed once can be trusted again; empty elsewhere.
    """

    name: str
    size: int
    digest: str
    stamp: tuple[int, ...] = ()

    @classmethod
    def of_json(cls, fields: Mapping) -> "FileIdentity":
        """From what became of one in a JSON file. Raises TypeError, KeyError where that makes no sense."""
        file = cls(fields["name"], fields["size"], fields["digest"], tuple(fields["stamp"]))
        types = type(file.name), type(file.size), type(file.digest), *map(type, file.stamp)
        if types != (str, int, str, *[int] * len(file.stamp)):
            raise TypeError(f"no file's identity: {file}")
        return file


@dataclass(frozen=True)
class Identity:
    """A revision's weight files.

    commit: where they lie at, in a Hub repository; beside: what else is read (configuration, index). shape: dimensions
    that the configuration states. folder: the subfolder of the revision that the files lie in (a pipeline's unet).
    settings_sha256: of an adapter's adapter_config.json, None of what is no adapter. base: what an adapter is merged into.
    wiring: digest of the wiring that the configuration implies, empty where it implies none by itself or nobody asked.
    settings_effect: sha256 of what in adapter_config.json numbers depend on. names_turned: it names modules that some families
    store [in, out], and does not say so. merging: how it is merged where earlier versions did otherwise, or empty.
    """

    revision: str
    step: int | None
    files: tuple[FileIdentity, ...]
    commit: str | None = None
    shape: tuple[tuple[str, int], ...] = ()
    beside: tuple[FileIdentity, ...] = ()
    folder: str = ""
    settings_sha256: str | None = None
    base: "Identity | None" = None
    wiring: str = ""
    settings_effect: str | None = None
    names_turned: bool = False
    merging: str = ""

    @property
    def content_sha256(self) -> str:
        """The weights' sha256: the file's own where there is one file (the Hub shows the same), else over `digest  name` lines.

        An adapter with a base has the sha256 of what both are and of how it is merged.
        """
        if self.base is not None:
            own = replace(self, base=None).content_sha256
            merged = (
                f"{own}  adapter\n{self.settings_sha256}  settings\n{self.base.content_sha256}  base\n{self.merging}"
            )
            return hashlib.sha256(merged.encode()).hexdigest()
        if len(self.files) == 1 and "-" not in self.files[0].digest:
            return self.files[0].digest
        lines = "".join(f"{file.digest}  {file.name}\n" for file in sorted(self.files, key=lambda file: file.name))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def all_files(self) -> tuple[FileIdentity, ...]:
        """With those of the base; no two have one name."""
        return self.files if self.base is None else (*self.files, *self.base.files)

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


def shape_of(config: Mapping) -> tuple[tuple[str, int], ...]:
    """The dimensions that a configuration states, by name; of a list of them (one a level), each by its place."""
    dimensions = []
    for name in _DIMENSIONS:
        value = config.get(name)
        if type(value) is int:
            dimensions.append((name, value))
        elif isinstance(value, list):
            levels = enumerate(value[:_MOST_LEVELS])
            dimensions += [(f"{name}[{level}]", number) for level, number in levels if type(number) is int]
    return tuple(dimensions)
