"""Make models of transformers from a checkpoint's configuration and tensors: no file, pickle or foreign code is read or run."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from ninscope.errors import RequestError
from ninscope.neurons.tasks.files import one_line
from ninscope.neurons.tasks.task import Base
from ninscope.wording import first_names

PURPOSES = {
    "text classification": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    "causal language modelling": MODEL_FOR_CAUSAL_LM_MAPPING,
    "image classification": MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
}
# An attention implementation may name a repository with compiled kernels, which the library would fetch and run.
DROPPED = {"auto_map", "dtype", "torch_dtype", "num_labels"} | {
    f"{prefix}{part}_implementation{suffix}"
    for prefix in ("", "_")
    for part in ("attn", "experts")
    for suffix in ("", "_internal", "_autoset")
}
_DEFAULT_LABEL = re.compile(r"LABEL_\d+")
SPARE_PARAMETERS = 2**24  # of a new head, before anything is known of it


@dataclass(frozen=True)
class Blueprint:
    """What a model of a base will be. skeleton: a model of its class and configuration, without storage (device "meta")."""

    base: Base
    config: PreTrainedConfig
    skeleton: PreTrainedModel

    @property
    def inputs(self) -> frozenset[str]:
        """Names of the arguments of its forward pass."""
        return frozenset(inspect.signature(self.skeleton.forward).parameters)

    @property
    def vocabulary(self) -> int:
        """The number of tokens that it knows. Raises RequestError: it knows no tokens."""
        if not isinstance(size := getattr(self.config, "vocab_size", None), int):
            raise RequestError(
                f"{self.base.name}: its configuration has no vocab_size; choose a base that reads tokens"
            )
        return size


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the library's reports and progress bars; what matters in them is checked and said in one line."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def configuration(base: Base, changes: Mapping[str, Any]) -> PreTrainedConfig:
    """The base's configuration with some entries changed.

    Raises RequestError: transformers does not know the kind of model, the configuration is invalid, or it is quantised.
    """
    kind = base.config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        own = " and needs code of its own (auto_map), which is not run" if "auto_map" in base.config else ""
        raise RequestError(
            f"{base.name}: model_type {kind!r} is none that transformers knows{own}; choose another base"
        )
    if base.config.get("quantization_config") is not None:
        raise RequestError(f"{base.name} is quantised; give the checkpoint that it was made from")
    try:
        with quiet():
            return CONFIG_MAPPING[kind].from_dict(_plain(base.config) | dict(changes))
    except Exception as error:  # a library raises all kinds of errors at a stranger's file
        raise RequestError(
            f"{base.name}: its configuration is invalid ({one_line(error)}); correct config.json"
        ) from None


def blueprint(base: Base, purpose: str, changes: Mapping[str, Any] | None = None) -> Blueprint:
    """What the base will be for one of PURPOSES, checked before any memory is taken for it. changes: to its configuration.

    Raises RequestError: as `configuration`, or the kind of model cannot serve the purpose, or its tensors are too few.
    """
    config = configuration(base, changes or {})
    if type(config) not in PURPOSES[purpose]:
        raise RequestError(
            f"{base.name} is a {config.model_type} model, which is none for {purpose}; choose another base"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise RequestError(f"{base.name} is an encoder with a decoder, for which there is no task; choose another base")
    classes = PURPOSES[purpose][type(config)]
    return blueprint_of(base, config, classes[0] if isinstance(classes, tuple) else classes)


def blueprint_of(base: Base, config: PreTrainedConfig, kind: Any) -> Blueprint:
    """What the base will be as a model of this class of transformers, checked before any memory is taken for it.

    Raises RequestError: no model can be made of the configuration, or its tensors are too few.
    """
    layers = getattr(config, "num_hidden_layers", None)
    if isinstance(layers, int) and layers > len(base.tensors):
        raise RequestError(f"{base.name}: config.json says {layers} layers, and there are {len(base.tensors)} tensors")
    try:
        with quiet(), torch.device("meta"):
            skeleton = kind(config)
    except Exception as error:
        raise RequestError(f"{base.name}: no model can be made of its configuration ({one_line(error)})") from None
    described = sum(tensor.numel() for tensor in (*skeleton.parameters(), *skeleton.buffers()))
    stored = sum(tensor.numel() for tensor in base.tensors.values())
    if described > 2 * stored + SPARE_PARAMETERS:
        raise RequestError(f"{base.name}: config.json describes {described} numbers, and its tensors hold {stored}")
    return Blueprint(base, config, skeleton)


def load(plan: Blueprint, tensors: Mapping[str, torch.Tensor] | None = None, whole: bool = False) -> PreTrainedModel:
    """The model, float32 on the CPU, in evaluation mode, with tensors of its own. tensors: instead of all of the base's.

    whole: a head that the base lacks is not drawn, but refused. Names may be those of the bare model, of a model with another
    head, or of an earlier version of the library. The head, and a pooler, is drawn from torch's global generator where the base
    has none. Raises RequestError: a tensor of the body is missing, has another shape, or belongs to a layer that the
    configuration does not have.
    """
    base = plan.base
    tensors = base.tensors if tensors is None else tensors
    # Parameters would otherwise share memory with the base, and training one model would change the next.
    own = {name: tensor.detach().to("cpu", torch.float32, copy=True) for name, tensor in tensors.items()}
    try:
        with quiet():
            loaded: Any = type(plan.skeleton).from_pretrained(
                None,
                config=plan.config,
                state_dict=own,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # so that they are reported, and named below
                output_loading_info=True,
            )
    except Exception as error:
        raise RequestError(f"{base.name}: its tensors cannot be loaded ({one_line(error)})") from None
    model: PreTrainedModel = loaded[0]
    _check_report(base, model, loaded[1], whole)
    return model


def _check_report(base: Base, model: PreTrainedModel, report: Mapping[str, Any], whole: bool) -> None:
    for name, stored, expected in sorted(report["mismatched_keys"]):
        raise RequestError(
            f"{base.name}: tensor {name} has the shape {list(stored)}, and config.json says {list(expected)}; "
            "give the two files of one checkpoint"
        )
    prefix = model.base_model_prefix
    missing = sorted(name for name in report["missing_keys"] if whole or not _may_be_new(name, prefix))
    if missing:
        raise RequestError(f"{base.name} lacks {first_names(missing)}; give a whole checkpoint")
    counterparts = {_without_numbers(name, prefix) for name in model.state_dict()}
    for name in sorted(report["unexpected_keys"]):
        if _without_numbers(name, prefix) in counterparts:
            raise RequestError(f"{base.name}: tensor {name} belongs to a layer that its config.json does not have")


def _may_be_new(name: str, prefix: str) -> bool:
    """Heads and their poolers: the bodies of masked language models come without them."""
    return not name.startswith(f"{prefix}.") or "pooler" in name.split(".")


def _without_numbers(name: str, prefix: str) -> str:
    return re.sub(r"\d+", "#", name.removeprefix(f"{prefix}."))


def check_vocabulary(plan: Blueprint, largest: int) -> None:
    """Raises RequestError where the texts have a token number that the model does not."""
    if largest >= plan.vocabulary:
        raise RequestError(
            f"{plan.base.name}: the texts have token {largest}, and its vocabulary ends at {plan.vocabulary - 1}; "
            "choose the tokenizer that the base was trained with"
        )


def check_positions(plan: Blueprint, longest: int) -> None:
    """Raises RequestError where texts are longer than what the model has positions for."""
    limit = getattr(plan.config, "max_position_embeddings", None)
    for name, module in plan.skeleton.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):  # RoBERTa's begin after padding
            limit = module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    if isinstance(limit, int) and longest > limit:
        raise RequestError(
            f"{plan.base.name} has {limit} positions, and the texts have {longest} tokens; shorten them to that"
        )


# --- heads --------------------------------------------------------------------------------------------------
def classifier(
    base: Base, purpose: str, classes: Sequence[str | int], changes: Mapping[str, Any], regression: bool = False
) -> Blueprint:
    """The base as a classifier of `classes`, or with one output for a regression.

    Raises RequestError: as `blueprint`.
    """
    names = {number: str(name) for number, name in enumerate(classes)}
    kind = "regression" if regression else "single_label_classification"
    labels = {"id2label": names, "label2id": {name: number for number, name in names.items()}, "problem_type": kind}
    return blueprint(base, purpose, dict(changes) | labels)


def load_classifier(plan: Blueprint, numbered: bool = False) -> PreTrainedModel:
    """As `load`, with the base's own head where it has one. numbered: classes are numbers, whatever the base calls them.

    A head of another kind of model (of tokens, of masked words) is not used. Raises RequestError: as `load`, or the base has a
    classification head with other labels.
    """
    base, skeleton = plan.base, plan.skeleton
    head = {
        name: tensor
        for name, tensor in skeleton.state_dict().items()
        if not name.startswith(f"{skeleton.base_model_prefix}.") and name in base.tensors
    }
    made_for = base.config.get("architectures") or [type(skeleton).__name__]
    if type(skeleton).__name__ not in made_for:
        return load(plan, {name: tensor for name, tensor in base.tensors.items() if name not in head})
    for name, tensor in head.items():
        if base.tensors[name].shape != tensor.shape:
            raise RequestError(
                f"{base.name} has a head {name} of shape {list(base.tensors[name].shape)}, and {plan.config.num_labels} labels "
                f"need {list(tensor.shape)}; choose a base without a head, or data with its labels"
            )
    theirs, ours = _label_names(base), _output_names(plan.config)
    if head and theirs and not numbered and [name.lower() for name in theirs] != [name.lower() for name in ours]:
        raise RequestError(
            f"{base.name} has a head for the labels {theirs[:10]}, and the data have {ours[:10]}; "
            "rename the data's labels, or choose a base without a head"
        )
    return load(plan)


def _output_names(config: PreTrainedConfig) -> list[str]:
    names: Mapping[int, str] = cast(Mapping[int, str], config.id2label)
    return [names[number] for number in range(len(names))]


def _label_names(base: Base) -> list[str]:
    """The names that the base gives its outputs, in order; empty where nobody named them."""
    stated = base.config.get("id2label")
    if not isinstance(stated, Mapping) or all(_DEFAULT_LABEL.fullmatch(str(name)) for name in stated.values()):
        return []
    try:
        return [str(stated[key]) for key in sorted(stated, key=int)]
    except ValueError:
        return []


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, and those nested in it, without entries that could bring in code or another precision."""
    return {
        key: _plain(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in DROPPED
    }
