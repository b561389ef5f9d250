"""What a user is told at the end of a run, and by `ninscope status`."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ninscope.checkpoints.verification import without_unverified
from ninscope.report.analysis_rows import of_analysis, whole_networks
from ninscope.report.model_names import model_names
from ninscope.wording import of_number, with_own_models
from ninscope_pipeline.opened_run import Run
from ninscope_pipeline.request.analyses import DEFAULT
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore


@dataclass(frozen=True)
class Problem:
    """A checkpoint that is not ok."""

    suite: str
    model: str
    revision: str
    status: str
    message: str

    def line(self) -> str:
        return f"{self.suite}/{self.model} {self.revision}: {self.status}: {self.message}"


def problems_of(checkpoints: pd.DataFrame) -> list[Problem]:
    bad = checkpoints[checkpoints["status"] != "ok"]
    return [Problem(*row) for row in bad[["suite", "model", "revision", "status", "message"]].itertuples(index=False)]


def stage_problems(run: Run) -> list[str]:
    """A line for everything that failed and has rows of its own (a fine-tune, say), unless its checkpoint is at fault."""
    return [line for stage in stages().values() for line in stage.problems(run)]


def notes_of(run: Run) -> list[str]:
    """What is worth knowing of checkpoints that are ok, each distinct note once, with how many rows it concerns."""
    notes = []
    for table in ("checkpoints", "emergence"):
        rows = run.table(table)
        rows = rows.assign(message=rows["message"].fillna("").map(without_unverified))
        rows = rows[rows["message"] != ""]
        rows = rows[rows["status"] == "ok"] if table == "checkpoints" else whole_networks(rows)
        for (suite, model, message), group in rows.groupby(["suite", "model", "message"], sort=False):
            revisions = group["revision"].unique()
            where = revisions[0] if len(revisions) == 1 else f"{len(revisions)} checkpoints"
            notes.append(f"{suite}/{model} {where}: {_of_variants(group)}{message}")
    return notes


def _of_variants(rows: pd.DataFrame) -> str:
    """Whose note it is, where it is not that of [analysis]."""
    variants = rows["variant"].unique().tolist() if "variant" in rows else [DEFAULT]
    return "" if DEFAULT in variants else f"{', '.join(variants)}: "


def summary_lines(run: Run) -> list[str]:
    """How many checkpoints are ok, where E went and what speaks against it, and what to look at."""
    checkpoints, emergence = run.table("checkpoints"), of_analysis(run.table("emergence"))
    ok = int((checkpoints["status"] == "ok").sum())
    shown = [path for path in run.figures if path.stem.endswith("emergence")]
    look = shown[-1] if len(shown) == 1 else run.path / "figures"
    made = run.own_models
    counted = with_own_models(f"{ok} of {of_number(len(checkpoints), 'checkpoint')} ok", len(checkpoints), len(made))
    table = "emergence" if len(checkpoints) or not made else made[0]["table"]
    return [
        f"{run.path.name}: {counted}",
        *_about_e(run, emergence),
        *(line for stage in stages().values() for line in stage.summary(run)),
        f"figures: {near(look)}; tables: ninscope.open_run({str(near(run.path))!r}).table({table!r})",
        f"page: ninscope report {shlex.quote(str(near(run.path)))}",
    ]


def _about_e(run: Run, emergence: pd.DataFrame) -> Iterator[str]:
    """emergence: the rows of that table that come from [analysis] itself."""
    known = emergence.dropna(subset=["emergence", "step"])
    if (known["method"] == "exact").any():
        known = known[known["method"] == "exact"]
    if len(known):
        top = known.iloc[int(known["emergence"].argmax())]
        model = model_names(emergence)[top["suite"], top["model"]]
        where = f"{model} at step {top['step']}"
        yield f"largest E: {top['emergence']:.3f}, {where} ({top['method']}); {_judged(run, top)}"
        if top["warning"]:
            yield f"warning of that E: {top['warning']}"
    warned = emergence[emergence["warning"].fillna("") != ""]
    if len(warned):
        of_all = emergence[["suite", "model", "revision"]].drop_duplicates()
        revisions = warned[["suite", "model", "revision"]].drop_duplicates()
        yield f"warnings at {len(revisions)} of {of_number(len(of_all), 'checkpoint')} (column warning)"


def _judged(run: Run, top: pd.Series) -> str:
    """What the controls say of one row of the table `emergence`, a clause."""
    controls = of_analysis(run.table("controls")) if "controls" in run.tables else pd.DataFrame()
    if controls.empty:
        return "growth of weight norms is not ruled out without [controls]"
    same = (controls[["suite", "model", "revision"]] == top[["suite", "model", "revision"]].tolist()).all(axis=1)
    verdicts = controls[same]["verdict"].dropna()
    if top["method"] == "exact" and len(verdicts):
        return f"verdict: {verdicts.iloc[0]}"
    return "the table controls has no verdict on it"


def near(path: Path) -> Path:
    """The path as seen from the working directory, where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@dataclass(frozen=True)
class Progress:
    """How far a run is: stage -> (artefacts there, artefacts planned); finished: its tables are written.

    checkpoints, own_models: how many it is about. training: how far the training is that it is of, in clauses; else empty.
    """

    stages: dict[str, tuple[int, int]]
    problems: list[Problem]
    finished: bool
    checkpoints: int
    own_models: int
    training: str = ""


def progress_of(run: Run) -> Progress:
    """From the plan that the run wrote down when it started, and what is in the store now."""
    plan, store = run.plan, ArtefactStore(RunFolder(run.path))
    planned = {stage: plan["stages"][stage] for stage in stages() if stage in plan["stages"]}
    counts = {stage: (sum(store.has(stage, key) for key in keys), len(keys)) for stage, keys in planned.items()}
    finished = run.finished
    if finished:
        problems = problems_of(run.table("checkpoints"))
    else:
        fields = ("suite", "model", "revision", "status", "message")
        problems = [Problem(*(c[f] for f in fields)) for c in plan["checkpoints"] if c["status"] != "ok"]
    return Progress(counts, problems, finished, len(plan["checkpoints"]), len(run.own_models), _of_training(run))


def _of_training(run: Run) -> str:
    """How far a training is whose run this is, and where its tables are behind, which cannot be written then."""
    training = run.training
    if training is None:
        return ""
    behind = training.steps - training.tabled
    return training.text + (f"; the tables are without {of_number(behind, 'step')}" if behind > 0 else "")
