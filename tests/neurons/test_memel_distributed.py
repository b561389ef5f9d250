"""MEmeL in two processes: each has the statistics of both's batches, as one process that sees them all.

Some of what they do is here, below, and then this file is what they run.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch has no gloo", allow_module_level=True)
import torch.distributed as dist  # noqa: E402
from neurons import memel_ranks  # noqa: E402
from neurons.memel_models import bert, tokens  # noqa: E402

from ninscope.neurons.memel import MEmeL, insert_memel  # noqa: E402


def of_ranks(work, folder, script=memel_ranks.__file__):
    """What both ranks found."""
    tests = Path(memel_ranks.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])}
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(folder), work],
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


# --- what ranks do that run this file ------------------------------------------------------------------------------
def images(rank: int) -> list[torch.Tensor]:
    """Three batches of a rank, channels in dimension 1; the first rank's first and the second rank's third are empty."""
    generator = torch.Generator().manual_seed(rank)
    drawn = [torch.randn(2, 3, 4, 4, generator=generator) for _ in range(3)]
    empty = 0 if rank == 0 else 2
    return [h[:0] if number == empty else h for number, h in enumerate(drawn)]


def of_images(rank: int) -> dict:
    layers = [MEmeL(select=select, late_start=1, feature_dim=1) for select in ("top-1", "top-3")]
    for layer in layers:
        for h in images(rank):
            layer(h)
    return {
        f"{number}.{name}": values for number, layer in enumerate(layers) for name, values in layer.state_dict().items()
    }


def wrapped_before(rank: int) -> dict:
    """MEmeL goes into what DistributedDataParallel made of a model, which is told of padding by place."""
    torch.manual_seed(0)
    wrapped = torch.nn.parallel.DistributedDataParallel(bert(hidden_dropout_prob=0).train())
    inserted = insert_memel(wrapped, "middle:2")
    given = {name: values[rank : rank + 1] for name, values in tokens().items()}
    wrapped(given["input_ids"], given["attention_mask"]).logits.sum().backward()
    return {name: memel.scale.count for name, memel in inserted.items()}


def test_images_of_one_rank_that_are_none_keep_nobody_waiting(tmp_path):
    first, second = of_ranks("of_images", tmp_path, __file__)
    for number, select in enumerate(("top-1", "top-3")):
        layer = MEmeL(select=select, late_start=1, feature_dim=1)
        for pair in zip(images(0), images(1), strict=True):
            layer(torch.cat(pair))
        for name, wanted in layer.state_dict().items():
            assert torch.equal(first[f"{number}.{name}"], second[f"{number}.{name}"])
            torch.testing.assert_close(first[f"{number}.{name}"], wanted, rtol=2e-5, atol=1e-6)


def test_padding_is_known_inside_a_model_that_was_wrapped_before(tmp_path):
    for found in of_ranks("wrapped_before", tmp_path, __file__):
        assert list(found) == [f"module.bert.encoder.layer.{each}.attention" for each in (2, 3)]
        assert all(count.tolist() == [7 + 5] * 16 for count in found.values())


if __name__ == "__main__":
    number, folder, work = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=number, world_size=memel_ranks.RANKS
    )
    torch.save({"of_images": of_images, "wrapped_before": wrapped_before}[work](number), folder / f"{number}.pt")
    dist.barrier()
    dist.destroy_process_group()
