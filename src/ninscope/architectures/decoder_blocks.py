"""Decoders of text: what llama and its like have in common, so that a family's module says where it differs and no more.

Node layers of a block: x, q, k, v, c, a, then the MLP's (transformer_blocks.py). With grouped-query attention k and v have
num_key_value_heads * head_dim neurons, and q and c have num_attention_heads * head_dim, which need not be hidden_size.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.declarations import added_norm, gated_units, plain_units, rms_norm, rotary_of
from ninscope.architectures.declarations import heads as declare_heads
from ninscope.architectures.gauge import HeadNorm
from ninscope.architectures.layout import Architecture
from ninscope.architectures.transformer_blocks import Names, attention, following, formatted, gated_mlp, mlp
from ninscope.errors import CheckpointError

PREFIXES = ("model.", "")
ATTENTION = {part: f"layers.{{}}.self_attn.{part}_proj.weight" for part in "qkvo"}
UP_AND_DOWN = {part: f"layers.{{}}.mlp.{part}_proj.weight" for part in ("up", "down")}
GATED_MLP = UP_AND_DOWN | {"gate": "layers.{}.mlp.gate_proj.weight"}
INPUT_NORM = "layers.{}.input_layernorm.weight"
AFTER_NORM = "layers.{}.post_attention_layernorm.weight"
HEAD_NORMS = ("layers.{}.self_attn.q_norm.weight", "layers.{}.self_attn.k_norm.weight")
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


@dataclass(frozen=True)
class Function:
    """What is known of the function of a decoder's blocks beside their wiring, as far as it differs from a llama's.

    attention_norm, mlp_norm: gains of RMSNorms before each part ("" where it reads the stream, or what has no gain).
    attention_added, mlp_added: gains of RMSNorms of what each part writes ("" for none). offset: of these, and of q's and k's.
    head_norms: "" for none, "head" where each head of q and k is normalised by itself, "all" where all are together.
    bare_head_norms: head_norms have no gains. unturned: numbers of the blocks whose q and k positions do not turn. interleaved:
    as in Rotary. clipped: as in Attention. units: whether a unit of the MLP may be rescaled.
    """

    attention_norm: str = INPUT_NORM
    mlp_norm: str = AFTER_NORM
    attention_added: str = ""
    mlp_added: str = ""
    offset: float = 0.0
    head_norms: str = ""
    bare_head_norms: bool = False
    unturned: Collection[int] = ()
    interleaved: bool = False
    clipped: bool = False
    units: bool = True

    def declare(self, net: Builder, config: Mapping, number: int, head_dim: int) -> None:
        """Say it of block `number`, whose parts were added."""
        block = f"block{number}"
        for tensor, part in ((self.attention_norm, "x"), (self.mlp_norm, "a")):
            if tensor:
                rms_norm(net, tensor.format(number), f"{block}.{part}", self.offset)
        hidden = [name for name in net.layers_of(block) if name.endswith(".m")]
        for tensor, written in ((self.attention_added, (f"{block}.c",)), (self.mlp_added, hidden)):
            if tensor:
                added_norm(net, tensor.format(number), *net.reading(*written), offset=self.offset)
        rotary = None if number in self.unturned else rotary_of(config, head_dim, interleaved=self.interleaved)
        declare_heads(net, block, head_dim, rotary, self._head_norms(number), clipped=self.clipped)
        if self.units:
            activation = next((config[key] for key in ("hidden_act", "hidden_activation") if config.get(key)), "silu")
            if f"{block}.g" in net.layers_of(block) or f"{block}.r" in net.layers_of(block):
                gated_units(net, block, activation)
            else:
                plain_units(net, block, activation)

    def _head_norms(self, number: int) -> tuple[HeadNorm, HeadNorm] | None:
        if not self.head_norms or (self.bare_head_norms and number in self.unturned):
            return None
        tensors = ("", "") if self.bare_head_norms else (name.format(number) for name in HEAD_NORMS)
        q, k = (HeadNorm(tensor, self.offset, self.head_norms == "head") for tensor in tensors)
        return q, k


LLAMA = Function()


def unturned_blocks(config: Mapping, count: int, every: int = 4) -> set[int]:
    """Numbers of the blocks without rotary embedding, as `no_rope_layers` lists them (1: with) or an interval says."""
    listed = config.get("no_rope_layers")
    if isinstance(listed, list) and len(listed) == count:
        return {number for number, turned in enumerate(listed) if not turned}
    interval = config.get("no_rope_layer_interval")
    every = interval if type(interval) is int and interval > 0 else every
    return {number for number in range(count) if (number + 1) % every == 0}


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


def decoder(
    family: str, config: Mapping, names: Names, head_dim: int | None = None, function: Function = LLAMA
) -> Architecture:
    """A decoder whose blocks are alike: attention, then an MLP. Left out: token embedding and LM head.

    names: templates of the tensors "q", "k", "v" (or "qkv"), "o", "up", "down", and "gate" (or "gate_up" for "gate" and "up")
    where the MLP is gated. head_dim: as of `grouped_heads`. function: of the blocks. Raises CheckpointError (corrupt).
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
        function.declare(net, config, number, heads.head_dim)
    net.layer("output", "x", width)
    return net.architecture()
