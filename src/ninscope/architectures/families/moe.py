"""Mixtures of experts: each expert has node layers of its own, side by side, and so has the router.

A block's node layers: x, q, k, v, c, a (transformer_blocks.py), the router's r and three for each expert (experts.py): 7 + 3E with
E experts. A shared expert, which every token asks, has g, u and m besides, and in Qwen's a gate of its own, shared.r, of one
neuron. Blocks without experts are a llama's (families/llama.py). Left out: token embedding and LM head.

A file stores each expert by itself (the Hub's files, and what save_pretrained writes by default), or all experts of a block in one
tensor [experts, out, in], with gate and up projection one after the other (Granite's always).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder, spelling
from ninscope.architectures.decoder_blocks import ATTENTION, GATED_MLP, LLAMA, PREFIXES, Function, grouped_heads
from ninscope.architectures.experts import expert_count, experts
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import Names, following, formatted, gated, gated_mlp

ROUTER = {"router": "layers.{}.mlp.gate.weight"}
FUSED = ROUTER | {
    "gate_up": "layers.{}.mlp.experts.gate_up_proj",
    "down": "layers.{}.mlp.experts.down_proj",
}
BY_ITSELF = ROUTER | {part: f"layers.{{}}.mlp.experts.{{}}.{part}_proj.weight" for part in ("gate", "up", "down")}
MIXTRAL = {"router": "layers.{}.block_sparse_moe.gate.weight"} | {
    part: f"layers.{{}}.block_sparse_moe.experts.{{}}.{name}.weight"
    for part, name in (("gate", "w1"), ("up", "w3"), ("down", "w2"))
}
GRANITE = {"router": "layers.{}.block_sparse_moe.router.layer.weight"} | {
    part: f"layers.{{}}.block_sparse_moe.{name}_linear.weight"
    for part, name in (("gate_up", "input"), ("down", "output"))
}
GRANITE_FUSED = {"router": "layers.{}.block_sparse_moe.router.weight"} | {
    part: f"layers.{{}}.block_sparse_moe.experts.{part}_proj" for part in ("gate_up", "down")
}


@dataclass(frozen=True)
class Mixture:
    """The experts of a model's blocks: how many, the hidden neurons of each, and the ways in which files name their tensors.

    order, interleaved: as of `experts`. shared: hidden neurons of the expert that every token asks (default: none).
    shared_names: its tensors "gate", "up" and "down", and "router" where it has a gate of its own. dense_key, dense_names: of the
    gated MLP of blocks without experts, which key of config.json gives its hidden neurons, and its tensors.
    """

    count: int
    hidden: int
    spellings: tuple[Names, ...] = (BY_ITSELF, FUSED)
    order: str = "linear"
    interleaved: int = 0
    shared: int = 0
    shared_names: Names | None = None
    dense_key: str = "intermediate_size"
    dense_names: Names = field(default_factory=lambda: GATED_MLP)

    def spelled(self, names: Collection[str], prefixes: Sequence[str], numbers: Collection[int]) -> Names:
        """The templates that a file of these names follows. numbers: of the blocks that have experts."""
        return spelling(names, prefixes, self.spellings, ((number, 0) for number in numbers))

    def add(self, net: Builder, number: int, after: str, templates: Names) -> None:
        """Add router and experts of block `number`, which lead from its a to `after`."""
        block = f"block{number}"
        net.link(f"{block}.a", after, skip=True)
        names = formatted(templates, number, "{}")
        experts(net, block, self.count, self.hidden, after, names, self.order, self.interleaved)
        if self.shared and self.shared_names:
            tensors = formatted(self.shared_names, number)
            gated(net, block, self.shared, after, tensors, "shared")
            if "router" in tensors:
                net.join(f"{block}.a", net.layer(block, "shared.r", 1, "router"), tensors["router"])


def sparse_decoder(
    net: Builder,
    config: Mapping,
    names: Collection[str],
    mixture: Mixture,
    sparse: Collection[int],
    add_attention: Callable[[str, int], None],
) -> None:
    """Add all blocks: attention, and experts in the blocks of these numbers, a gated MLP in the others.

    add_attention: adds node layers x to a of a block, of its name and number. Raises CheckpointError (corrupt).
    """
    count = sizes.block_count(config)
    dense = sizes.width(config, mixture.dense_key) if len(sparse) < count else 0
    templates = mixture.spelled(names, net.prefixes, sorted(sparse))
    for number in range(count):
        block, after = f"block{number}", following(number, count)
        add_attention(block, number)
        if number in sparse:
            mixture.add(net, number, after, templates)
        else:
            gated_mlp(net, block, dense, after, formatted(mixture.dense_names, number))
    net.layer("output", "x", sizes.width(config))


def mixture_decoder(
    family: str,
    config: Mapping,
    names: Collection[str],
    mixture: Mixture,
    sparse: Collection[int],
    head_dim: int | None = None,
    prefixes: Sequence[str] = PREFIXES,
    note: str = "",
    function: Function = LLAMA,
) -> Architecture:
    """A decoder with a llama's attention. sparse: as of `sparse_decoder`. head_dim: as of `grouped_heads`. prefixes, note: as in
    Architecture. function: of the blocks.

    Raises CheckpointError (corrupt).
    """
    count, width = sizes.block_count(config), sizes.width(config)
    heads = grouped_heads(config, width, count, head_dim)
    net = Builder(family, prefixes)

    def add_attention(block: str, number: int) -> None:
        heads.attention(net, block, width, formatted(ATTENTION, number))

    sparse_decoder(net, config, names, mixture, sparse, add_attention)
    for number in range(count):
        function.declare(net, config, number, heads.head_dim)
    return net.architecture(note)


# By model_type: the key that gives the number of experts, and the ways in which files name their tensors.
MODEL_TYPES = {
    "mixtral": ("num_local_experts", (MIXTRAL, FUSED)),
    "olmoe": ("num_experts", (BY_ITSELF, FUSED)),
    "granitemoe": ("num_local_experts", (GRANITE, GRANITE_FUSED)),
}


@register(*MODEL_TYPES, needs_names=True, gauge=True)
def architecture(config: Mapping, names: Collection[str]) -> Architecture:
    """The wiring that config.json implies, for a file with tensors of these names. Raises CheckpointError (corrupt)."""
    family = sizes.model_type(config, MODEL_TYPES)
    key, spellings = MODEL_TYPES[family]
    count = sizes.block_count(config)
    mixture = Mixture(expert_count(config, key, count), sizes.width(config, "intermediate_size"), spellings)
    normed = Function(head_norms="all", clipped=config.get("clip_qkv") is not None)
    function = normed if family == "olmoe" else LLAMA
    return mixture_decoder(family, config, names, mixture, range(count), function=function)
