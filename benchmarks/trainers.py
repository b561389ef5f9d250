"""A trainer's file, of which most is no weights: how much of it is read."""

from pathlib import Path

from benchmarks.measures import in_new_process

_CODE = """
from ninscope.measuring import measure_all

def read_bytes():
    return int(next(line for line in open("/proc/self/io") if line.startswith("rchar")).split()[1])

measure_all({warming!r}, workers=1)
before = read_bytes()
(row,) = measure_all({measured!r}, workers=1)
assert row.status == "ok", row.message
result = read_bytes() - before
"""


def trainers(folder: Path, blocks: int, width: int):
    """A Lightning checkpoint, two thirds of which are its optimizer's state: bytes that an exact measure reads."""
    import torch

    if not Path("/proc/self/io").exists():  # tells what a process read
        return
    tensors = {f"net.blocks.{n}.weight": torch.randn(width, width) * 0.1 for n in range(blocks)}
    moments = {n: {"exp_avg": t.clone(), "exp_avg_sq": t.clone()} for n, t in enumerate(tensors.values())}
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-3, "params": list(moments)}]}
    trained = {
        "epoch": 3,
        "global_step": 120,
        "state_dict": tensors,
        "optimizer_states": [optimizer],
        "lr_schedulers": [],
    }
    file = folder / "epoch=3-step=120.ckpt"
    torch.save(trained, file)
    warming = folder / "warming.ckpt"
    torch.save({"state_dict": {"net.blocks.0.weight": tensors["net.blocks.0.weight"][:16, :16].clone()}}, warming)
    weights = blocks * width * width * 4
    found = in_new_process(_CODE.format(warming=str(warming), measured=str(file)))
    beside = f"its weights {weights / 1e6:.1f} MB of {file.stat().st_size / 1e6:.1f} MB; wanted: 1.02 times"
    yield "bytes read of a Lightning checkpoint", found["result"] / 1e6, "MB", beside, found["result"] / weights
