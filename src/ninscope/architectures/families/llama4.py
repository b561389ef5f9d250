"""Llama 4: a mixture of experts (families/moe.py), (10 + 3E)B + 1 node layers where every block has experts.

All experts of a block are in one tensor, [experts, in, out], gate and then up projection, and a shared expert stands beside them.
moe_layers, or interleave_moe_layer_step, says which blocks have experts; the others have a gated MLP of intermediate_size_mlp.
llama4 is the same decoder with a model of images before it, which is left out, as are token embedding and LM head.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.decoder_blocks import PREFIXES, Function, unturned_blocks
from ninscope.architectures.experts import expert_count
from ninscope.architectures.families.moe import Mixture, mixture_decoder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.errors import CheckpointError

NAMES = {"router": "layers.{}.feed_forward.router.weight"} | {
    part: f"layers.{{}}.feed_forward.experts.{part}_proj" for part in ("gate_up", "down")
}
DENSE = {part: f"layers.{{}}.feed_forward.{part}_proj.weight" for part in ("gate", "up", "down")}
SHARED = {part: f"layers.{{}}.feed_forward.shared_expert.{part}_proj.weight" for part in ("gate", "up", "down")}
HEAD_DIM = 128  # the library's, where config.json has none


@register("llama4_text", "llama4", gauge=True)
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    family = sizes.model_type(config, ("llama4_text", "llama4"))
    if family == "llama4_text":
        return _decoder(family, config, PREFIXES, "")
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        raise CheckpointError(
            "corrupt", f"config.json: text_config is {text!r}; the text model's settings were expected"
        )
    return _decoder(family, text, ("language_model.model.",), "left out: the model of images")


def _decoder(family: str, config: Mapping, prefixes: tuple[str, ...], note: str) -> Architecture:
    count = sizes.block_count(config)
    hidden = sizes.width(config, "intermediate_size")
    mixture = Mixture(
        expert_count(config, "num_local_experts", count),
        hidden,
        (NAMES,),
        order="transposed",
        shared=hidden,
        shared_names=SHARED,
        dense_key="intermediate_size_mlp",
        dense_names=DENSE,
    )
    function = Function(
        head_norms="head" if config.get("use_qk_norm", True) else "",
        bare_head_norms=True,
        unturned=unturned_blocks(config, count),
        interleaved=True,
    )
    return mixture_decoder(family, config, (), mixture, _sparse(config, count), HEAD_DIM, prefixes, note, function)


def _sparse(config: Mapping, count: int) -> set[int]:
    """Numbers of the blocks that have experts. Raises CheckpointError (corrupt)."""
    listed = config.get("moe_layers")
    if listed is None:
        step = sizes.positive_integer(config, "interleave_moe_layer_step", sizes.MAX_BLOCKS, 1)
        return set(range(step - 1, count, step))
    if not isinstance(listed, list) or not all(type(number) is int and 0 <= number < count for number in listed):
        raise CheckpointError(
            "corrupt", f"config.json: moe_layers is {listed!r}; a list of blocks' numbers was expected"
        )
    return set(listed)
