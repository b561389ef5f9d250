"""Tables: what is known of a run, one fact a row, rebuilt whole from artefacts (stage `tables`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from ninscope.pipeline.dagfile import Emergence, Model
from ninscope.pipeline.evaluations import Evaluation
from ninscope.pipeline.keys import content_key
from ninscope.pipeline.manifest import write_files
from ninscope.pipeline.runfolder import RunFolder
from ninscope.pipeline.stages import emergence, spectrum
from ninscope.pipeline.stages.locate import Located
from ninscope.pipeline.stages.outcome import Outcome, attempt
from ninscope.pipeline.store import ArtefactStore

from ninscope.measuring import Measurement, Parameters

STAGE = "tables"
VERSION = 1

_KEYS = {"suite": "string", "model": "string", "revision": "string", "step": "Int64"}
_F, _I, _S = "float64", "int64", "string"
COLUMNS = {
    "checkpoints": {"content_sha256": _S, "parameters": "Int64", "status": _S, "message": _S, "bytes": "Int64"},
    "samples": {
        "sample": _I, "nodes_per_layer": _I, "alpha0": _F, "width": _F, "nodes": _I, "edges": _I, "r2_mass_mean": _F,
        "r2_mass_std": _F, "r2_partition": _F, "nodes_counted": _I, "edges_counted": _I, "message": _S,
    },
    "spectra": {"sample": _I, "q": _F, "tau": _F, "alpha": _F, "f": _F, "r2": _F},
    "emergence": {
        "method": _S, "alpha0": _F, "alpha0_std": _F, "width": _F, "width_std": _F, "emergence": _F, "emergence_low": _F,
        "emergence_high": _F, "baseline_step": "Int64", "message": _S,
    },
    "benchmarks": {"task": _S, "metric": _S, "value": _F},
}  # fmt: skip


@dataclass(frozen=True)
class Member:
    """One checkpoint of a run: what it is, and the key its spectrum has or would have (None where there can be none)."""

    located: Located
    spectrum_key: str | None


@dataclass(frozen=True)
class Inputs:
    """Everything the tables are made from, artefacts aside: small, and the same whatever ran or was already there."""

    members: tuple[Member, ...]
    models: tuple[Model, ...]
    evaluations: tuple[tuple[Evaluation, ...], ...]  # one a model
    parameters: Parameters
    asked: Emergence

    def of_model(self, model: Model) -> list[Member]:
        return [m for m in self.members if (m.located.suite, m.located.model) == (model.suite, model.model)]

    def history(self, model: Model) -> list[emergence.Member]:
        """What E of a model is computed over: its checkpoints that have, or will have, a spectrum."""
        return [(m.located.revision, m.located.step, m.spectrum_key) for m in self.of_model(model) if m.spectrum_key]

    def _history(self, model: Model, outcomes: Sequence[Outcome]) -> list[emergence.Member]:
        ok = {member for member, outcome in zip(self.members, outcomes, strict=True) if outcome.ok}
        return [(m.located.revision, m.located.step, m.spectrum_key) for m in self.of_model(model) if m in ok]

    def key(self, outcomes: Sequence[Outcome]) -> str:
        """Content key of the tables; outcomes: one a member."""
        rows = [
            [
                *_row_keys(member.located).values(),
                member.located.content_sha256,
                member.spectrum_key if outcome.ok else None,
                outcome.status,
                outcome.message,
            ]
            for member, outcome in zip(self.members, outcomes, strict=True)
        ]
        return content_key(
            STAGE,
            VERSION,
            rows=rows,
            emerged=[emergence.emergence_key(self._history(model, outcomes), self.asked) for model in self.models],
            evaluations=[[evaluation.as_list() for evaluation in of_model] for of_model in self.evaluations],
            nodes_per_layer=self.parameters.nodes_per_layer,
        )


def store_tables(root: str, inputs: Inputs, outcomes: Sequence[Outcome], emerged: Sequence[Outcome]) -> Outcome:
    """Write every table. outcomes: one a member; emerged: one a model, whose failures are this stage's too."""
    failed = next((outcome for outcome in emerged if not outcome.ok), None)
    if failed is not None:
        return failed
    folder = RunFolder(root)

    def work() -> None:
        files = {f"{name}.parquet": parquet_bytes(table) for name, table in tables(folder, inputs, outcomes).items()}
        write_files(folder, folder.tables, inputs.key(outcomes), files)

    return attempt(work)


def tables(folder: RunFolder, inputs: Inputs, outcomes: Sequence[Outcome]) -> dict[str, pd.DataFrame]:
    """All tables of a run by name, typed as COLUMNS says, rows in the order of models and steps."""
    store = ArtefactStore(folder)
    rows: dict[str, list[dict]] = {name: [] for name in COLUMNS}
    status = dict(zip(inputs.members, outcomes, strict=True))
    for model, evaluations in zip(inputs.models, inputs.evaluations, strict=True):
        for member in inputs.of_model(model):
            located, outcome = member.located, status[member]
            keys = _row_keys(located)
            described = {
                "content_sha256": located.content_sha256,
                "parameters": located.parameters,
                "bytes": located.bytes,
            }
            measured = None
            if outcome.ok:
                measured = spectrum.spectrum_of(store.read(spectrum.STAGE, member.spectrum_key))
                rows["samples"] += [keys | row for row in _sample_rows(measured, inputs.parameters.nodes_per_layer)]
                rows["spectra"] += [keys | row for row in _spectrum_rows(measured)]
            message = measured.message if measured else outcome.message
            rows["checkpoints"].append(keys | described | {"status": outcome.status, "message": message})
        rows["emergence"] += _emergence_rows(store, inputs, model)
        rows["benchmarks"] += [
            {"suite": model.suite, "model": model.model, **evaluation.as_dict()} for evaluation in evaluations
        ]
    return {name: _typed(rows[name], COLUMNS[name]) for name in COLUMNS}


def _row_keys(located: Located) -> dict:
    return {
        "suite": located.suite,
        "model": located.model,
        "revision": located.revision,
        "step": located.step,
    }


def _sample_rows(measured: Measurement, nodes_per_layer: int):
    for number, (sample, edges) in enumerate(zip(measured.samples, measured.network_edges, strict=True)):
        yield {
            "sample": number,
            "nodes_per_layer": nodes_per_layer,
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
        }


def _spectrum_rows(measured: Measurement):
    for number, sample in enumerate(measured.samples):
        for position, q in enumerate(sample.q):
            ends = position >= sample.alpha.size  # forward differences have one value fewer
            yield {
                "sample": number,
                "q": q,
                "tau": sample.tau[position],
                "alpha": float("nan") if ends else sample.alpha[position],
                "f": float("nan") if ends else sample.f[position],
                "r2": sample.r2[position],
            }


def _emergence_rows(store: ArtefactStore, inputs: Inputs, model: Model):
    present = emergence.present_members(store, inputs.history(model))
    if not present:
        return
    located = {member.located.revision: member.located for member in inputs.of_model(model)}
    stored = store.read(emergence.STAGE, emergence.emergence_key(present, inputs.asked))
    for row in emergence.rows_of(stored):
        baseline = {"method": "sampled", "baseline_step": inputs.asked.baseline_step}
        yield _row_keys(located[row["revision"]]) | baseline | row


def _typed(rows: list[dict], columns: dict[str, str]) -> pd.DataFrame:
    types = _KEYS | columns
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """The table as a Parquet file: the same table gives the same bytes."""
    return table.to_parquet(index=False, engine="pyarrow", compression="zstd")
