"""Apertus: a llama (families/llama.py) whose MLP has no gate, 7B+1 node layers. Left out: token embedding and LM head."""

from collections.abc import Mapping

from ninscope.architectures.decoder_blocks import ATTENTION, UP_AND_DOWN, Function, decoder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register

FUNCTION = Function(
    attention_norm="layers.{}.attention_layernorm.weight",
    mlp_norm="layers.{}.feedforward_layernorm.weight",
    head_norms="head",
    units=False,  # xIELU is not homogeneous
)


@register("apertus", gauge=True)
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    return decoder("apertus", config, ATTENTION | UP_AND_DOWN, function=FUNCTION)
