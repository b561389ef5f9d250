"""`make gpu`: on an NVIDIA GPU, whether its kernels give the CPU's integers, how fast they count, and what a whole measure takes.

Under four minutes on one GPU; the last line is JSON. Ends with 1 where integers differ, with 2 where there is no GPU. --simulated
runs it all at tiny sizes on the CPU, under numba's simulator: its figures mean nothing, but the integers must be the same.
"""

import argparse
import json
import os
import pickle
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.shapes import SHAPES, used_shapes

TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
_FACTORS = (1.0, 0.4, 2.2)  # of three readings that are counted at once
_WEIGHTS_A_SECOND = {"F16": 2e11, "BF16": 2e11, "F32": 1.5e11}  # wanted
_SECONDS = {"70m": 0.010, "6.9b": 0.5}
_BEYOND_MODEL = 256e6
_SPARE_BYTES = 2e9  # of the device, beyond a model that is measured


@dataclass
class Figures:
    """What was found. figures: by what it is, the value, its unit, and what was wanted, if anything was."""

    device: str
    different: list[str] = field(default_factory=list)
    compared: int = 0
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def compare(self, what: str, on_device: Any, on_cpu: Any) -> None:
        same = np.array_equal(on_device, on_cpu)
        self.compared += 1
        if not same:
            self.different.append(what)
            print(f"DIFFERENT: {what}", flush=True)

    def add(
        self, what: str, value: float, unit: str, wanted: float | None = None, more_is_better: bool = False
    ) -> None:
        met = None if wanted is None else bool(value >= wanted if more_is_better else value <= wanted)
        self.figures[what] = {"value": value, "unit": unit, "wanted": wanted, "met": met}
        limit = "" if wanted is None else f"   wanted: {wanted:.3g}, {'met' if met else 'NOT MET'}"
        print(f"{what}: {value:.4g} {unit}{limit}", flush=True)


@dataclass(frozen=True)
class Sizes:
    """compared, counted: rows and columns of matrices; runs: of what is timed; models: shape and type of whole models."""

    compared: tuple[int, int]
    counted: tuple[int, int]
    runs: int
    models: tuple[tuple[str, str], ...]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--simulated", action="store_true", help="at tiny sizes, on the CPU: shows that the script works"
    )
    simulated = parser.parse_args().simulated
    if simulated:
        os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
    try:
        import torch
    except ImportError:
        print("torch is not installed, so there is no model on a GPU to measure: pip install 'ninscope[cuda]' torch")
        return 2
    if not simulated and not torch.cuda.is_available():
        print("no GPU here (torch.cuda.is_available() is False): nothing was compared, nothing was measured")
        return 2
    with ExitStack() as stack:
        if simulated:
            sys.setswitchinterval(0.0005)
            stack.enter_context(mock.patch("ninscope.exact.bands.lies_on_device", return_value=True))
            return _measured("cpu", Sizes((40, 6), (60, 4), 1, (("tiny", "BF16"),)), "numba's simulator")
        name = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {platform.python_version()}"
        models = (("70m", "F32"), ("70m", "BF16"), ("6.9b", "BF16"))
        return _measured("cuda", Sizes((3000, 1500), (16384, 4096), 20, models), name)


def _measured(device: str, sizes: Sizes, name: str) -> int:
    from ninscope.devices import kernel_of

    found = Figures(name)
    print(f"{name}, {os.cpu_count()} cores", flush=True)
    if kernel_of(device) is None:
        print("numba-cuda cannot count here, as said above: nothing was compared, nothing was measured")
        return 2
    start = time.perf_counter()
    _compare(device, sizes.compared, found)
    print(f"{found.compared} comparisons with the CPU's integers, {len(found.different)} different", flush=True)
    for dtype in TYPES:
        _count(device, sizes, dtype, found)
    for shape, dtype in sizes.models:
        _measure(device, shape, dtype, sizes.runs, found)
    found.add("all of this", time.perf_counter() - start, "s", 240)
    print(json.dumps(asdict(found)))
    return 1 if found.different else 0


