"""Which matrices join which node layers, from a checkpoint's config.json: one small module a model family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ninscope.architectures import dit, gpt_neox, unet
from ninscope.architectures.layout import CONVOLUTIONS, Architecture
from ninscope.checkpoints.tensors import Tensor
from ninscope.errors import CheckpointError, RequestError

# By `model_type` (transformers) or `_class_name` (diffusers).
FAMILIES: dict[str, Callable[[Mapping], Architecture]] = {gpt_neox.MODEL_TYPE: gpt_neox.architecture}
FAMILIES |= {"UNet2DModel": unet.unconditional, "UNet2DConditionModel": unet.conditional}
FAMILIES |= {
    "DiTTransformer2DModel": dit.dit,
    "PixArtTransformer2DModel": dit.pixart,
    "Transformer2DModel": dit.by_norm,
}
# What is not the paper's chain of layers but what the model does.
PARALLEL: dict[str, Callable[[Mapping], Architecture]] = {gpt_neox.MODEL_TYPE: gpt_neox.parallel}
WIRINGS = ("chain", "parallel")


@dataclass(frozen=True)
class Reading:
    """How a checkpoint's tensors become a network, as far as the user chooses.

    convolutions: "norm", a kernel is one edge whose weight is the kernel's Euclidean norm, or "per_tap", an edge for each of its
    weights. wiring: "chain", the paper's, or "parallel", GPT-NeoX's true one, in which MLP and attention both read x.
    """

    convolutions: str = "norm"
    wiring: str = "chain"

    def checked(self) -> "Reading":
        """Itself. Raises RequestError."""
        for name, known in (("convolutions", CONVOLUTIONS), ("wiring", WIRINGS)):
            if getattr(self, name) not in known:
                raise RequestError(f"{name} is {getattr(self, name)!r}; one of {', '.join(known)}")
        return self


def architecture_of(
    config: Mapping, tensors: Mapping[str, Tensor] | None = None, reading: Reading = Reading()
) -> Architecture:
    """The architecture a config.json describes.

    Raises CheckpointError: unsupported (a model_type no module here knows, weights that are packed), corrupt (sizes that make
    no sense).
    """
    families = PARALLEL if reading.wiring == "parallel" else FAMILIES
    family = config.get("model_type", config.get("_class_name"))
    if not isinstance(family, str) or family not in families:
        raise CheckpointError(
            "unsupported",
            f"config.json: model_type {family!r} is not supported; supported: {', '.join(sorted(families))}",
        )
    return families[family](config).with_convolutions(reading.convolutions)
