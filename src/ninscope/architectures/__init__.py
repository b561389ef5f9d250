"""Which matrices join which node layers, from a checkpoint's config.json: one small module a model family."""

from ninscope.architectures import gpt_neox
from ninscope.architectures.layout import Architecture
from ninscope.errors import CheckpointError

FAMILIES = {gpt_neox.MODEL_TYPE: gpt_neox.architecture}


def architecture_of(config: dict) -> Architecture:
    """The architecture a config.json describes.

    Raises CheckpointError: unsupported (a model_type no module here knows), corrupt (sizes that make no sense).
    """
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise CheckpointError(
            "unsupported",
            f"config.json: model_type {family!r} is not supported; supported: {', '.join(sorted(FAMILIES))}",
        )
    return FAMILIES[family](config)
