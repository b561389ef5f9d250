"""Results of EleutherAI's lm-evaluation-harness, of its two layouts, as version 0.4.13 and those of 2023 write them.

Old: {"results": {task: {"acc": 0.3, "acc_stderr": 0.01}}, "versions": {task: 0}, "config": {"model_args": "pretrained=...,
revision=step1000", "num_fewshot": 0}}. New: metrics are the keys with a comma, "acc,none" and "acc_stderr,none", of which the
second part is the filter; others (name, alias, sample_len) are not; "n-shot" has the examples shown by task, "date" when it
was. Neither states a step: it is sought in the revision, the path of the model, the file's name and its folders.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ninscope.checkpoints.revisions import step_of
from ninscope_pipeline.request.evaluations.evaluation import MAX_STEP, TIME, Batch, Evaluation, finite
from ninscope_pipeline.request.evaluations.files import ResultFile

LOOKED_FOR = (
    'results of lm-evaluation-harness ("results" with metrics such as "acc,none", or with "versions" and "config")'
)
_STDERR = "_stderr"
# In the order in which the harness takes a model's name from them.
_NAMES = ("peft", "delta", "pretrained", "model", "path", "engine")
_PARTS = re.compile(r"/|\\|__")  # a sanitized name has __ for /


def is_harness(document: Any) -> bool:
    """Whether a JSON document is laid out as results of the harness."""
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, dict) or not all(isinstance(entry, dict) for entry in results.values()):
        return False
    return _has_filters(results) or all(isinstance(document.get(key), dict) for key in ("versions", "config"))


def harness_batch(file: ResultFile, document: Mapping[str, Any]) -> Batch:
    """The results of a document of the harness. Where no step can be told, the batch says so in `refusal`."""
    config = _object(document, "config")
    stated = _Stated.of(config)
    revision, step, refusal = _placed(file, stated)
    left_out: list[str] = []
    n_shots, default = _object(document, "n-shot"), config.get("num_fewshot")
    rows = tuple(
        Evaluation(revision, step, task, metric, value, stderr, _count(n_shots.get(task, default)))
        for task, metric, value, stderr in _metrics(document["results"], left_out)
    )
    limit = config.get("limit")
    versions = ((task, str(version)) for task, version in _object(document, "versions").items())
    return Batch(
        file.path,
        stated.model,
        file.folders,
        rows,
        refusal=f"evaluations {file.path}: {refusal}" if refusal else "",
        left_out=tuple(left_out),
        dated=finite(document.get("date")),
        limit="" if limit is None else f"{limit:g}" if finite(limit) is not None else str(limit),
        versions=tuple(versions),
    )


def _object(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_STEP else None


def _has_filters(results: Mapping[str, Mapping[str, Any]]) -> bool:
    return any("," in key for entry in results.values() for key in entry)


def _metrics(
    results: Mapping[str, Mapping[str, Any]], left_out: list[str]
) -> Iterator[tuple[str, str, float, float | None]]:
    """(task, metric, value, stderr) of every metric; names of those that are no finite number go to left_out."""
    filtered = _has_filters(results)
    for task, entry in results.items():
        for key, measured in entry.items():
            metric, _, name = key.partition(",") if filtered else (key, "", "none")
            if (filtered and "," not in key) or metric.endswith(_STDERR):
                continue
            if not filtered and type(measured) not in (int, float):
                continue  # a note such as "alias"
            if (value := finite(measured)) is None:
                left_out.append(f"{task} {key}")
                continue
            stderr = finite(entry.get(f"{metric}{_STDERR},{name}" if filtered else f"{metric}{_STDERR}"))  # or "N/A"
            yield task, metric if name == "none" else key, value, stderr


@dataclass(frozen=True)
class _Stated:
    """What the configuration says of the model. chosen: a revision that was asked for; revision: that which was loaded."""

    model: str
    chosen: str
    revision: str
    subfolder: str

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "_Stated":
        arguments = config.get("model_args")
        if isinstance(arguments, str):
            pairs = (pair.partition("=") for pair in arguments.split(","))
            arguments = {key.strip(): value.strip() for key, _, value in pairs}
        elif not isinstance(arguments, dict):
            arguments = {}
        model = next((_text(arguments[key]) for key in _NAMES if key in arguments), "")
        chosen, subfolder = _text(arguments.get("revision")), _text(arguments.get("subfolder"))
        return cls(model, chosen, _text(config.get("model_revision")), subfolder)


def _text(value: object) -> str:
    """The harness reads a revision 1000 as a number."""
    return str(value) if type(value) in (str, int) else ""


def _placed(file: ResultFile, stated: _Stated) -> tuple[str, int | None, str]:
    """(revision, step, why neither can be told) of the checkpoint that was evaluated. The revision may be empty."""
    name = TIME.sub("", file.path.stem)
    folder = next((part for text in file.inner_folders for part in _parts_with_step(text)), "")
    places = {
        "revision": stated.chosen,
        "model_revision": stated.revision,
        "subfolder": stated.subfolder,
        "model": next(_parts_with_step(stated.model), ""),
        "file name": name,
        "folder": folder,
    }
    steps = {what: step for what, text in places.items() if (step := step_of(text)) is not None}
    if len(set(steps.values())) > 1:
        said = ", ".join(f"{what} {places[what]!r}" for what in steps)
        return "", None, f"its places state different steps ({said}); correct the one that is wrong"
    if steps:
        revision = next((places[what] for what in ("revision", "model_revision", "model") if what in steps), "")
        return revision, next(iter(steps.values())), ""
    if stated.chosen:
        return stated.chosen, None, ""
    if stated.revision and stated.model and not stated.model.startswith((".", "/", "~")):
        return stated.revision, None, ""
    shown = ", ".join(
        f"{what} {text!r}"
        for what, text in (places | {"model": stated.model, "folder": file.inner_folders[0]}).items()
        if text
    )
    return (
        "",
        None,
        f"states no step; looked for one in {shown}; rename the file or its folder to state it, as step1000 does",
    )


def _parts_with_step(text: str) -> Iterator[str]:
    """The parts of a path, or of a sanitized name, that state a step, the last first."""
    return (part for part in reversed(_PARTS.split(text)) if step_of(part) is not None)
