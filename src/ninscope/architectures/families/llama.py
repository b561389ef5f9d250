"""llama, mistral, qwen2, qwen3, olmo, olmo2: nine node layers a block (transformer_blocks.py) and the final residual, 9B+1 in all.

A block's node layers: x, q, k, v, c, a, and the gated MLP's gate g, up projection u, hidden m = act(g) * u. With grouped-query
attention k and v have num_key_value_heads * head_dim neurons, and q and c have num_attention_heads * head_dim, which need not be
hidden_size. Left out: token embedding and LM head.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.architectures.transformer_blocks import attention, following, formatted, gated_mlp
from ninscope.errors import CheckpointError

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "olmo", "olmo2")
PREFIXES = ("model.", "")
ATTENTION = {part: f"layers.{{}}.self_attn.{part}_proj.weight" for part in "qkvo"}
NAMES = ATTENTION | {part: f"layers.{{}}.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
MAX_LINKS = 100_000  # from heads of v to heads of c, of all blocks
# The library's default, where config.json does not say it. Other families' heads share hidden_size.
HEAD_DIM = {"qwen3": 128}


@register(*MODEL_TYPES)
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    count = sizes.block_count(config)
    width = sizes.width(config)
    queries, values, head_dim = grouped_heads(config, width, count)
    hidden = sizes.width(config, "intermediate_size")
    net = Builder(sizes.model_type(config, MODEL_TYPES), PREFIXES)
    for number in range(count):
        block, names = f"block{number}", formatted(NAMES, number)
        attention(net, block, width, names, queries, values, head_dim)
        gated_mlp(net, block, hidden, following(number, count), names)
    net.layer("output", "x", width)
    return net.architecture()


def grouped_heads(config: Mapping, width: int, count: int) -> tuple[int, int, int]:
    """The numbers of neurons of q, of k and v, and of one head. Raises CheckpointError (corrupt)."""
    heads = sizes.width(config, "num_attention_heads")
    groups = sizes.width(config, "num_key_value_heads", default=heads)
    sizes.multiple(heads, "num_attention_heads", groups, "num_key_value_heads")
    if count * heads // groups > MAX_LINKS:
        raise CheckpointError(
            "corrupt",
            f"config.json: {heads} heads share {groups} key-value heads in each of {count} blocks, which takes more than "
            f"{MAX_LINKS} links",
        )
    head_dim = HEAD_DIM.get(str(config.get("model_type")))
    if config.get("head_dim") is not None:
        head_dim = sizes.width(config, "head_dim")
    elif head_dim is None:
        head_dim = sizes.multiple(width, "hidden_size", heads, "num_attention_heads")
    return heads * head_dim, groups * head_dim, head_dim
