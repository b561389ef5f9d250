"""GPT-OSS: a mixture of experts (families/moe.py), (7 + 3E)B + 1 node layers.

All experts of a block are in one tensor, [experts, in, out], gate and up projection in turn. (The published files hold them packed
into four bits, and are refused.) Left out: token embedding, LM head, and the vectors that attention may sink into.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.decoder_blocks import Function
from ninscope.architectures.experts import expert_count
from ninscope.architectures.families.moe import FUSED, Mixture, mixture_decoder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register

NAMES = FUSED | {"router": "layers.{}.mlp.router.weight"}
HEAD_DIM = 64  # the library's, where config.json has none


@register("gpt_oss", gauge=True)
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt)."""
    count = sizes.block_count(config)
    mixture = Mixture(
        expert_count(config, "num_local_experts", count),
        sizes.width(config, "intermediate_size"),
        (NAMES,),
        order="transposed",
        interleaved=1,
    )
    # An expert's up projection is cut off at a bound, so its units may not be rescaled.
    return mixture_decoder("gpt_oss", config, (), mixture, range(count), HEAD_DIM, function=Function(units=False))
