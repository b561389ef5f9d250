"""What `ninscope` says without a command: where one stands, and what to do next."""

import shlex
from collections.abc import Collection
from pathlib import Path

import ninscope
from ninscope.errors import printable
from ninscope.wording import of_number, with_own_models
from ninscope_pipeline.live.state import training_state
from ninscope_pipeline.run_folders import folders_in
from ninscope_pipeline.storing.manifest import is_finished
from ninscope_pipeline.storing.runfolder import RUNS, RunFolder

Step = tuple[str, str]  # a command and what it does

_FIRST = (("demo", "run the main experiment on the small suite that ships (seconds)"),)
_ALWAYS = (
    ("measure SOURCE", "measure a checkpoint, a folder of them, or a Hub repository (org/name)"),
    ("run DAG.toml", "run an experiment of your own (docs/dag-files.md)"),
    ("doctor", "check this environment"),
    ("--help", "list every command; README.md and docs/ tell more"),
)


def show_next_steps(commands: Collection[str]) -> None:
    """Print where the newest run of ./runs stands, if there is one, and commands that fit. commands: those that there are."""
    print(
        f"ninscope {ninscope.__version__}: the network of neurons inside a model, measured from its weights while it trains\n"
    )
    runs = list(folders_in(RUNS))
    if runs:
        steps = _steps_after(RunFolder(max(runs, key=_last_asked)), len(runs))
    else:
        print(f"There is no run in {RUNS}/ yet. Next:\n")
        steps = _FIRST
    listed = [(step, what) for step, what in (*steps, *_ALWAYS) if step.startswith("-") or step.split()[0] in commands]
    width = max(len(step) for step, _ in listed)
    for step, what in listed:
        print(f"  ninscope {step:{width}}  {what}")


def _steps_after(newest: RunFolder, count: int) -> tuple[Step, ...]:
    name, finished = newest.root.name, is_finished(newest)
    training = training_state(newest)
    state = training.word if training is not None else "finished" if finished else "not finished"
    plan = newest.read_plan()
    checkpoints, own = plan["checkpoints"], plan.get("own_models", [])
    count_of = training.steps if training is not None else len(checkpoints)
    about = with_own_models(of_number(count_of, "checkpoint"), count_of, len(own))
    print(f"{RUNS}/ holds {of_number(count, 'run')}; the newest is {printable(name)}: {state}, {about}. Next:\n")
    run = shlex.quote(printable(name))
    status = f"status {run}", "see its stages, and checkpoints that are not ok"
    if not finished and training is None:  # tables of a training are written when they are read
        return (status, ("run ...", "the same command again continues it"))
    what = "step, method, emergence FROM emergence" if checkpoints or not own else f"* FROM {own[0]['table']}"
    ask = f'query {run} "SELECT {what}"', "ask its tables in SQL"
    return status, (f"report {run}", "put its figures and tables on one page"), ask


def _last_asked(run: Path) -> float:
    return (run / "run.toml").stat().st_mtime
