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
if not hasattr(os, "fork"):
    pytest.skip("the two processes are forked", allow_module_level=True)
from neurons import memel_ranks  # noqa: E402

pytestmark = pytest.mark.slow  # one start of two processes for all of them


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What both ranks computed, by the name of the work."""
    folder = tmp_path_factory.mktemp("ranks")
    tests = Path(memel_ranks.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run(
        [sys.executable, memel_ranks.__file__, str(folder)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(memel_ranks.RANKS)]


def assert_states(first, second, layer):
    """Both ranks have the very same statistics, and those of `layer`, which one process has run."""
    for name, expected in layer.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected, rtol=2e-5, atol=1e-6)


def test_two_ranks_have_the_statistics_of_one_process_with_both_batches(ranks):
    first, second = (rank["statistics"] for rank in ranks)
    for number, layer in enumerate(memel_ranks.layers()):
        outs = []
        for (one, one_mask), (other, other_mask) in zip(memel_ranks.batches(0), memel_ranks.batches(1), strict=True):
            outs.append(layer(torch.cat([one, other]), torch.cat([one_mask, other_mask])))
        assert not torch.equal(outs[3][:3], one)
        assert_states(first["states"][number], second["states"][number], layer)
        for expected, one, other in zip(outs, first["outs"][number], second["outs"][number], strict=True):
            torch.testing.assert_close(torch.cat([one, other]), expected, rtol=1e-6, atol=0)


def test_a_wrapped_model_of_transformers_trains_and_its_ranks_stay_alike(ranks):
    first, second = (rank["training"] for rank in ranks)
    assert first.keys() == second.keys()
    assert all(torch.equal(values, second[name]) for name, values in first.items())
    assert {values.item() for name, values in first.items() if name.endswith("steps")} == {3}
    counts = {int(values[0]) for name, values in first.items() if name.endswith("memel.scale.count")}
    assert counts == {3 * (7 + 5)}


def test_a_rank_whose_batch_is_empty_keeps_nobody_waiting(ranks):
    layer = memel_ranks.MEmeL(late_start=2)
    pairs = zip(memel_ranks.batches(0), memel_ranks.batches(1), strict=True)
    for number, ((one, _), (other, _)) in enumerate(pairs):
        layer(one if number == 2 else torch.cat([one, other]))
    assert_states(*(rank["uneven"] for rank in ranks), layer)


def test_images_of_one_rank_that_are_none_keep_nobody_waiting(ranks):
    for number, layer in enumerate(memel_ranks.image_layers()):
        for pair in zip(memel_ranks.images(0), memel_ranks.images(1), strict=True):
            layer(torch.cat(pair))
        assert_states(*(rank["empty_images"][number] for rank in ranks), layer)


def test_activations_of_one_rank_that_are_no_numbers_are_refused_by_all(ranks):
    first, second = (rank["nonfinite"] for rank in ranks)
    assert [first["refused"].tolist(), second["refused"].tolist()] == [[2], [2]]
    assert torch.equal(first["scale.mean"], second["scale.mean"])
    assert first["scale.mean"].isfinite().all()
    assert first["scale.steps"] == 3


def test_padding_is_known_inside_a_model_that_was_wrapped_before(ranks):
    for counts in (rank["wrapped_before"] for rank in ranks):
        assert list(counts) == [f"module.bert.encoder.layer.{number}.attention" for number in (2, 3)]
        assert all(count.tolist() == [7 + 5] * 16 for count in counts.values())
