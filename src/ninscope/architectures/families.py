"""Every known family, by `model_type` (transformers, own) or `_class_name` (diffusers), and what knows its wiring."""

from collections.abc import Callable, Mapping

from ninscope.architectures import bert, convgru, dit, gpt2, gpt_neox, llama, moe, opt, resnet, swin, unet, vit
from ninscope.architectures.layout import Architecture

TRANSFORMERS: dict[str, Callable[..., Architecture]] = {
    module.MODEL_TYPE: module.architecture for module in (gpt_neox, gpt2, opt, resnet, swin, vit)
}
TRANSFORMERS |= {name: module.architecture for module in (bert, llama, moe) for name in module.MODEL_TYPES}
DIFFUSERS: dict[str, Callable[[Mapping], Architecture]] = {
    "UNet2DModel": unet.unconditional,
    "UNet2DConditionModel": unet.conditional,
    "DiTTransformer2DModel": dit.dit,
    "PixArtTransformer2DModel": dit.pixart,
    "Transformer2DModel": dit.by_norm,
}
# Models that this package has itself.
OWN: dict[str, Callable[[Mapping], Architecture]] = {convgru.MODEL_TYPE: convgru.architecture}
FAMILIES = TRANSFORMERS | DIFFUSERS | OWN
# Their files name tensors in one of several ways: architecture(config, names of the tensors) finds out which.
SPELLED = frozenset((swin.MODEL_TYPE, vit.MODEL_TYPE, "UNet2DModel", *moe.MODEL_TYPES))
# What is not the paper's chain of layers but what the model does.
PARALLEL: dict[str, Callable[[Mapping], Architecture]] = {gpt_neox.MODEL_TYPE: gpt_neox.parallel}
