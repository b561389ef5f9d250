"""A run over models of no known family: what their reading leaves out is said where results are read."""

import numpy as np
import pytest
from driving import command, write_dag
from suites import write_checkpoint

import ninscope

pytestmark = pytest.mark.usefixtures("undrawn")


def test_tables_of_a_run_say_it_too(tmp_path):
    rng = np.random.default_rng(0)
    for step in (0, 1):
        tensors = {
            "a.weight": rng.normal(0, 0.1, (40, 30)).astype(np.float32),
            "experts": rng.normal(0, 0.1, (4, 10, 12)).astype(np.float32),
        }
        write_checkpoint(tmp_path / "weights" / f"step{step}", tensors, {"model_type": "mine"})
    dag = write_dag(tmp_path / "tiny.toml", tmp_path / "weights", exact=True)
    ended = command("run", dag, "--runs-dir", tmp_path / "runs")
    assert ended.code == 0
    run = ninscope.open_run(tmp_path / "runs" / "tiny")
    expected = "28.6 % of the weights are left out (experts): describe them in [architecture]"
    for name in ("emergence", "samples"):
        assert [text.split("; ")[-1] for text in run.table(name)["warning"]] == [expected] * len(run.table(name))
    assert run.table("checkpoints")["message"].str.contains(r"left out: experts \(28\.6 % of the weights\)").all()
