"""DeepSeek-V3: multi-head latent attention, a shared expert, experts in all but the first blocks (families/moe.py).

Attention's node layers: x; the latents that q and that k and v are made of, ql (none where q_lora_rank is null) and kvl; the part
of the key that all heads share and that is turned by the position, kr; q, k, v, c and a. x->ql, x->kvl, x->kr, ql->q, kvl->k,
kvl->v, c->a. kv_b_proj is [head, (k|v)]. With a router r, experts e<n> and the shared expert, a block has 13 + 3E node layers, a
block without experts 12, each one fewer without ql. Left out: token embedding, LM head, and the block behind the last one that
predicts a further token (num_nextn_predict_layers), which the library does not load either.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.decoder_blocks import PREFIXES
from ninscope.architectures.experts import expert_count
from ninscope.architectures.families.moe import Mixture, sparse_decoder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import formatted

NAMES = {
    "q": "layers.{}.self_attn.q_proj.weight",
    "to_ql": "layers.{}.self_attn.q_a_proj.weight",
    "from_ql": "layers.{}.self_attn.q_b_proj.weight",
    "to_kvl": "layers.{}.self_attn.kv_a_proj_with_mqa.weight",
    "from_kvl": "layers.{}.self_attn.kv_b_proj.weight",
    "o": "layers.{}.self_attn.o_proj.weight",
}
SHARED = {part: f"layers.{{}}.mlp.shared_experts.{part}_proj.weight" for part in ("gate", "up", "down")}
FURTHER = "layers.{}.eh_proj.weight"  # of a block that predicts a further token


@register("deepseek_v3", needs_names=True)
def architecture(config: Mapping, names: Collection[str]) -> Architecture:
    """The wiring that config.json implies, for a file with tensors of these names. Raises CheckpointError (corrupt)."""
    count, attention = sizes.block_count(config), _latent_attention(config)
    first = config.get("first_k_dense_replace", 3)
    first = first if type(first) is int and first == 0 else sizes.width(config, "first_k_dense_replace", 3)
    hidden = sizes.width(config, "moe_intermediate_size")
    shared = hidden * sizes.width(config, "n_shared_experts", 1)
    experts = expert_count(config, "n_routed_experts", count)
    mixture = Mixture(experts, hidden, shared=shared, shared_names=SHARED)
    net = Builder("deepseek_v3", PREFIXES)

    def add_attention(block: str, number: int) -> None:
        attention.add(net, block, formatted(NAMES, number))

    sparse_decoder(net, config, names, mixture, range(first, count), add_attention)
    further = any(prefix + FURTHER.format(count) in names for prefix in PREFIXES)
    note = f"left out: block {count}, which predicts a further token" if further else ""
    return net.architecture(note, complete=not further)


@dataclass(frozen=True)
class _LatentAttention:
    """Sizes. query, value: latents (query None: q is read from x). turned: the shared part of a key. key, v: of one head."""

    width: int
    heads: int
    query: int | None
    value: int
    turned: int
    key: int
    v: int

    def add(self, net: Builder, block: str, names: Mapping[str, str]) -> None:
        """Add the node layers x to a of a block."""
        x = net.layer(block, "x", self.width, "attention")
        q = net.layer(block, "q", self.heads * (self.key + self.turned), "attention")
        k = net.layer(block, "k", self.heads * self.key, "attention")
        v, c = (net.layer(block, part, self.heads * self.v, "attention", "values") for part in "vc")
        a = net.layer(block, "a", self.width, "mlp")
        latent = net.layer(block, "kvl", self.value, "attention")
        turned = net.layer(block, "kr", self.turned, "attention")
        if self.query is None:
            net.join(x, q, names["q"])
        else:
            queries = net.layer(block, "ql", self.query, "attention")
            net.join(x, queries, names["to_ql"])
            net.join(queries, q, names["from_ql"])
        net.join(x, (latent, turned), names["to_kvl"])
        net.join(latent, (k, v), names["from_kvl"], interleaved=(self.key, self.v))
        net.join(c, a, names["o"])
        net.link(v, c)
        net.link(x, a, skip=True)


def _latent_attention(config: Mapping) -> _LatentAttention:
    """Raises CheckpointError (corrupt). Defaults are the library's."""
    no_latent = "q_lora_rank" in config and config["q_lora_rank"] is None
    return _LatentAttention(
        width=sizes.width(config),
        heads=sizes.width(config, "num_attention_heads"),
        query=None if no_latent else sizes.width(config, "q_lora_rank", 1536),
        value=sizes.width(config, "kv_lora_rank", 512),
        turned=sizes.width(config, "qk_rope_head_dim", 64),
        key=sizes.width(config, "qk_nope_head_dim", 128),
        v=sizes.width(config, "v_head_dim", 128),
    )
