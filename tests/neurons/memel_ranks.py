"""What each of two processes does in tests of MEmeL under torch.distributed; run as `python memel_ranks.py RANK FOLDER WORK`."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ninscope.errors import NonFiniteError
from ninscope.neurons.memel import MEmeL, insert_memel

RANKS = 2
SETTINGS = [
    {"neurons": neurons, "select": select, "forget": forget}
    for neurons in ("features", "positions")
    for select, forget in (("top-1", None), ("top-3", 2), ({"threshold": 2.0}, None))
]


def batches(rank: int):
    """Four of each rank, of 3 and of 5 samples, padded, around 300: [samples, 6, 4] and masks."""
    generator = torch.Generator().manual_seed(40 + rank)
    for _ in range(4):
        h = 300 + torch.randn(3 + 2 * rank, 6, 4, generator=generator)
        yield h, torch.rand(3 + 2 * rank, 6, generator=generator) < 0.7


def layers() -> list[MEmeL]:
    return [MEmeL(late_start=2, **settings) for settings in SETTINGS]


def statistics(rank: int) -> dict:
    found = layers()
    outs = [[layer(h, mask) for h, mask in batches(rank)] for layer in found]
    return {"states": [layer.state_dict() for layer in found], "outs": outs}


def uneven(rank: int) -> dict:
    """The second rank's third batch is empty."""
    layer = MEmeL(late_start=2)
    for number, (h, _) in enumerate(batches(rank)):
        layer(h[:0] if (rank, number) == (1, 2) else h)
    return layer.state_dict()


def nonfinite(rank: int) -> dict:
    """The second rank's third batch holds a NaN; says which batches were refused."""
    layer, refused = MEmeL(late_start=2), []
    for number, (h, _) in enumerate(batches(rank)):
        if (rank, number) == (1, 2):
            h[0, 0, 0] = float("nan")
        try:
            layer(h)
        except NonFiniteError:
            refused.append(number)
    return {"refused": torch.tensor(refused), **layer.state_dict()}


def training(rank: int) -> dict:
    from neurons.memel_models import bert, tokens

    torch.manual_seed(0)
    model = bert(hidden_dropout_prob=0, attention_probs_dropout_prob=0).train()
    insert_memel(model, late_start=1)
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    given = {name: values[rank::RANKS][:1] for name, values in tokens().items()}
    for step in range(3):
        optimizer.zero_grad()
        wrapped(**given, labels=torch.tensor([(rank + step) % 3])).loss.backward()
        optimizer.step()
    return model.state_dict()


if __name__ == "__main__":
    rank, folder, work = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=RANKS)
    works = {"statistics": statistics, "training": training, "uneven": uneven, "nonfinite": nonfinite}
    torch.save(works[work](rank), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
