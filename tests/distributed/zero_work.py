"""Two ranks that train with DeepSpeed's own ZeRO-3 on the CPU: `python zero_work.py FOLDER`.

What they measure is compared with what DeepSpeed gathers. Each rank writes to FOLDER/RANK.json what went wrong: nothing, or the
traceback.
"""

import json
import os
import sys
import traceback
from datetime import timedelta
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"
import deepspeed
import numpy as np
import rank_work
import torch
import torch.distributed as dist
from torch import nn

from ninscope.distributed.ranks import leads, ranks_of
from ninscope.distributed.shards import live_tensors
from ninscope.exact.live import live_analysis

RANKS = 2


def trained(model: nn.Module, batch: dict, half: bool, persistent: int = 0) -> deepspeed.DeepSpeedEngine:
    """One step. persistent: parameters of fewer numbers stay gathered."""
    settings = {
        "train_micro_batch_size_per_gpu": 1, "zero_allow_untested_optimizer": True, "bf16": {"enabled": half},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": persistent},
    }  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    engine.backward(engine(**batch).float().sum() if "input" in batch else engine(**batch).loss)
    engine.step()
    return engine


def gathered(model: nn.Module) -> dict[str, torch.Tensor]:
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def partitions_are_what_deepspeed_gathers() -> None:
    for half, persistent in ((False, 0), (True, 0), (True, 12)):
        batch = {"input": torch.ones(2, 5, dtype=torch.bfloat16 if half else torch.float32)}
        engine = trained(rank_work.layers(5, 7, 3, 1), batch, half, persistent)
        for model in (engine, engine.module):
            assert_is_what_is_gathered(model, engine.module, half)
        with torch.no_grad():
            engine(**batch)  # leaves parameters gathered
        assert_is_what_is_gathered(engine, engine.module, half)


def assert_is_what_is_gathered(model: nn.Module, plain: nn.Module, half: bool) -> None:
    ranks = ranks_of(model)
    assert ranks.count == RANKS
    assert leads(model) == (dist.get_rank() == 0)
    shares = rank_work.shares_of(live_tensors(model), ranks)
    assert {share.dtype for share in shares.values()} == {"BF16" if half else "F32"}
    pieces = {name: tuple(map(rank_work.as_float, share.pieces)) for name, share in shares.items()}
    whole = rank_work.assembled({name: share._replace(pieces=pieces[name]) for name, share in shares.items()})
    expected = gathered(plain)
    assert [name.removeprefix("module.") for name in whole] == list(expected)
    for values, tensor in zip(whole.values(), expected.values(), strict=True):
        assert np.array_equal(values, tensor.float().numpy())


def a_model_has_the_bits_of_the_whole() -> None:
    model = rank_work.neox(2, 0.08)
    torch.manual_seed(0)
    tokens = torch.randint(0, 31, (1, 9))
    engine = trained(model, {"input_ids": tokens, "labels": tokens}, half=False)
    whole = rank_work.neox(0, 0.08)
    whole.load_state_dict(gathered(engine.module), strict=False)
    network, ranks = rank_work.opened(engine)
    found = live_analysis(network, rank_work.PARAMETERS, ranks)
    assert rank_work.described(found.analysis) == rank_work.whole_analysis(whole)


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    child = os.fork()
    rank = 0 if child else 1
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_SIZE": str(RANKS)}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=RANKS, timeout=timedelta(seconds=300)
    )
    found = {}
    for work in (partitions_are_what_deepspeed_gathers, a_model_has_the_bits_of_the_whole):
        try:
            work()
            found[work.__name__] = ""
        except Exception:
            found[work.__name__] = traceback.format_exc()
        dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
