"""Runs with [[neurons]] whose whole process group is killed, or that do two jobs at once: the same bytes."""

from pathlib import Path

import pytest
from driving import UNDRAWN, command, contents, killed_when, write_dag

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from finetune_models import add_sections, neox_suite, write_prose
from models_here import _models_in_this_process  # noqa: F401 (fixture: the command that is killed has its processes)

from ninscope_pipeline.stages.neurons.planning import KEPT, NEURONS

pytestmark = pytest.mark.slow
STEPS = (0, 1, 2, 4)


@pytest.fixture(scope="module")
def dag(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("killed")
    neox_suite(place / "tiny", STEPS)
    write_prose(place)
    section = {
        "text": "prose.txt",
        "window": 16,
        "tokens": 512,
        "tokenizer": "bytes",
        "batch_size": 8,
        "neuron_values": True,
    }
    return add_sections(write_dag(place / "tiny.toml", Path("tiny")), neurons=section)


@pytest.fixture(scope="module")
def undisturbed(dag, undrawn) -> Path:
    """One job after the other, in this process."""
    ended = command("run", dag, "--runs-dir", dag.parent / "undisturbed", "--workers", "1")
    assert (ended.code, ended.says) == (0, [])
    return dag.parent / "undisturbed" / "tiny"


def assert_same(run: Path, undisturbed: Path) -> None:
    for part in ("tables", "figures", f"store.zarr/{NEURONS}", f"store.zarr/{KEPT}"):
        assert contents(run / part) == contents(undisturbed / part), part


def kept(run: Path) -> int:
    """Results of single measures that are stored."""
    return len(list((run / "checksums" / KEPT).glob("*.json")))


def kill_when(dag: Path, runs: Path, more_than: int) -> int:
    """Start the command, kill all of it as soon as more results are kept than these, and return how many then are."""
    run = runs / "tiny"
    words = [*UNDRAWN, "run", str(dag), "--runs-dir", str(runs), "--workers", "1"]
    killed_when(words, runs.parent / "out.txt", lambda: kept(run) > more_than)
    return kept(run)


def test_killed_is_as_never(dag, undisturbed, tmp_path):
    """What was kept stays, counts as not done where its job is not, and is gone on from."""
    runs = tmp_path / "runs"
    left = kill_when(dag, runs, 0)
    assert "not finished" in command("status", runs / "tiny").out
    assert 0 < left < kept(undisturbed)
    ended = command("run", dag, "--runs-dir", runs, "--workers", "1")
    assert (ended.code, ended.says) == (0, [])
    assert_same(runs / "tiny", undisturbed)


def test_two_at_once(dag, undisturbed, tmp_path):
    ended = command("run", dag, "--runs-dir", tmp_path / "runs", "--workers", "2")
    assert (ended.code, ended.says) == (0, [])
    assert_same(tmp_path / "runs" / "tiny", undisturbed)
