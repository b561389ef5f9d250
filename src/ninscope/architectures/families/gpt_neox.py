"""GPT-NeoX (Pythia): seven node layers a block (transformer_blocks.py) and the final residual, 7B+1 in all.

This is the network of NeuroMFA (section 4.1, Table 3), whose chain of layers has the MLP read a. Pythia's blocks are parallel:
attention and MLP both read x, and both add to the next x. That is the wiring "parallel". Single-layer results of the chain are
those of its matrices either way: a and x of a block are different node layers, and the edges' weights are the same.

query_key_value is fused head by head, [head, (q|k|v), head_dim]. Left out: token embedding and LM head.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.declarations import heads as declare_heads
from ninscope.architectures.declarations import plain_units, rotary_of
from ninscope.architectures.gauge import READ, Detour, Gain, Skip
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import attention, following, formatted, mlp
from ninscope.errors import CheckpointError

PREFIXES = ("gpt_neox.", "", "model.")
NAMES = {
    "qkv": "layers.{}.attention.query_key_value.weight",
    "o": "layers.{}.attention.dense.weight",
    "up": "layers.{}.mlp.dense_h_to_4h.weight",
    "down": "layers.{}.mlp.dense_4h_to_h.weight",
}


@register("gpt_neox", gauge=True)
def architecture(config: Mapping) -> Architecture:
    """The chain that config.json implies. Raises CheckpointError (corrupt)."""
    return _wired(config, mlp_reads="a")


@register("gpt_neox", wiring="parallel", gauge=True)
def parallel(config: Mapping) -> Architecture:
    """What Pythia's blocks do, so that x has 7d edges. Raises CheckpointError (corrupt, unsupported)."""
    if config.get("use_parallel_residual", True) is not True:
        raise CheckpointError(
            "unsupported",
            "config.json: use_parallel_residual is not true, so the blocks are a chain; leave wiring out",
        )
    return _wired(config, mlp_reads="x")


def _wired(config: Mapping, mlp_reads: str) -> Architecture:
    count = sizes.block_count(config)
    width = sizes.width(config)
    heads = sizes.width(config, "num_attention_heads")
    hidden = sizes.width(config, "intermediate_size")
    head_dim = sizes.multiple(width, "hidden_size", heads, "num_attention_heads")
    net = Builder("gpt_neox", PREFIXES)
    for number in range(count):
        block, names, after = f"block{number}", formatted(NAMES, number), following(number, count)
        attention(net, block, width, names, interleaved=head_dim, added_to=after)
        mlp(net, block, hidden, after, names, reads=mlp_reads, added="a")
        for norm, reader in (("input_layernorm", "qkv"), ("post_attention_layernorm", "up")):
            net.declare(Gain(f"layers.{number}.{norm}.weight", READ, (names[reader],), centred=True))
        declare_heads(net, block, head_dim, rotary_of(config, head_dim, "rotary_pct", 0.25))
        plain_units(net, block, config.get("hidden_act", "gelu"))
        if config.get("use_parallel_residual", True) is True:
            net.declare(*_detours(block, after, mlp_reads))
        else:  # the chain is the model's, but for the residual that its MLP reads too
            net.declare(Skip(f"{block}.x", f"{block}.a"))
    net.layer("output", "x", width)
    return net.architecture()


def _detours(block: str, after: str, mlp_reads: str) -> list[Detour]:
    """Where parallel blocks differ from the wiring: attention adds to the next x, and the MLP reads x."""
    x, a, c, m = (f"{block}.{part}" for part in "xacm")
    added = Detour(c, a, c, after)
    return [added] if mlp_reads == "x" else [added, Detour(a, m, x, m)]
