"""Fine-tunes whose whole run is killed, or that run elsewhere or at once: the same bytes."""

import json
from pathlib import Path

import pytest
from driving import COMMAND, command, contents, killed_when, write_dag

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from finetune_models import add_sections, finetune_section, language_task, neox_suite
from models_here import _models_in_this_process  # noqa: F401 (fixture: the command that is killed first has its processes)

pytestmark = pytest.mark.slow

METHODS, STEPS, EVERY = ["none", "naive_shift"], 20, 5


@pytest.fixture(scope="module")
def dag(tmp_path_factory) -> Path:
    """Two methods, with dropout, and a state saved at every evaluation."""
    place = tmp_path_factory.mktemp("killed")
    neox_suite(place / "tiny", (0, 4), hidden_dropout=0.1, attention_dropout=0.1)
    task = language_task(place)
    lasting = {
        "methods": METHODS,
        "seeds": [0],
        "revisions": "last",
        "steps": STEPS,
        "evaluate_every": EVERY,
        "late_start": 3,
    }
    dag = write_dag(place / "tiny.toml", Path("tiny"), exact=True, nodes_per_layer="all", samples=None)
    return add_sections(dag, finetune=finetune_section(task, **lasting), activations={"task": task})


@pytest.fixture(scope="module")
def undisturbed(dag, undrawn) -> Path:
    """One fine-tune after the other, in this process."""
    ended = command("run", dag, "--runs-dir", dag.parent / "undisturbed", "--workers", "1")
    assert (ended.code, ended.says) == (0, [])
    return dag.parent / "undisturbed" / "tiny"


def assert_same(run: Path, undisturbed: Path) -> None:
    for part in ("tables", "figures", "store.zarr/finetune", "store.zarr/activations", "store.zarr/exact"):
        assert contents(run / part) == contents(undisturbed / part), part
    assert not list((run / "finetunes").iterdir())


def reached(run: Path) -> dict[str, int]:
    """The step of every fine-tune that has a state and no end."""
    return {path.parent.name: int(path.name.split("-")[0]) for path in run.glob("finetunes/*/*-*.safetensors")}


def killed_at(dag: Path, runs: Path, enough) -> dict[str, int]:
    """Start the command, kill all of it as soon as enough(states) is so, and return the states that are left."""
    run = runs / "tiny"
    words = [*COMMAND, "run", str(dag), "--runs-dir", str(runs), "--workers", "1"]
    killed_when(words, runs.parent / "out.txt", lambda: enough(reached(run)))
    return reached(run)


def test_killed_twice_is_as_never(dag, undisturbed, tmp_path):
    """What an interrupted fine-tune reached counts as not done, is told by --dry-run and status, and is gone on from."""
    runs = tmp_path / "runs"
    first = killed_at(dag, runs, lambda states: any(step >= EVERY for step in states.values()))
    assert first
    assert all(0 < step < STEPS for step in first.values())
    would = [stage for stage, _ in command("run", dag, "--runs-dir", runs, "--dry-run").would_run]
    assert would.count("finetune") + len(list((runs / "tiny" / "store.zarr" / "finetune").glob("*"))) == len(METHODS)
    assert "not finished" in command("status", runs / "tiny").out
    planned = json.loads((runs / "tiny" / "plan.json").read_text())["stages"]
    assert len(planned["finetune"]) == len(METHODS)
    (key, step), *_ = first.items()
    second = killed_at(
        dag, runs, lambda states: states.get(key, 0) > step or (key not in states and any(states.values()))
    )
    assert second
    assert second.get(key, STEPS) > step  # it went on from where it was
    ended = command("run", dag, "--runs-dir", runs, "--workers", "1")
    assert (ended.code, ended.says) == (0, [])
    assert_same(runs / "tiny", undisturbed)


def test_two_at_once_in_one_process(dag, undisturbed, tmp_path):
    """Dropout draws from a generator that is the process's."""
    ended = command("run", dag, "--runs-dir", tmp_path / "runs", "--workers", "2")
    assert (ended.code, ended.says) == (0, [])
    assert_same(tmp_path / "runs" / "tiny", undisturbed)
