"""OLMo, as transformers has it: a llama (families/llama.py), 9B+1 node layers.

The same weights were first published for the package hf_olmo, under names of its own and as the model_type hf_olmo or olmo.
Those are refused, not read as generic: every checkpoint of theirs has a converted one beside it.
"""

from collections.abc import Mapping

from ninscope.architectures.decoder_blocks import ATTENTION, GATED_MLP, Function, decoder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import refuse, register
from ninscope.errors import CheckpointError

FIRST_FORM = (
    "a model of the package hf_olmo (config.json: d_model, n_layers), whose tensors are not named as transformers' OLMo; use "
    "the repository whose name ends in -hf, or convert it with transformers' convert_olmo_weights_to_hf.py"
)
refuse("hf_olmo", FIRST_FORM)


@register("olmo", gauge=True)
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt, unsupported)."""
    if "hidden_size" not in config and {"d_model", "n_layers"} <= config.keys():
        raise CheckpointError("unsupported", FIRST_FORM)
    # Its normalisations have no gains.
    function = Function("", "", clipped=config.get("clip_qkv") is not None)
    return decoder("olmo", config, ATTENTION | GATED_MLP, function=function)
