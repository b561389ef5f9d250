"""`make bench`: prints each figure, the limit or naive version beside it, and the ratio. Nothing here passes or fails."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import ninscope
from benchmarks.measures import in_new_process, timed
from benchmarks.naive_numpy import measure_one_sample
from benchmarks.shapes import SHAPES, write_checkpoint
from ninscope.measuring import measure_all
from ninscope.multifractal.partition import partition_sums


def one_sample(folder: Path, shape: str, runs: int):
    """One sample of 128 neurons a layer, from a local fp16 file in the page cache to its spectrum, in one thread."""
    checkpoint = write_checkpoint(folder / shape, shape)
    file = checkpoint / "model.safetensors"
    q = np.arange(-30, 31) / 10
    ours = timed(lambda: ninscope.measure(checkpoint, nodes_per_layer=128, samples=1), runs)
    naive = timed(lambda: measure_one_sample(checkpoint, 128, q), max(runs // 5, 1))
    buffer = bytearray(file.stat().st_size)

    def read() -> None:
        with open(file, "rb", buffering=0) as opened:
            opened.readinto(buffer)

    reading = timed(read, runs)
    name = f"one sample, {shape} shape, 128 a layer"
    yield (
        name,
        ours.median * 1e3,
        "ms",
        f"pure read of the file {reading.median * 1e3:.1f} ms",
        ours.median / reading.median,
    )
    yield "", ours.median * 1e3, "ms", f"naive numpy {naive.median * 1e3:.0f} ms", ours.median / naive.median
    yield "", ours.best * 1e3, "ms", "(best of the runs)", None


def whole_network(folder: Path, shape: str, runs: int):
    """The exact measure of a checkpoint from the page cache: every weight, in one thread and on all cores."""
    checkpoint = write_checkpoint(folder / shape, shape)
    weights = ninscope.measure(checkpoint, exact=True).samples[0].edges
    alone = timed(lambda: measure_all(checkpoint, exact=True, workers=1), runs)
    together = timed(lambda: ninscope.measure(checkpoint, exact=True), runs)
    name = f"exact, {shape} shape ({weights / 1e6:.0f}M counted edges)"
    yield (
        f"{name}, all cores",
        together.median * 1e3,
        "ms",
        f"one thread {alone.median * 1e3:.0f} ms",
        (together.median / alone.median),
    )


def orders_of_q(runs: int, nodes: int):
    """All q in one pass: the partition sums at 61 values of q against 7."""
    generator = np.random.default_rng(0)
    histogram = generator.poisson(1.0, (nodes, 151)).astype(np.int32)
    many = timed(lambda: partition_sums(histogram, 10, np.linspace(-3, 3, 61)), runs)
    few = timed(lambda: partition_sums(histogram, 10, np.linspace(-3, 3, 7)), runs)
    yield (
        f"partition sums, {nodes} nodes, 61 q",
        many.median * 1e3,
        "ms",
        f"7 q {few.median * 1e3:.1f} ms",
        (many.median / few.median),
    )


def memory(folder: Path, shape: str):
    """Peak memory of a worker that samples, stores and analyses a checkpoint, beyond its imports, against one tensor.

    "deep" has the 36 blocks of a 12B model: what a worker holds grows with blocks and sampled neurons, not with width.
    """
    checkpoint = write_checkpoint(folder / shape, shape)
    width = SHAPES[shape][1]
    warm = write_checkpoint(folder / "tiny", "tiny")
    code = (
        "import dataclasses\n"
        "from ninscope.measuring import Parameters\n"
        "from ninscope.pipeline.dagfile import Model\n"
        "from ninscope.pipeline.runfolder import RunFolder\n"
        "from ninscope.pipeline.stages import locate, network, spectrum\n"
        f"root = {str(folder / 'memory')!r}\n"
        "RunFolder(root).create()\n"
        "def stages(source, nodes_per_layer, samples):\n"
        "    parameters = Parameters(nodes_per_layer=nodes_per_layer, samples=samples).checked()\n"
        "    located = locate.locate(Model(suite='x', model='x', source=source), source.rsplit('/', 1)[1], {})\n"
        "    network_key = network.network_key(located, parameters)\n"
        "    built = network.store_network(root, located, parameters, network_key)\n"
        "    key = spectrum.spectrum_key(network_key, parameters)\n"
        "    done = spectrum.store_spectrum(root, built, network_key, parameters, key)\n"
        "    assert done.ok, done.message\n"
        f"stages({str(warm)!r}, 16, 1)\n"
        "before = peak_bytes()\n"
        f"stages({str(checkpoint)!r}, 128, 10)\n"
        "result = peak_bytes() - before\n"
    )
    found = in_new_process(code)
    tensor = 4 * width * width * 2
    name = f"memory of a worker, {shape} shape, 10 samples of 128"
    beside = f"largest tensor {tensor / 1e6:.0f} MB + 400 MB"
    yield name, found["result"] / 1e6, "MB", beside, found["result"] / (tensor + 400e6)
    yield "", found["peak"] / 1e6, "MB", "(whole process, imports included)", None


def demo(folder: Path):
    """`ninscope demo` as a whole process: the first time with compilation, then again."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "numba")}
    code = f"from ninscope.pipeline.cli import main\nsys.argv = ['ninscope', 'demo', '--runs-dir', {str(folder)!r}]\n"
    code += "try:\n    main()\nexcept SystemExit as end:\n    result = end.code\n"
    first = in_new_process(code, environment)
    again = in_new_process(code, environment)
    yield "demo, first, with compilation", first["seconds"], "s", "wanted: under 60 s", first["seconds"] / 60
    yield "demo, again", again["seconds"], "s", "wanted: under 5 s", again["seconds"] / 5


def imports():
    """Import time of the package and of its core, against Python's and numpy's own."""
    bare = in_new_process("import numpy\nresult = 0\n")
    core = in_new_process("import ninscope\nninscope.measure\nresult = 0\n")
    yield (
        "import ninscope, with measure",
        core["seconds"],
        "s",
        f"python and numpy {bare['seconds']:.2f} s",
        (core["seconds"] / bare["seconds"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--small", action="store_true", help="tiny shapes and few runs: shows that every case still works"
    )
    small = parser.parse_args().small
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    table = Table(
        "what", "measured", "beside", "ratio", title=f"ninscope {ninscope.__version__}, {os.cpu_count()} cores"
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cases = [
            one_sample(folder, "tiny" if small else "70m", 2 if small else 25),
            whole_network(folder, "tiny" if small else "70m", 2 if small else 10),
            orders_of_q(2 if small else 10, 100 if small else 5376),
            memory(folder, "tiny" if small else "deep"),
            imports(),
            *([] if small else [demo(folder)]),
        ]
        for case in cases:
            for what, value, unit, beside, ratio in case:
                table.add_row(what, f"{value:.1f} {unit}", beside, "" if ratio is None else f"{ratio:.2f}")
                print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
