"""Mixtures of experts (mixtral, olmoe): each expert has node layers of its own, side by side, and so has the router.

A block's node layers: x, q, k, v, c, a (transformer_blocks.py), the router's r and three for each expert (experts.py): 7 + 3E with
E experts. Left out: token embedding and LM head.

A file stores each expert by itself (the Hub's files, and what save_pretrained writes by default), or all experts of a block in one
tensor [experts, out, in], with gate and up projection one after the other.
"""

from collections.abc import Collection, Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder, spelling
from ninscope.architectures.experts import expert_count, experts
from ninscope.architectures.families.llama import ATTENTION, PREFIXES, grouped_heads
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import attention, following, formatted

FUSED = {
    "router": "layers.{}.mlp.gate.weight",
    "gate_up": "layers.{}.mlp.experts.gate_up_proj",
    "down": "layers.{}.mlp.experts.down_proj",
}
OLMOE = {"router": "layers.{}.mlp.gate.weight"} | {
    part: f"layers.{{}}.mlp.experts.{{}}.{part}_proj.weight" for part in ("gate", "up", "down")
}
MIXTRAL = {"router": "layers.{}.block_sparse_moe.gate.weight"} | {
    part: f"layers.{{}}.block_sparse_moe.experts.{{}}.{name}.weight"
    for part, name in (("gate", "w1"), ("up", "w3"), ("down", "w2"))
}
# By model_type: the key that gives the number of experts, and the ways in which files name their tensors.
MODEL_TYPES = {"mixtral": ("num_local_experts", (MIXTRAL, FUSED)), "olmoe": ("num_experts", (OLMOE, FUSED))}


@register(*MODEL_TYPES, needs_names=True)
def architecture(config: Mapping, names: Collection[str]) -> Architecture:
    """The wiring that config.json implies, for a file with tensors of these names. Raises CheckpointError (corrupt)."""
    family = sizes.model_type(config, MODEL_TYPES)
    key, spellings = MODEL_TYPES[family]
    count = sizes.block_count(config)
    width = sizes.width(config)
    queries, values, head_dim = grouped_heads(config, width, count)
    hidden = sizes.width(config, "intermediate_size")
    expert_number = expert_count(config, key, count)
    templates = spelling(names, PREFIXES, spellings, ((number, 0) for number in range(count)))
    net = Builder(family, PREFIXES)
    for number in range(count):
        block, after = f"block{number}", following(number, count)
        attention(net, block, width, formatted(ATTENTION, number), queries, values, head_dim)
        net.link(f"{block}.a", after, skip=True)
        experts(net, block, expert_number, hidden, after, formatted(templates, number, "{}"))
    net.layer("output", "x", width)
    return net.architecture()
