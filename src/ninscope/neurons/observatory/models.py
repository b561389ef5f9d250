"""Make the model of a checkpoint with the head that it has, in a dtype of one's choice. No foreign code is run."""

import torch
from torch import nn
from transformers import PreTrainedModel

from ninscope.errors import RequestError
from ninscope.neurons.tasks.base_models import Blueprint, blueprint, classifier, load, load_classifier
from ninscope.neurons.tasks.task import Base

DTYPES = ("float32", "bfloat16", "float16")


def model_of(base: Base, dtype: str = "float32") -> nn.Module:
    """A model of the checkpoint's own kind, in evaluation mode, on the CPU: with its own head.

    Raises RequestError: a kind that transformers does not know, tensors that do not fit, or a dtype that is none.
    """
    wanted = checked_dtype(dtype)
    model: nn.Module = _plain_model(base)
    model.to(wanted)
    return model.eval()


def checked_dtype(name: str) -> torch.dtype:
    """torch's dtype of this name. Raises RequestError: none of DTYPES."""
    if name not in DTYPES:
        raise RequestError(f"dtype is {name!r}; one of {', '.join(DTYPES)} was expected")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _plain_model(base: Base) -> PreTrainedModel:
    named = " ".join(str(name) for name in base.config.get("architectures") or ())
    if "ForImageClassification" in named or "ForSequenceClassification" in named:
        purpose = "image classification" if "Image" in named else "text classification"
        return load_classifier(_with_own_labels(base, purpose), numbered=True)
    return load(blueprint(base, _purpose(base)))


def _purpose(base: Base) -> str:
    for purpose in ("causal language modelling", "image classification", "text classification"):
        try:
            blueprint(base, purpose)
        except RequestError:
            continue
        return purpose
    blueprint(base, "causal language modelling")  # says why not
    raise RequestError(f"{base.name}: no model can be made of it")


def _with_own_labels(base: Base, purpose: str) -> Blueprint:
    labels = base.config.get("id2label")
    count = len(labels) if isinstance(labels, dict) else int(base.config.get("num_labels", 2))
    return classifier(base, purpose, list(range(count)), {})
