"""`ninscope.neurons.look`: measures of one model, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ninscope.checkpoints.source import open_source
from ninscope.checks import MAX_SEED, checked_integer
from ninscope.errors import RequestError
from ninscope.neurons.observatory.examples import (
    ARRAYS_KIND,
    IMAGES_KIND,
    MOST_AT_ONCE,
    TOKENS_KIND,
    Examples,
    batch_for,
    check_window,
    positions_of,
    token_windows,
)
from ninscope.neurons.observatory.measure import CONTROLS, PARTS, START, Measure
from ninscope.neurons.observatory.registry import chosen
from ninscope.neurons.tasks.checks import MAX_TOKENS

if TYPE_CHECKING:
    from torch import nn

    from ninscope.neurons.observatory.passes import Observation
    from ninscope.neurons.observatory.subject import Subject

WINDOW = 128
LONGEST_NAME = 255  # letters of a file's name; a longer text is none
QUANTILE_COLUMNS = tuple(f"p{round(100 * part):02d}" for part in PARTS)
COLUMNS = ("layer", "measure", "control", "value", "against", *QUANTILE_COLUMNS, "count", "status", "message")


def look(
    model: Any,
    text: Any,
    measures: str | Sequence[str] = "all",
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    other: Any = None,
    layers: str | Sequence[str] | None = None,
    controls: str | Sequence[str] = CONTROLS,
    tokenizer: Any = None,
    window: int | None = None,
    batch_size: int | None = None,
    revision: str | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
) -> pd.DataFrame:
    """What neurons, heads and representations of a model do while it runs: a row a measure, layer and control.

    model: a torch module, which is run as it is (its weights, dtype and device; dropout off), or a source as `ninscope.measure`
    takes it: a folder, a file's folder or a Hub repository. text: a text or several, token ids [t] or [n, window], or what else
    the model takes: images [n, channels, height, width], rows of numbers [n, ...]. measures: names, or "all": then `status` and
    `message` tell what the model or the examples cannot give.

    labels: a class of each sample (a window, an image, a row), for measures that need them. other: a model or a source to compare
    with, or several by name: {"start": ..., "previous": ..., "any name": ...}, where any other name is another seed; one model by
    itself is each of these, and "source@revision" one of several. layers: names of modules whose outputs are hidden neurons
    (default: what the architecture says).
    controls: "none" (the examples), "shuffled" (the same without order), or both. tokenizer: "bytes", a folder, or an object
    with `encode` (default: the source's own; bytes for a model of about 256 tokens). window: tokens that are run together
    (default: 128, or fewer where the text or the model's positions end before). batch_size: samples run at once (default: 16, or
    fewer where the vocabulary is large, so that memory does not go to outputs). revision: of a source. device, dtype: "cpu" or
    "cuda"; "float32", "float16", "bfloat16" (default: a module's own, which a copy is made for if it is
    another; a source's: the CPU, float32).

    Returns a DataFrame: layer, measure, control, value, against, p05 to p95 (quantiles, where the value is a mean), count (of what
    the value is), status ("ok", "nonfinite", "unsupported"), message. Raises RequestError: what is asked makes no sense, or a
    measure that was named cannot be taken of this model. Raises CheckpointError: a source that cannot be read.
    """
    from ninscope.neurons.observatory.passes import check_named, observe

    picked = chosen(measures)
    asked = _controls(controls)
    checked_integer("seed", seed, 0, MAX_SEED)
    for name, value in (("window", window), ("batch_size", batch_size)):
        if value is not None:
            checked_integer(name, value, 1, MAX_TOKENS)
    base = _opened(model, revision, device, dtype)
    examples = _examples(base, text, labels, tokenizer, window, batch_size)
    subject = _subject("the model", base, examples, seed, layers)
    others = _others(other, picked, examples, seed, layers, device, dtype)
    named = measures != "all"
    observations = [seen for control in asked for seen in observe(subject, picked, control, others)]
    check_named(observations, named)
    return table_of(observations)


def table_of(observations: Sequence[Observation]) -> pd.DataFrame:
    """Rows of the table, with the columns of COLUMNS."""
    rows = [row for observation in observations for row in rows_of(observation)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = dict.fromkeys(("value", *QUANTILE_COLUMNS), "float64") | {"count": "Int64"}
    texts = dict.fromkeys(("layer", "measure", "control", "against", "status", "message"), "string")
    return frame.astype(kinds | texts)


def rows_of(observation: Observation) -> list[dict[str, object]]:
    """A row a fact; of what could not be measured one row, with the reason."""
    keys = {
        "control": observation.control,
        "against": observation.against,
        "status": observation.status,
        "message": "" if observation.error is None else str(observation.error),
    }
    if observation.found is None:
        return [{"layer": "all", "measure": observation.measure.name, "value": float("nan"), **keys}]
    return [
        {
            "layer": fact.layer,
            "measure": fact.name,
            "value": fact.value,
            **dict(zip(QUANTILE_COLUMNS, fact.quantiles or (), strict=False)),
            "count": fact.count,
            **keys,
        }
        for fact in observation.found.facts
    ]


# --- what is given ------------------------------------------------------------------------------------------
class _Opened:
    """A module, and what a source says besides. folder: where its tokenizer would be."""

    def __init__(self, module: nn.Module, base: Any = None) -> None:
        self.module, self.base = module, base

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of a model of transformers; empty for others."""
        stated: Any = getattr(self.module, "config", None)
        return stated.to_dict() if hasattr(stated, "to_dict") else {}

    @property
    def vocabulary(self) -> int | None:
        from ninscope.neurons.observatory.subject import vocabulary_of

        return vocabulary_of(self.module)


def _opened(
    model: Any, revision: str | None, device: str | None, dtype: str | None, other: str | None = None
) -> _Opened:
    """other: what it is called, where it is not the model that is looked at."""
    from torch import nn

    from ninscope.neurons.finetuning.bases import base_of
    from ninscope.neurons.finetuning.recipe import DEVICES
    from ninscope.neurons.finetuning.training import device_of
    from ninscope.neurons.observatory.models import checked_dtype, model_of
    from ninscope.neurons.observatory.subject import unwrapped

    if device not in (None, *DEVICES):
        raise RequestError(f"device is {device!r}; one of {', '.join(DEVICES)} was expected")
    if isinstance(model, nn.Module):
        if revision is not None:
            raise RequestError("revision belongs to a source; a model in memory has none")
        inner = unwrapped(model)
        place, kind = device_of(device) if device else None, checked_dtype(dtype) if dtype else None
        # `to` moves and rounds the weights of the module itself, which the caller goes on to use.
        return _Opened(deepcopy(inner).to(device=place, dtype=kind) if device or dtype else inner)
    if not isinstance(model, str | Path):
        raise RequestError(
            f"the model is a {type(model).__name__}; give a torch module, a folder or the name of a Hub repository"
        )
    source = open_source(model)
    names = source.revisions()
    if revision is None and len(names) > 1:
        how = f"as revision, such as {names[-1]!r}" if other is None else f"in other, as {f'{model}@{names[-1]}'!r}"
        raise RequestError(f"{model} has {len(names)} revisions; give one {how}")
    name = revision or names[0]
    checkpoint = source.open(name)
    base = base_of(checkpoint, f"{model} {name}", _home(model, name), None)
    made: nn.Module = model_of(base, dtype or "float32")
    return _Opened(made.to(device_of(device or "cpu")), base)


def _home(model: str | Path, revision: str) -> Path | str:
    folder = Path(model).expanduser()
    inside = folder / revision
    return inside if inside.is_dir() else folder if folder.is_dir() else str(model)


def _subject(name: str, opened: _Opened, examples: Examples, seed: int, layers: str | Sequence[str] | None) -> Subject:
    from ninscope.neurons.observatory.subject import Subject

    listed = [layers] if isinstance(layers, str) else layers
    return Subject(name, opened.module, examples, seed, listed)


def _others(
    other: Any,
    picked: Sequence[Measure],
    examples: Examples,
    seed: int,
    layers: str | Sequence[str] | None,
    device: str | None,
    dtype: str | None,
) -> dict[str, Any]:
    if other is None:
        return {}
    if isinstance(other, Mapping):
        given = dict(other)
    else:
        # One model: what each measure compares with first.
        given = {measure.compared_with[0]: other for measure in picked if measure.compared_with} or {START: other}

    def opener(name: str, model: Any) -> Any:
        source, revision = _at_revision(model)
        return lambda: _subject(name, _opened(source, revision, device, dtype, name), examples, seed, layers)

    return {name: opener(name, model) for name, model in given.items()}


def _at_revision(model: Any) -> tuple[Any, str | None]:
    """A source and its revision, of "source@revision"; whatever else with None."""
    if isinstance(model, str) and "@" in model and not Path(model).expanduser().exists():
        source, _, revision = model.rpartition("@")
        return source, revision
    return model, None


def _controls(controls: str | Sequence[str]) -> list[str]:
    listed = [controls] if isinstance(controls, str) else list(controls)
    if wrong := [name for name in listed if name not in CONTROLS]:
        raise RequestError(f"control {wrong[0]!r} is none of {', '.join(CONTROLS)}")
    if not listed:
        raise RequestError(f"no control is named; give some of {', '.join(CONTROLS)}")
    return listed


def _examples(
    opened: _Opened, text: Any, labels: Any, tokenizer: Any, window: int | None, given_size: int | None
) -> Examples:
    kept = _labels(labels)
    classes = () if kept is None else tuple(str(number) for number in range(int(kept.max()) + 1))
    values = _tokens(opened, text, tokenizer) if _is_text(text) else _array(text)
    if values.dtype.kind in "iu" and values.ndim <= 2:
        limit = positions_of(opened.config)
        if values.ndim == 1 or window is not None:
            most = min(WINDOW, values.size, WINDOW if limit is None else limit)
            values = token_windows(values, most if window is None else window)
        check_window("the model", opened.config, values.shape[1])
        batch_size = given_size or batch_for(values.shape[1], opened.vocabulary)
        return Examples(TOKENS_KIND, values, batch_size, kept, classes)
    kind = IMAGES_KIND if values.ndim == 4 else ARRAYS_KIND
    return Examples(kind, values.astype(np.float32), given_size or MOST_AT_ONCE, kept, classes)


def _labels(given: Any) -> np.ndarray | None:
    """Raises RequestError: labels that are no numbers of classes."""
    if given is None:
        return None
    labels = np.asarray(given)
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not labels.size or labels.min() < 0:
        raise RequestError("labels are classes, whole numbers from 0, one for each sample; number them first")
    return labels


def _is_text(given: Any) -> bool:
    """Whether it is a text or several. Raises RequestError: it is the name of a file, or nothing."""
    texts = [given] if isinstance(given, str | Path) else given
    if not isinstance(texts, Sequence) or not all(isinstance(one, str | Path) for one in texts):
        return False
    if not texts:
        raise RequestError("there is no text; give one, or several")
    for one in texts:
        if isinstance(one, Path) or (len(one) <= LONGEST_NAME and "\n" not in one and Path(one).is_file()):
            raise RequestError(
                f"{str(one)!r} is the name of a file; give the text that is in it, as by Path(...).read_text()"
            )
    return True


def _tokens(opened: _Opened, text: str | Sequence[str], tokenizer: Any) -> np.ndarray:
    """int64 [t], of all texts, one after the other. Raises RequestError: the model reads no text."""
    if getattr(opened.module, "main_input_name", "") == "pixel_values":
        raise RequestError("the model reads images, and no text; give images [n, channels, height, width]")
    texts = [text] if isinstance(text, str) else text
    return np.concatenate([_encoded(opened, one, tokenizer) for one in texts])


def _array(given: Any) -> np.ndarray:
    import torch

    try:
        if isinstance(given, torch.Tensor):  # numpy has no bfloat16
            given = given.detach().cpu()
            given = given.float() if given.is_floating_point() else given
        values = np.asarray(given)
    except (TypeError, ValueError):
        values = np.empty(0, object)
    if values.dtype.kind not in "iuf" or not values.ndim:
        raise RequestError(f"{type(given).__name__} is no text, and no numbers that a model could take")
    return values


def _encoded(opened: _Opened, text: str, tokenizer: Any) -> np.ndarray:
    from ninscope.neurons.observatory.example_texts import FEWEST_BYTES, MOST_BYTES
    from ninscope.neurons.tasks.checks import check_tokenizer
    from ninscope.neurons.tasks.tokenizers import BYTES, open_tokenizer

    if not isinstance(tokenizer, str | Path) and hasattr(tokenizer, "encode"):  # text can be encoded too
        return np.asarray(tokenizer.encode(text), np.int64).reshape(-1)
    base = opened.base
    if tokenizer is None and (base is None or not _has_tokenizer(base)):
        if not FEWEST_BYTES <= (opened.vocabulary or 0) <= MOST_BYTES:
            raise RequestError(
                "the model has no tokenizer of its own here; give tokenizer (a folder, 'bytes', an object with encode), "
                "or token ids"
            )
        tokenizer = BYTES
    named = str(tokenizer) if isinstance(tokenizer, Path) else tokenizer
    check_tokenizer(named)
    return open_tokenizer(named, base).encode(text).astype(np.int64)


def _has_tokenizer(base: Any) -> bool:
    from ninscope.neurons.tasks.files import has_vocabulary

    return not isinstance(base.folder, Path) or has_vocabulary(base.folder)
