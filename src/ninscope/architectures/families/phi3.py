"""Phi-3: a llama (families/llama.py) with fused matrices, 9B+1 node layers.

qkv_proj holds q, then k, then v, and gate_up_proj the gate, then up. Left out: token embedding and LM head.
"""

from collections.abc import Mapping

from ninscope.architectures.decoder_blocks import ATTENTION, GATED_MLP, decoder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register

NAMES = {
    "qkv": "layers.{}.self_attn.qkv_proj.weight",
    "o": ATTENTION["o"],
    "gate_up": "layers.{}.mlp.gate_up_proj.weight",
    "down": GATED_MLP["down"],
}


@register("phi3", gauge=True)
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    return decoder("phi3", config, NAMES)
