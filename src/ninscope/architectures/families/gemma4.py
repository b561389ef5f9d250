"""Gemma 4's text model: a llama (families/llama.py) with several kinds of blocks, 9B+1 node layers, or 13B+1.

- Blocks of full attention have heads of their own size, and, with attention_k_eq_v, no v: what k gives is the value too.
- The last num_kv_shared_layers blocks have neither k nor v: they read those of the last block before with the same kind of
  attention.
- With inputs per layer a block has four layers more: b, the residual behind the MLP; pi, made of block0.x; its gate pg, made of b;
  pm = act(pg) * pi, which leads to x of the next block.
- With enable_moe_block a router and experts (experts.py) stand beside the MLP. Both read a.

gemma4 is the same beside models of images and sound, which are left out, as are token embeddings, also those of each layer, and LM
head.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.decoder_blocks import ATTENTION, GATED_MLP, PREFIXES, Heads, grouped_heads
from ninscope.architectures.experts import expert_count, experts
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register, register_wrapper
from ninscope.architectures.transformer_blocks import following, formatted, gated_mlp
from ninscope.errors import CheckpointError

NAMES = (
    ATTENTION
    | GATED_MLP
    | {
        "router": "layers.{}.router.proj.weight",
        "gate_up": "layers.{}.experts.gate_up_proj",
        "experts_down": "layers.{}.experts.down_proj",
        "input_gate": "layers.{}.per_layer_input_gate.weight",
        "projection": "layers.{}.per_layer_projection.weight",
    }
)
INPUTS = "per_layer_model_projection.weight"
FULL, SLIDING = "full_attention", "sliding_attention"
HEAD_DIM, FULL_HEAD_DIM, INPUT, EVERY = 256, 512, 256, 6  # the library's, where config.json has none


@dataclass(frozen=True)
class _Attention:
    """One block's. key_is_value: it has no v. source: the block whose k and v it reads, "" for its own."""

    heads: Heads
    key_is_value: bool
    source: str

    def add(self, net: Builder, block: str, width: int, names: Mapping[str, str]) -> None:
        """Add the node layers x to a of a block, as far as it has them."""
        x = net.layer(block, "x", width, "attention")
        q = net.layer(block, "q", self.heads.queries, "attention", "attention")
        value = "k" if self.key_is_value else "v"
        own = [] if self.source else ["k"] if self.key_is_value else ["k", "v"]
        net.join(x, q, names["q"])
        for part in own:
            net.join(x, net.layer(block, part, self.heads.values, "attention", "values"), names[part])
        c = net.layer(block, "c", self.heads.queries, "attention", "attention")
        a = net.layer(block, "a", width, "mlp")
        net.join(c, a, names["o"])
        readers = self.heads.queries // self.heads.values
        for reader in range(readers):
            net.link(f"{self.source or block}.{value}", c, part=reader, parts=readers, group=self.heads.head_dim)
        net.link(x, a, skip=True)


@register("gemma4_text")
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    count, width = sizes.block_count(config), sizes.width(config)
    kinds, shared = _kinds(config, count), _zero_or(config, "num_kv_shared_layers", count - 1, 0)
    sources = _sources(kinds, count - shared)
    hidden = sizes.width(config, "intermediate_size")
    wide = 2 if sizes.flag(config, "use_double_wide_mlp") else 1
    inputs = _zero_or(config, "hidden_size_per_layer_input", sizes.MAX_WIDTH, INPUT)
    mixed = expert_count(config, "num_experts", count) if sizes.flag(config, "enable_moe_block") else 0
    net = Builder("gemma4_text", PREFIXES)
    for number in range(count):
        block, names, after = f"block{number}", formatted(NAMES, number), following(number, count)
        _attention(config, number, kinds[number], sources[number], width).add(net, block, width, names)
        behind = net.layer(block, "b", width, "mlp") if inputs else after
        plain = {part: names[part] for part in ("gate", "up", "down")}
        gated_mlp(net, block, hidden * (wide if sources[number] != number else 1), behind, plain)
        if mixed:
            stacked = {"router": names["router"], "gate_up": names["gate_up"], "down": names["experts_down"]}
            experts(net, block, mixed, sizes.width(config, "moe_intermediate_size"), behind, stacked)
        if inputs:
            _input(net, block, inputs, after, names)
    if inputs:
        net.join("block0.x", [f"block{number}.pi" for number in range(count)], INPUTS)
    net.layer("output", "x", width)
    return net.architecture()


