"""Decoders of text: what llama and its like have in common, so that a family's module says where it differs and no more.

Node layers of a block: x, q, k, v, c, a, then the MLP's (transformer_blocks.py). With grouped-query attention k and v have
num_key_value_heads * head_dim neurons, and q and c have num_attention_heads * head_dim, which need not be hidden_size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.transformer_blocks import Names, attention, following, formatted, gated_mlp, mlp
from ninscope.errors import CheckpointError

PREFIXES = ("model.", "")
ATTENTION = {part: f"layers.{{}}.self_attn.{part}_proj.weight" for part in "qkvo"}
UP_AND_DOWN = {part: f"layers.{{}}.mlp.{part}_proj.weight" for part in ("up", "down")}
GATED_MLP = UP_AND_DOWN | {"gate": "layers.{}.mlp.gate_proj.weight"}
MAX_LINKS = 100_000  # from heads of v to heads of c, of all blocks


@dataclass(frozen=True)
class Heads:
    """Neurons of q and c, of k and v, and of one head."""

    queries: int
    values: int
    head_dim: int

    def attention(self, net: Builder, block: str, width: int, names: Names) -> None:
        """Add the node layers x, q, k, v, c and a of a block. names: as of `attention`."""
        attention(net, block, width, names, self.queries, self.values, self.head_dim)


def grouped_heads(config: Mapping, width: int, count: int, head_dim: int | None = None) -> Heads:
    """The sizes of `count` blocks' attention. head_dim: the library's, where config.json has none (default: heads share `width`).

    Raises CheckpointError (corrupt).
    """
    heads = sizes.width(config, "num_attention_heads")
    groups = sizes.width(config, "num_key_value_heads", default=heads)
    sizes.multiple(heads, "num_attention_heads", groups, "num_key_value_heads")
    if count * heads // groups > MAX_LINKS:
        raise CheckpointError(
            "corrupt",
            f"config.json: {heads} heads share {groups} key-value heads in each of {count} blocks, which takes more than "
            f"{MAX_LINKS} links",
        )
    if config.get("head_dim") is not None:
        head_dim = sizes.width(config, "head_dim")
    elif "head_dim" in config or head_dim is None:
        head_dim = sizes.multiple(width, "hidden_size", heads, "num_attention_heads")
    return Heads(heads * head_dim, groups * head_dim, head_dim)


def decoder(family: str, config: Mapping, names: Names, head_dim: int | None = None) -> Architecture:
    """A decoder whose blocks are alike: attention, then an MLP. Left out: token embedding and LM head.

    names: templates of the tensors "q", "k", "v" (or "qkv"), "o", "up", "down", and "gate" (or "gate_up" for "gate" and "up")
    where the MLP is gated. head_dim: as of `grouped_heads`. Raises CheckpointError (corrupt).
    """
    count = sizes.block_count(config)
    width = sizes.width(config)
    heads = grouped_heads(config, width, count, head_dim)
    hidden = sizes.width(config, "intermediate_size")
    add_mlp = gated_mlp if names.keys() & {"gate", "gate_up"} else mlp
    net = Builder(family, PREFIXES)
    for number in range(count):
        block, tensors = f"block{number}", formatted(names, number)
        heads.attention(net, block, width, tensors)
        add_mlp(net, block, hidden, following(number, count), tensors)
    net.layer("output", "x", width)
    return net.architecture()
