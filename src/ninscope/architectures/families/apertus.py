"""Apertus: a llama (families/llama.py) whose MLP has no gate, 7B+1 node layers. Left out: token embedding and LM head."""

from collections.abc import Mapping

from ninscope.architectures.decoder_blocks import ATTENTION, UP_AND_DOWN, decoder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register


@register("apertus")
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    return decoder("apertus", config, ATTENTION | UP_AND_DOWN)