def _weights(device: str, shape: tuple[int, int], dtype: str, special: bool) -> Any:
    """Weights as Pythia's 70M has them, seeded; with the special numbers of the type among them."""
    import torch

    generator = torch.Generator(device).manual_seed(len(dtype) + shape[0])
    values = torch.empty(shape, dtype=getattr(torch, TYPES[dtype]), device=device).normal_(0, 0.03, generator=generator)
    if special:
        flat = values.view(-1)
        bounds = [2 / (2 * n + 1) for n in range(1, 152)]
        bits = torch.tensor(bounds, dtype=torch.float64).to(values.dtype).view(_integers(values))
        beside = torch.cat([bits - 1, bits, bits + 1]).view(values.dtype)
        others = torch.tensor([0.0, -0.0, 1.0, 1e-7, 1e-40, 65000.0, float("nan"), float("-inf")]).to(values.dtype)
        numbers = torch.cat([beside, -beside, others]).to(device)
        places = torch.randperm(flat.numel(), generator=torch.Generator().manual_seed(0))[: numbers.numel()].to(device)
        flat[places] = numbers[: places.numel()]
    return values


def _integers(values: Any) -> Any:
    import torch

    return torch.int16 if values.element_size() == 2 else torch.int32


def _compare(device: str, shape: tuple[int, int], found: Figures) -> None:
    """Counts, sums of distances and sums of squares of each type, orientation and kind of table, and of views, with the CPU's."""
    from ninscope.devices import column_counts, device_square_sums
    from ninscope.weights.exact_sums import square_sums

    for dtype in TYPES:
        values = _weights(device, shape, dtype, special=True)
        views = {"": values, "turned over ": values.T, "with gaps ": values[1::2, : shape[1] // 2]}
        for name, table in _tables(dtype).items():
            for view, weights in views.items():
                for nodes_first in (False, True):
                    expected = _of_cpu(weights, table, nodes_first)
                    there = column_counts(weights, table, nodes_first, True)
                    what = f"{dtype}, {name}, {view}{'rows' if nodes_first else 'columns'}"
                    found.compare(f"counts of {what}", there[0], expected[0])
                    found.compare(f"distances of {what}", there[1], expected[1])
        for view, weights in views.items():
            finite = weights.nan_to_num(0.25, 0.5, -0.5)
            on_cpu = square_sums(_bits(finite), dtype)
            found.compare(f"squares of {dtype}, {view}", device_square_sums(finite), on_cpu)


def _tables(dtype: str) -> dict[str, Any]:
    from ninscope.networks.bin_table import bin_table, joint_table
    from ninscope.networks.radii import IntegerRadii, LogRadii

    tables = {
        "150 radii": bin_table(dtype, IntegerRadii()),
        "10,000 radii": bin_table(dtype, IntegerRadii(max_distance=10_000.0)),
        "a logarithmic grid": bin_table(dtype, LogRadii(60, 1e-6, 1.0)),
        "three readings": joint_table(dtype, IntegerRadii(), _FACTORS),
    }
    if dtype != "F32":
        tables["coth"] = bin_table(dtype, IntegerRadii("coth"))
    return tables


def _bits(values: Any) -> np.ndarray:
    return values.contiguous().cpu().view(_integers(values)).numpy().view(f"u{values.element_size()}")


def _of_cpu(values: Any, table: Any, nodes_first: bool) -> tuple[np.ndarray, np.ndarray]:
    from ninscope.multifractal.boxes import column_histogram, row_histogram
    from ninscope.networks.bin_table import JointTable

    nodes = values.shape[0 if nodes_first else 1]
    counts, sums = np.zeros((nodes, table.width), np.int32), np.zeros(nodes, np.int64)
    count = row_histogram if nodes_first else column_histogram
    count(_bits(values), table, counts, None if isinstance(table, JointTable) else sums)
    return counts, sums


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _seconds(work: Callable[[], object], device: str, runs: int, batch: int) -> float:
    """Seconds of one of `batch` runs, the best of several such batches, after one that compiles."""
    work()
    _wait(device)
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        for _ in range(batch):
            work()
        _wait(device)
        best = min(best, (time.perf_counter() - start) / batch)
    return best


def _count(device: str, sizes: Sizes, dtype: str, found: Figures) -> None:
    """Weights counted a second, without the copy of the counts: one layer's tally takes a matrix again and again."""
    from ninscope.devices import kernel_of

    engine = kernel_of(device)
    assert engine is not None
    values = _weights(device, sizes.counted, dtype, special=False)
    tables = _tables(dtype)
    for name, table, nodes_first, wanted in (
        ("columns", tables["150 radii"], False, _WEIGHTS_A_SECOND[dtype]),
        ("rows", tables["150 radii"], True, _WEIGHTS_A_SECOND[dtype]),
        ("columns, three readings at once", tables["three readings"], False, None),
    ):
        nodes = values.shape[0 if nodes_first else 1]
        tally = engine.tally(nodes, table.width, values.device, distances="readings" not in name)
        assert tally is not None

        def add(tally: Any = tally, table: Any = table, nodes: int = nodes, nodes_first: bool = nodes_first) -> None:
            tally.add(values, table, slice(0, nodes), nodes_first)

        seconds = _seconds(add, device, sizes.runs // 4 or 1, sizes.runs)
        found.add(f"counting {dtype}, {name}", values.numel() / seconds, "weights/s", wanted, more_is_better=True)
        del tally, add
    squares = engine.squares(1, values.device)
    seconds = _seconds(lambda: squares.add(0, values), device, sizes.runs // 4 or 1, sizes.runs)
    found.add(f"summing squares of {dtype}", values.numel() / seconds, "weights/s")


def _model(device: str, shape: str, dtype: str) -> Any:
    """A module of GPT-NeoX with such weights, its names and its configuration; no library of models is needed."""
    import torch

    blocks, width, heads = SHAPES[shape]
    root = torch.nn.Module()
    root.config = {
        "model_type": "gpt_neox", "num_hidden_layers": blocks, "hidden_size": width, "num_attention_heads": heads,
        "intermediate_size": 4 * width, "tie_word_embeddings": False,
    }  # fmt: skip
    embeddings = {f"{name}.weight": (512, width) for name in ("gpt_neox.embed_in", "embed_out")}
    for name, size in (embeddings | used_shapes(shape)).items():
        *path, leaf = name.split(".")
        module = root
        for step in path:
            if step not in module._modules:
                module.add_module(step, torch.nn.Module())
            module = module._modules[step]
        module.register_parameter(leaf, torch.nn.Parameter(_weights(device, size, dtype, special=False)))
    return root


def _measure(device: str, shape: str, dtype: str, runs: int, found: Figures) -> None:
    """`ninscope.measure` of a model on the device: seconds, memory beyond the model, and of a small one the result on the CPU."""
    import torch

    import ninscope

    weights = sum(rows * columns for rows, columns in used_shapes(shape).values())
    what = f"measure of a {shape.upper()} model in {dtype}"
    if device == "cuda" and weights * (4 if dtype == "F32" else 2) + _SPARE_BYTES > torch.cuda.mem_get_info()[0]:
        print(f"{what}: left out, the device has no room for it", flush=True)
        return
    model = _model(device, shape, dtype)
    on_device = ninscope.measure(model)
    before = _memory(device)
    seconds = []
    for _ in range(min(runs, 3) if weights > 1e9 else runs):
        start = time.perf_counter()
        ninscope.measure(model)
        seconds.append(time.perf_counter() - start)
    found.add(what, min(seconds), "s", _SECONDS.get(shape))
    found.add(f"{what}, median", statistics.median(seconds), "s")
    for name, value in _beyond(device, before):
        found.add(f"{what}, {name}", value / 1e6, "MB", _BEYOND_MODEL / 1e6)
    counting = _seconds(lambda: _counted(model, device), device, 1, 1)
    found.add(f"{what}, counting alone", counting, "s")
    if weights < 1e9:
        # The CPU's way: nothing lies on a device any more.
        with mock.patch("ninscope.exact.bands.lies_on_device", return_value=False):
            found.compare(what, [pickle.dumps(on_device)], [pickle.dumps(ninscope.measure(model.cpu()))])


def _counted(model: Any, device: str) -> None:
    """Count every matrix of a model, and copy the counts."""
    from ninscope.devices import kernel_of
    from ninscope.networks.bin_table import bin_table
    from ninscope.networks.radii import IntegerRadii

    engine = kernel_of(device)
    assert engine is not None
    tallies = []
    for values in model.parameters():
        dtype = next(name for name, kind in TYPES.items() if str(values.dtype) == f"torch.{kind}")
        table = bin_table(dtype, IntegerRadii())
        tally = engine.tally(values.shape[1], table.width, values.device)
        assert tally is not None
        tally.add(values, table, slice(0, values.shape[1]), False)
        tally.start_copy()
        tallies.append(tally)
    for tally in tallies:
        tally.counts()


def _memory(device: str) -> tuple[int, int]:
    """(bytes that torch has given out, bytes of the device that are free); what torch keeps in reserve is free."""
    import torch

    if device != "cuda":
        return 0, 0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]


def _beyond(device: str, before: tuple[int, int]) -> Iterator[tuple[str, float]]:
    """Most memory since then beyond what there was: given out by torch, and with what it keeps in reserve, of the whole device."""
    import torch

    if device == "cuda":
        yield "device memory beyond the model", torch.cuda.max_memory_allocated() - before[0]
        yield "device memory beyond the model, reserve included", before[1] - torch.cuda.mem_get_info()[0]


if __name__ == "__main__":
    sys.exit(main())