def _input(net: Builder, block: str, size: int, after: str, names: Mapping[str, str]) -> None:
    gate, given, gated = (net.layer(block, part, size, "mlp", "input") for part in ("pg", "pi", "pm"))
    net.join(f"{block}.b", gate, names["input_gate"])
    net.join(gated, after, names["projection"])
    net.link(gate, gated)
    net.link(given, gated)
    net.link(f"{block}.b", after, skip=True)


def _attention(config: Mapping, number: int, kind: str, source: int, width: int) -> _Attention:
    """source: the block whose k and v block `number` reads. Raises CheckpointError (corrupt)."""
    count, key_is_value = sizes.block_count(config), sizes.flag(config, "attention_k_eq_v")
    heads = grouped_heads({**config, **_overrides(config, number, kind, key_is_value)}, width, count, HEAD_DIM)
    return _Attention(heads, key_is_value and kind == FULL, "" if source == number else f"block{source}")


def _sources(kinds: list[str], own: int) -> list[int]:
    """For each block the one whose k and v it reads. own: how many have theirs. Raises CheckpointError (corrupt)."""
    last = {kind: number for number, kind in enumerate(kinds[:own])}
    missing = next((number for number in range(own, len(kinds)) if kinds[number] not in last), None)
    if missing is not None:
        raise CheckpointError(
            "corrupt", f"config.json: no block with k and v of its own has {kinds[missing]}, as block {missing} has"
        )
    return [number if number < own else last[kind] for number, kind in enumerate(kinds)]


def _overrides(config: Mapping, number: int, kind: str, key_is_value: bool) -> Mapping:
    """What a block has instead of config.json's head_dim and num_key_value_heads. Raises CheckpointError (corrupt)."""
    listed = config.get("per_layer_config")
    if listed is not None:
        values = listed.get(str(number), {}) if isinstance(listed, Mapping) else None
        if not isinstance(values, Mapping):
            raise CheckpointError(
                "corrupt", f"config.json: per_layer_config is {listed!r}; sizes by block were expected"
            )
        return {key: values[key] for key in ("head_dim", "num_key_value_heads") if key in values}
    if kind != FULL:
        return {}
    stated = {"head_dim": sizes.width(config, "global_head_dim", FULL_HEAD_DIM)}
    if key_is_value and config.get("num_global_key_value_heads") is not None:
        stated["num_key_value_heads"] = sizes.width(config, "num_global_key_value_heads")
    return stated


def _kinds(config: Mapping, count: int) -> list[str]:
    """The attention of every block; the last one's is always full. Raises CheckpointError (corrupt)."""
    kinds = config.get("layer_types")
    if kinds is None:
        kinds = [FULL if (number + 1) % EVERY == 0 else SLIDING for number in range(count)]
    if not isinstance(kinds, list) or len(kinds) != count or not all(kind in (FULL, SLIDING) for kind in kinds):
        raise CheckpointError(
            "corrupt", f"config.json: layer_types is not a list of {FULL} and {SLIDING} for {count} blocks"
        )
    return [*kinds[:-1], FULL]


def _zero_or(config: Mapping, key: str, limit: int, default: int) -> int:
    """config[key], an integer from 0 to `limit`. Raises CheckpointError (corrupt)."""
    value = config.get(key, default)
    return 0 if type(value) is int and value == 0 else sizes.positive_integer(config, key, limit, default)


register_wrapper("gemma4", "gemma4_text")
