"""The model of a checkpoint, to be run as it is: the class that it was saved as, its stored precision, no weight that is drawn."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from math import prod
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)

from ninscope.checkpoints.tensors import Checkpoint
from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.tasks.base_models import blueprint_of, configuration, load
from ninscope.neurons.tasks.task import Base

DTYPES = ("float32", "bfloat16", "float16")
# With a head first: what has one stored is run with it.
_MAPPINGS: tuple[Mapping[type, Any], ...] = (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
)
_STORED = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float32"}


def stored_dtype(checkpoint: Checkpoint) -> str:
    """The one of DTYPES that most weights of a checkpoint are stored in (of float64 the nearest, float32).

    Raises CheckpointError (unsupported): it holds no weights of these types.
    """
    numbers: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        if tensor.dtype in _STORED:
            numbers[_STORED[tensor.dtype]] += prod(tensor.shape)
    if not numbers:
        raise CheckpointError("unsupported", "the checkpoint holds no plain floats, so no model can be run")
    return max(sorted(numbers), key=lambda name: numbers[name])


def model_of(base: Base, dtype: str = "float32") -> nn.Module:
    """The model of a checkpoint, in evaluation mode, on the CPU: of the class that config.json names, else with the head that is
    stored, else bare. A head that is not stored is left out and not drawn, so that no output is random.

    dtype: one of DTYPES. Raises RequestError: a kind that transformers does not know, tensors that do not fit, or a dtype that is
    none.
    """
    kind = checked_dtype(dtype)
    model: nn.Module = _loaded(base)
    return model.to(kind).eval()


def checked_dtype(dtype: str) -> torch.dtype:
    """The dtype of this name. Raises RequestError: it is none of DTYPES."""
    if dtype not in DTYPES:
        raise RequestError(f"dtype is {dtype!r}; one of {', '.join(DTYPES)} was expected")
    kind: torch.dtype = getattr(torch, dtype)
    return kind


def _loaded(base: Base) -> PreTrainedModel:
    """Raises RequestError."""
    config = configuration(base, {})
    if getattr(config, "is_encoder_decoder", False):
        raise RequestError(f"{base.name} is an encoder with a decoder, which is not run; measure another model")
    for kind in _with_heads(config, base.config.get("architectures")):
        with suppress(RequestError):
            return load(blueprint_of(base, config, kind), whole=True)
    if type(config) not in MODEL_MAPPING:
        raise RequestError(
            f"{base.name}: transformers has no {config.model_type} model without a head; measure another model"
        )
    return load(blueprint_of(base, config, _first(MODEL_MAPPING[type(config)])))


def _with_heads(config: PreTrainedConfig, architectures: object) -> Iterator[Any]:
    """Classes of models with a head for this configuration, the one that the checkpoint was saved as first."""
    known = [_first(mapping[type(config)]) for mapping in _MAPPINGS if type(config) in mapping]
    named = architectures if isinstance(architectures, list) else []
    yield from sorted(dict.fromkeys(known), key=lambda kind: kind.__name__ not in named)


def _first(kinds: Any) -> Any:
    return kinds[0] if isinstance(kinds, tuple | list) else kinds
