"""What the files of a checkpoint are called, and what their names tell: its weights, its configuration, an adapter, a pipeline."""

import re
from collections.abc import Callable, Collection

from ninscope.checkpoints.formats import ADAPTER_STEM, DIFFUSION_STEM, FORMATS
from ninscope.checkpoints.other_layouts import other_layout
from ninscope.errors import CheckpointError

# The files that weights come in, the first that is there being taken: one file, or an index of shards.
WEIGHT_NAMES = tuple((name, f"{name}.index.json") for known in FORMATS for name in known.single_names)
_SUFFIXES = "|".join(re.escape(known.suffix) for known in FORMATS)
_STEMS = "|".join(dict.fromkeys((*(known.stem for known in FORMATS), DIFFUSION_STEM)))
# Where none of them is there: one that says what it is a variant of, such as model.fp16.safetensors, if it is the only one.
_VARIANT = re.compile(rf"({_STEMS})(?:\.(?P<single>\w+)({_SUFFIXES})|({_SUFFIXES})\.index\.(?P<index>\w+)\.json)")
CONFIG_NAME = "config.json"
# A LoRA adapter as peft saves it: no weights of its base, only what the base is called.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_NAMES = tuple(f"{ADAPTER_STEM}{known.suffix}" for known in FORMATS)
# A diffusers pipeline: its denoising model lies in one of these folders.
PIPELINE_NAME = "model_index.json"
MODEL_FOLDERS = ("unet", "transformer")
CONFIG_NAMES = (CONFIG_NAME, ADAPTER_CONFIG)
# litgpt's own file, whose tensors have other names than those of the model that config.json beside it describes.
LITGPT_NAME = "lit_model.pth"
CHECKPOINT_NAMES = (*CONFIG_NAMES, *(name for names in WEIGHT_NAMES for name in names), *ADAPTER_NAMES, LITGPT_NAME)
WEIGHT_SUFFIXES = tuple(suffix for known in FORMATS for suffix in known.suffixes)
# What trainers write beside weights in files of the same suffixes.
_BESIDE = re.compile(
    r"(optimizer|scheduler|scaler|training_args|trainer_state|rng_state|random_states|custom_checkpoint|sampler|dataloader).*"
    r"|.*(optim_states|_optimizer)\..*|\..*",
    re.IGNORECASE,
)


def is_weight_file(name: str) -> bool:
    """Whether a file of this name is taken for a model's weights, all of them, where nothing else says what is."""
    return name.endswith(WEIGHT_SUFFIXES) and not _BESIDE.fullmatch(name) and not other_layout([name])


def weight_names(present: Collection[str]) -> tuple[str, str]:
    """(the one weight file, or "", the index of shards, or "") of a checkpoint, from the names of the files there.

    An adapter's file where there are no weights of a model; a file of any name where it is the only one that may hold weights.
    Raises CheckpointError: missing (there is none), unsupported (there are only variants, or files of other names, and several
    of them; or the layout of another program).
    """
    if is_adapter(present):
        return next(name for name in ADAPTER_NAMES if name in present), ""
    for single, index in WEIGHT_NAMES:
        if single in present:
            return single, ""
        if index in present:
            return "", index
    if (variant := _only_variant(present)) is not None:
        return variant
    if ADAPTER_CONFIG in present:
        raise CheckpointError(
            "missing", f"{ADAPTER_CONFIG}, but no {ADAPTER_NAMES[0]}; the adapter's weights are absent"
        )
    if clause := other_layout(present):
        raise CheckpointError("unsupported", clause)
    loose = sorted(filter(is_weight_file, present))
    if len(loose) > 1:
        listed = ", ".join(loose[:3]) + ", ..." * (len(loose) > 3)
        raise CheckpointError("unsupported", f"several files of weights ({listed}); name one of them")
    if loose:
        return loose[0], ""
    single, index = WEIGHT_NAMES[0]
    others = " or ".join(name for name, _ in WEIGHT_NAMES[1:])
    raise CheckpointError(
        "missing", f"no {single} and no {index}, nor {others}; the weights are absent or in another format"
    )


def _only_variant(present: Collection[str]) -> tuple[str, str] | None:
    """As `weight_names`, of a checkpoint that is there as a variant alone; None where there is no variant."""
    variants = {name: match for name in sorted(present) if (match := _VARIANT.fullmatch(name)) is not None}
    # The same weights in two formats are one variant.
    preferred = next((known for known in FORMATS if any(known.suffix in name for name in variants)), FORMATS[0])
    variants = {name: match for name, match in variants.items() if preferred.suffix in name}
    if len(variants) > 1:
        raise CheckpointError(
            "unsupported",
            f"weights only as variants, and several ({', '.join(variants)}); keep one, or name it {WEIGHT_NAMES[0][0]}",
        )
    for name, match in variants.items():
        return (name, "") if match["single"] else ("", name)
    return None


def is_adapter(present: Collection[str]) -> bool:
    """Whether these files are an adapter's alone: with weights of a model beside them they are that model's."""
    if ADAPTER_CONFIG not in present or not any(name in present for name in ADAPTER_NAMES):
        return False
    has_model = any(name in present for names in WEIGHT_NAMES for name in names)
    return not has_model and not any(map(_VARIANT.fullmatch, present))


def config_name(present: Collection[str]) -> str:
    """The file that says what the weights are."""
    return ADAPTER_CONFIG if is_adapter(present) else CONFIG_NAME


def model_folder(has: Callable[[str], bool], stepped: bool = False) -> str:
    """The subfolder whose checkpoint is meant by a folder that is a pipeline; "" where the folder is meant itself.

    has: whether a file is there, by its path in the folder. stepped: its name states a step; such a folder, which a trainer
    wrote, needs no model_index.json to be a pipeline.
    """
    if has(CONFIG_NAME) or not (stepped or has(PIPELINE_NAME)):
        return ""
    return next((name for name in MODEL_FOLDERS if has(f"{name}/{CONFIG_NAME}")), "")
