"""MEmeL in two processes: each has the statistics of both's batches, as one process that sees them all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch has no gloo", allow_module_level=True)
from neurons import memel_ranks  # noqa: E402


def of_ranks(work, folder):
    """What both ranks found."""
    tests = Path(memel_ranks.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])}
    ranks = [
        subprocess.Popen(
            [sys.executable, memel_ranks.__file__, str(rank), str(folder), work],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(memel_ranks.RANKS)
    ]  # fmt: skip
    try:
        printed = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(printed)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(memel_ranks.RANKS)]


def test_two_ranks_have_the_statistics_of_one_process_with_both_batches(tmp_path):
    first, second = of_ranks("statistics", tmp_path)
    for number, layer in enumerate(memel_ranks.layers()):
        outs = []
        for (one, of_one), (other, of_other) in zip(memel_ranks.batches(0), memel_ranks.batches(1), strict=True):
            outs.append(layer(torch.cat([one, other]), torch.cat([of_one, of_other])))
        assert not torch.equal(outs[3][:3], one)
        for name, wanted in layer.state_dict().items():
            assert torch.equal(first["states"][number][name], second["states"][number][name])
            torch.testing.assert_close(first["states"][number][name], wanted, rtol=2e-5, atol=1e-6)
        for wanted, one, other in zip(outs, first["outs"][number], second["outs"][number], strict=True):
            torch.testing.assert_close(torch.cat([one, other]), wanted, rtol=1e-6, atol=0)


def test_a_wrapped_model_of_transformers_trains_and_its_ranks_stay_alike(tmp_path):
    first, second = of_ranks("training", tmp_path)
    assert first.keys() == second.keys()
    assert all(torch.equal(values, second[name]) for name, values in first.items())
    assert {values.item() for name, values in first.items() if name.endswith("steps")} == {3}
    counts = {int(values[0]) for name, values in first.items() if name.endswith("memel.scale.count")}
    assert counts == {3 * (7 + 5)}


def test_a_rank_whose_batch_is_empty_keeps_nobody_waiting(tmp_path):
    first, second = of_ranks("uneven", tmp_path)
    layer = memel_ranks.MEmeL(late_start=2)
    pairs = zip(memel_ranks.batches(0), memel_ranks.batches(1), strict=True)
    for number, ((one, _), (other, _)) in enumerate(pairs):
        layer(one if number == 2 else torch.cat([one, other]))
    for name, wanted in layer.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], wanted, rtol=2e-5, atol=1e-6)


def test_activations_of_one_rank_that_are_no_numbers_are_refused_by_all(tmp_path):
    found = of_ranks("nonfinite", tmp_path)
    assert [one["refused"].tolist() for one in found] == [[2], [2]]
    assert torch.equal(found[0]["scale.mean"], found[1]["scale.mean"])
    assert found[0]["scale.mean"].isfinite().all()
    assert found[0]["scale.steps"] == 3
