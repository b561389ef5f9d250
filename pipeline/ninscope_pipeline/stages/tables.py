"""Tables: what is known of a run, one fact a row, rebuilt whole from artefacts (stage `tables`)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache

import pandas as pd

from ninscope.measuring import Measurement
from ninscope.multifractal.emergence import emergence as emergence_between
from ninscope.multifractal.emergence import emergence_of, why_undefined
from ninscope.multifractal.means import MeanSpectrum, known_std
from ninscope.multifractal.spectrum import fit_warning
from ninscope.report.comparisons import comparisons
from ninscope_pipeline.asked.analyses import DEFAULT
from ninscope_pipeline.asked.dagfile import Model
from ninscope_pipeline.stages import emergence, nulls, spectrum
from ninscope_pipeline.stages.inputs import STAGES, Inputs, Member, Outcomes
from ninscope_pipeline.stages.nulls import NullModel
from ninscope_pipeline.stages.outcome import Outcome, attempt
from ninscope_pipeline.stages.studies import Study
from ninscope_pipeline.stages.study_rows import COLUMNS as OF_STUDIES
from ninscope_pipeline.stages.study_rows import study_keys, study_rows
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.manifest import write_files
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore

STAGE = "tables"
VERSION = 6

EXACT_SAMPLE = -1  # in the column `sample`: no sample, the whole network

_KEYS = {"suite": "string", "model": "string", "revision": "string", "step": "Int64"}
_F, _I, _N, _S = "float64", "int64", "Int64", "string"
COLUMNS = {
    "checkpoints": {"content_sha256": _S, "parameters": _N, "status": _S, "message": _S, "bytes": _N},
    "samples": {
        "sample": _I, "nodes_per_layer": _N, "alpha0": _F, "width": _F, "nodes": _I, "edges": _I, "r2_mass_mean": _F,
        "r2_mass_std": _F, "r2_partition": _F, "nodes_counted": _I, "edges_counted": _I, "message": _S, "warning": _S,
        "variant": _S,
    },
    "spectra": {"sample": _I, "q": _F, "tau": _F, "alpha": _F, "f": _F, "r2": _F, "variant": _S},
    "emergence": {
        "method": _S, "alpha0": _F, "alpha0_std": _F, "width": _F, "width_std": _F, "emergence": _F, "emergence_low": _F,
        "emergence_high": _F, "baseline_step": _N, "status": _S, "message": _S, "r2_mass_mean": _F, "r2_partition": _F,
        "warning": _S, "variant": _S, "part": _S,
    },
    "degrees": {
        "layer": _S, "mean": _F, "std": _F, "kurtosis": _F, "nodes": _I, "nodes_counted": _I, "dimension_mean": _F,
        "dimension_std": _F, "r2_mass_mean": _F, "r2_mass_std": _F, "p5": _F, "p25": _F, "p50": _F, "p75": _F, "p95": _F,
        "variant": _S,
    },
    "nulls": {
        "null": _S, "alpha0": _F, "width": _F, "emergence": _F, "alpha0_std": _F, "width_std": _F, "emergence_std": _F,
        "samples": _I, "message": _S, "variant": _S,
    },
    "benchmarks": {"task": _S, "metric": _S, "value": _F},
    **OF_STUDIES,
}  # fmt: skip


def tables_key(inputs: Inputs, outcomes: Sequence[Outcomes], studies: Sequence[Study] = ()) -> str:
    """Content key of the tables; outcomes: one entry a member; studies: all, with what became of them."""
    rows = [
        [
            *member.row_keys.values(),
            member.located.content_sha256,
            [
                inputs.standing(member, each).status,
                inputs.standing(member, each).message,
                member.located.no_e,
                member.located.otherwise_wired,
            ],
            {
                name: [member.keys[name] if outcome.ok else None, outcome.status, outcome.message]
                for name, outcome in each.items()
            },
        ]
        for member, each in zip(inputs.members, outcomes, strict=True)
    ]
    return content_key(
        STAGE,
        VERSION,
        rows=rows,
        emerged=list(inputs.emerging(outcomes)),
        studies=study_keys(studies),
        evaluations=[[evaluation.as_list() for evaluation in of_model] for of_model in inputs.evaluations],
        nodes_per_layer={wanted.name: wanted.parameters.nodes_per_layer for wanted in inputs.wanted},
    )


def store_tables(
    root: str, inputs: Inputs, outcomes: Sequence[Outcomes], studies: Sequence[Study], emerged: Sequence[Outcome]
) -> Outcome:
    """Write every table. outcomes: one entry a member; studies: all; emerged: of emergence tasks. What these could not make is
    rows of status failed, unless they found something damaged: then all is made again.
    """
    damaged = next((outcome for outcome in emerged if outcome.damaged), None)
    if damaged is not None:
        return damaged.passed_on()
    folder = RunFolder(root)

    def work() -> None:
        made = tables(folder, inputs, outcomes, studies)
        files = {f"{name}.parquet": parquet_bytes(table) for name, table in made.items()}
        write_files(folder, folder.tables, tables_key(inputs, outcomes, studies), files)

    return attempt(STAGE, "all", work)


def tables(
    folder: RunFolder, inputs: Inputs, outcomes: Sequence[Outcomes], studies: Sequence[Study] = ()
) -> dict[str, pd.DataFrame]:
    """All tables of a run by name, typed as COLUMNS says, rows in the order of models, steps and analyses."""
    store = ArtefactStore(folder)
    rows: dict[str, list[dict]] = {name: [] for name in COLUMNS if name != "comparisons"}  # which is made of a table
    for model, evaluations in zip(inputs.models, inputs.evaluations, strict=True):
        members = inputs.of_model(model, outcomes)
        for member, each in members:
            _add_checkpoint(rows, store, inputs, member, each)
        rows["emergence"] += _emergence_rows(store, inputs, model, outcomes)
        rows["nulls"] += _null_rows(store, inputs, members)
        rows["benchmarks"] += [
            {"suite": model.suite, "model": model.model, **evaluation.as_dict()} for evaluation in evaluations
        ]
    rows |= study_rows(store, inputs, outcomes, studies)
    made = {name: _typed(rows[name], columns) for name, columns in COLUMNS.items() if name in rows}
    compared = comparisons(made["finetunes"])
    return made | {"comparisons": compared.astype(_KEYS | COLUMNS["comparisons"])[[*_KEYS, *COLUMNS["comparisons"]]]}


def _add_checkpoint(rows: dict[str, list[dict]], store, inputs: Inputs, member: Member, outcomes: Outcomes) -> None:
    located, keys = member.located, member.row_keys

    @cache  # analyses of several variants may be the same
    def measurement(stage: str, key: str) -> Measurement:
        return spectrum.spectrum_of(store.read(stage, key, only=spectrum.SUMMARY))

    said: dict[str, list[str]] = {}
    for wanted in inputs.spectra:
        if not outcomes[wanted.name].ok:
            continue
        measured = measurement(STAGES[wanted.method], member.keys[wanted.name])
        of_variant = {"variant": wanted.variant}
        rows["samples"] += [
            keys | of_variant | row for row in _sample_rows(measured, wanted.parameters.nodes_per_layer)
        ]
        rows["spectra"] += [keys | of_variant | row for row in _spectrum_rows(measured)]
        rows["degrees"] += [keys | of_variant | asdict(layer) for layer in measured.layers]
        if measured.message:
            said.setdefault(measured.message, []).append(wanted.name)
    alone = len(inputs.spectra) == 1
    notes = [note if alone else f"{', '.join(names)}: {note}" for note, names in said.items()]
    status = inputs.standing(member, outcomes)
    if status.ok and status.message:
        notes.append(status.message)
    described = {
        "content_sha256": located.content_sha256,
        "parameters": located.parameters,
        "bytes": located.bytes,
        "status": status.status,
        "message": "; ".join(notes) if status.ok else status.message,
    }
    rows["checkpoints"].append(keys | described)


def _numbered(measured: Measurement):
    """(what the column `sample` says, the spectrum, the network's edges) of each."""
    numbers = [EXACT_SAMPLE] if measured.method == "exact" else range(len(measured.samples))
    return zip(numbers, measured.samples, measured.network_edges, strict=True)


def _sample_rows(measured: Measurement, nodes_per_layer: int | str) -> Iterator[dict]:
    for number, sample, edges in _numbered(measured):
        yield {
            "sample": number,
            "nodes_per_layer": pd.NA if measured.method == "exact" else nodes_per_layer,
            "alpha0": sample.alpha0,
            "width": sample.width,
            "nodes": measured.network_nodes,
            "edges": edges,
            "nodes_counted": sample.nodes,
            "edges_counted": sample.edges,
            "r2_mass_mean": sample.r2_mass_mean,
            "r2_mass_std": sample.r2_mass_std,
            "r2_partition": sample.r2_partition,
            "message": sample.message,
            "warning": fit_warning(sample.r2_mass_mean, sample.r2_partition),
        }


def _spectrum_rows(measured: Measurement) -> Iterator[dict]:
    for number, sample, _ in _numbered(measured):
        for position, q in enumerate(sample.q):
            ends = position >= sample.alpha.size  # forward differences have one value fewer
            yield {
                "sample": number,
                "q": q,
                "tau": sample.tau[position],
                "alpha": math.nan if ends else sample.alpha[position],
                "f": math.nan if ends else sample.f[position],
                "r2": sample.r2[position],
            }


def _emergence_rows(store: ArtefactStore, inputs: Inputs, model: Model, outcomes: Sequence[Outcomes]) -> list[dict]:
    members = {member.located.revision: member for member, _ in inputs.of_model(model, outcomes)}
    place = {revision: number for number, revision in enumerate(members)}
    found = []
    for wanted in inputs.spectra:
        if history := inputs.history(model, wanted, outcomes):
            key = emergence.emergence_key(STAGES[wanted.method], history, inputs.asked)
            if store.has(emergence.STAGE, key):
                rows = emergence.rows_of(store.read(emergence.STAGE, key))
            else:
                rows = emergence.failed_rows(history, key)
            of_analysis = {
                "method": wanted.method,
                "variant": wanted.variant,
                "baseline_step": inputs.asked.baseline_step,
            }
            found += [(place[row["revision"]], members[row["revision"]].row_keys | of_analysis | row) for row in rows]
    return [row for _, row in sorted(found, key=lambda each: each[0])]  # a checkpoint's analyses side by side


def _null_rows(store: ArtefactStore, inputs: Inputs, members: Sequence[tuple[Member, Outcomes]]) -> Iterator[dict]:
    """E of a null model is against the same null model of the baseline step, sample by sample."""
    wanted = next((each for each in inputs.wanted if not each.has_spectra), None)
    if wanted is None:
        return
    present = [
        (member, nulls.nulls_of(store.read(nulls.STAGE, member.keys[wanted.name])))
        for member, each in members
        if each[wanted.name].ok
    ]
    start = next((found for member, found in present if member.located.step == inputs.asked.baseline_step), [])
    baseline = {null.null: null for null in start}
    for member, found in present:
        for null in found:
            no_e = member.located.no_e or member.located.otherwise_wired
            before = None if no_e else baseline.get(null.null)
            yield (
                member.row_keys
                | {"variant": wanted.variant}
                | _null_row(null, before, inputs.asked.baseline_step, no_e)
            )


def _null_row(now: NullModel, start: NullModel | None, baseline_step: int, no_e: str) -> dict:
    means = MeanSpectrum(now.alpha0, now.width)
    start_means = None if start is None else MeanSpectrum(start.alpha0, start.width)
    pairs = () if start is None else zip(now.alpha0, now.width, start.alpha0, start.width, strict=True)
    of_draws = [emergence_of(*numbers) for numbers in pairs]
    notes = (now.message, no_e or why_undefined(means, start_means, baseline_step))
    return {
        "null": now.null, "alpha0": means.alpha0, "width": means.width, "emergence": emergence_between(means, start_means),
        "alpha0_std": known_std(now.alpha0), "width_std": known_std(now.width), "emergence_std": known_std(of_draws),
        "samples": now.alpha0.size, "message": "; ".join(note for note in notes if note),
    }  # fmt: skip


def whole_networks(rows: pd.DataFrame) -> pd.DataFrame:
    """Of a table, the rows of networks as one, not of their parts."""
    return rows[rows["part"] == emergence.ALL_PARTS] if "part" in rows else rows


def of_analysis(rows: pd.DataFrame) -> pd.DataFrame:
    """Of a table, the rows of [analysis] itself: of no variant, and of networks as one."""
    rows = whole_networks(rows)
    return rows[rows["variant"] == DEFAULT] if "variant" in rows else rows


def _typed(rows: list[dict], columns: dict[str, str]) -> pd.DataFrame:
    types = _KEYS | columns
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """The table as a Parquet file: the same table gives the same bytes."""
    return table.to_parquet(index=False, engine="pyarrow", compression="zstd")
