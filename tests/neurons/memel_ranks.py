"""The work of two processes in tests of MEmeL under torch.distributed: `python memel_ranks.py FOLDER`.

One process imports everything and then forks, since importing takes longer than the work. Each rank does all the work, and
writes what it computed to FOLDER/RANK.pt.
"""

import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from neurons.memel_models import bert, tokens
from torch.nn.parallel import DistributedDataParallel

from ninscope.errors import NonFiniteError
from ninscope.neurons.memel import MEmeL, insert_memel

RANKS = 2
SETTINGS = [
    {"neurons": neurons, "select": select, "forget": forget}
    for neurons in ("features", "positions")
    for select, forget in (("top-1", None), ("top-3", 2), ({"threshold": 2.0}, None))
]
IMAGE_SELECTIONS = ("top-1", "top-3")


def batches(rank: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Four batches of every rank, of 3 and of 5 samples, padded, around 300: [samples, 6, 4] and masks."""
    generator = torch.Generator().manual_seed(40 + rank)
    for _ in range(4):
        h = 300 + torch.randn(3 + 2 * rank, 6, 4, generator=generator)
        yield h, torch.rand(3 + 2 * rank, 6, generator=generator) < 0.7


def images(rank: int) -> list[torch.Tensor]:
    """Three batches of a rank, channels in dimension 1; the first rank's first and the second rank's third are empty."""
    generator = torch.Generator().manual_seed(rank)
    drawn = [torch.randn(2, 3, 4, 4, generator=generator) for _ in range(3)]
    empty = 0 if rank == 0 else 2
    return [h[:0] if number == empty else h for number, h in enumerate(drawn)]


def layers() -> list[MEmeL]:
    return [MEmeL(late_start=2, **settings) for settings in SETTINGS]


def image_layers() -> list[MEmeL]:
    return [MEmeL(select=select, late_start=1, feature_dim=1) for select in IMAGE_SELECTIONS]


def statistics(rank: int) -> dict:
    memels = layers()
    outs = [[layer(h, mask) for h, mask in batches(rank)] for layer in memels]
    return {"states": [layer.state_dict() for layer in memels], "outs": outs}


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


def empty_images(rank: int) -> list[dict]:
    memels = image_layers()
    for layer in memels:
        for h in images(rank):
            layer(h)
    return [layer.state_dict() for layer in memels]


def training(rank: int) -> dict:
    torch.manual_seed(0)
    model = bert(hidden_dropout_prob=0, attention_probs_dropout_prob=0).train()
    insert_memel(model, late_start=1)
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    inputs = {name: values[rank::RANKS][:1] for name, values in tokens().items()}
    for step in range(3):
        optimizer.zero_grad()
        wrapped(**inputs, labels=torch.tensor([(rank + step) % 3])).loss.backward()
        optimizer.step()
    return model.state_dict()


def wrapped_before(rank: int) -> dict:
    """MEmeL is inserted into what DistributedDataParallel made of a model, which is given padding by position."""
    torch.manual_seed(0)
    wrapped = DistributedDataParallel(bert(hidden_dropout_prob=0).train())
    inserted = insert_memel(wrapped, "middle:2")
    inputs = {name: values[rank : rank + 1] for name, values in tokens().items()}
    wrapped(inputs["input_ids"], inputs["attention_mask"]).logits.sum().backward()
    return {name: memel.scale.count for name, memel in inserted.items()}


WORK = (statistics, uneven, nonfinite, empty_images, training, wrapped_before)


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    child = os.fork()  # before torch has any thread
    rank = 0 if child else 1
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=RANKS, timeout=timedelta(seconds=120)
    )
    torch.save({work.__name__: work(rank) for work in WORK}, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
