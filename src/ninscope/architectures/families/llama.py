"""Llama and its like: nine node layers a block (transformer_blocks.py) and the final residual, 9B+1 in all.

A block's node layers: x, q, k, v, c, a, and the gated MLP's gate g, up projection u, hidden m = act(g) * u. What tells these
families from each other joins no neurons (normalisation, positions, windows of attention, scales) but for the size of a head.
gemma3 and mistral3 have such a text model beside one of images, and that alone is read. Left out: token embedding and LM head.
"""

from collections.abc import Mapping
from dataclasses import replace

from ninscope.architectures import sizes
from ninscope.architectures.decoder_blocks import (
    AFTER_NORM,
    ATTENTION,
    GATED_MLP,
    INPUT_NORM,
    LLAMA,
    Function,
    decoder,
    unturned_blocks,
)
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register, register_wrapper

# The library's size of a head where config.json has none; None: heads share hidden_size.
HEAD_DIM = dict.fromkeys(("llama", "mistral", "qwen2", "olmo2", "olmo3", "smollm3", "granite"))
HEAD_DIM |= {"qwen3": 128, "ministral3": 128, "gemma": 256, "gemma2": 256, "gemma3_text": 256}
# The library's, which the files of Gemma 3 leave out where they have the same.
GEMMA3 = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}

# Where normalisations stand: OLMo's behind each part alone, those of later Gemmas before and behind it.
BEFORE_MLP, BEHIND_MLP = (f"layers.{{}}.{place}_feedforward_layernorm.weight" for place in ("pre", "post"))
OLMO = Function("", "", AFTER_NORM, BEHIND_MLP, head_norms="all")
GEMMA = Function(INPUT_NORM, BEFORE_MLP, AFTER_NORM, BEHIND_MLP, offset=1.0)
FUNCTIONS = {
    "qwen3": Function(head_norms="head"),
    "olmo2": OLMO,
    "olmo3": OLMO,
    "gemma": Function(offset=1.0),
    "gemma2": GEMMA,
    "gemma3_text": replace(GEMMA, head_norms="head"),
}


@register(*HEAD_DIM, gauge=True)
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    family = sizes.model_type(config, HEAD_DIM)
    return decoder(family, config, ATTENTION | GATED_MLP, HEAD_DIM[family], _function(family, config))


def _function(family: str, config: Mapping) -> Function:
    if family == "smollm3":
        return Function(unturned=unturned_blocks(config, sizes.block_count(config)))
    return FUNCTIONS.get(family, LLAMA)


register_wrapper("gemma3", "gemma3_text", GEMMA3)
register_wrapper("mistral3", "mistral")
