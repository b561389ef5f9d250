"""`make bench`: prints each figure, the limit or naive version beside it, and the ratio. Nothing here passes or fails."""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Column, Table

import ninscope
from benchmarks import overhead
from benchmarks.adapters import merging
from benchmarks.controls import controls
from benchmarks.correlations import correlated
from benchmarks.cpu import generic, measuring, running, suite_of, turned_over
from benchmarks.families import families
from benchmarks.figures import figures
from benchmarks.interactions import interactions
from benchmarks.measures import in_new_process, stay_here, timed
from benchmarks.naive_numpy import count_columns, measure_one_sample
from benchmarks.network import over_the_network
from benchmarks.paths import export, paths
from benchmarks.questions import first_answers, questions
from benchmarks.report import report
from benchmarks.shapes import SHAPES, write_checkpoint
from benchmarks.sharded import sharded
from benchmarks.weights import weights
from ninscope.exact.bands import BAND_BYTES
from ninscope.measuring import measure_all
from ninscope.multifractal.boxes import column_histogram
from ninscope.multifractal.partition import partition_sums
from ninscope.networks.bin_table import bin_table
from ninscope.networks.radii import IntegerRadii


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


def histogram(runs: int, side: int, loops: int):
    """Counting one matrix, per weight, in one thread: bins and distances of every column, from memory."""
    generator = np.random.default_rng(0)
    weights = (generator.standard_normal((side, side), dtype=np.float32) * 0.02).astype(np.float32)
    kinds = {
        "F16": weights.astype(np.float16).view(np.uint16),
        "BF16": (weights.view(np.uint32) >> np.uint32(16)).astype(np.uint16),
        "F32": weights.view(np.uint32),
    }
    for kind, bits in kinds.items():
        table = bin_table(kind, IntegerRadii())
        ours = timed(lambda bits=bits, table=table: _count(bits, table), runs)
        reading = timed(lambda bits=bits: bits.sum(dtype=bits.dtype), runs)
        each = 1e9 / bits.size
        name = f"histogram, {kind}, one core"
        limit = f"pure read {reading.best * each:.2f} ns"
        yield name, ours.best * each, "ns/weight", limit, ours.best / reading.best
        if kind != "BF16":  # which numpy lacks
            values = bits.view(f"f{bits.itemsize}")
            naive = timed(lambda values=values: count_columns(values), max(runs // 5, 1))
            yield "", ours.best * each, "ns/weight", f"naive numpy {naive.best * each:.0f} ns", ours.best / naive.best
        halves = np.array_split(bits, 2)

        def both(halves=halves, table=table) -> None:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda half: _count(half, table), halves))

        together = timed(both, runs)
        beside = (
            f"two threads, {ours.best / together.best:.2f} times one; pure computing: {_speed_of_two(loops):.2f} times"
        )
        yield "", together.best * each, "ns/weight", beside, together.best / ours.best


def _speed_of_two(loops: int) -> float:
    """How much more two processes that only compute get done than one: what this machine's cores can give just now."""
    loop = [sys.executable, "-I", "-S", "-c", f"total = 0\nfor i in range({loops}): total += i"]

    def run(count: int) -> None:
        for process in [subprocess.Popen(loop) for _ in range(count)]:
            process.wait()

    return 2 * timed(lambda: run(1), 2).best / timed(lambda: run(2), 2).best


def _count(bits, table) -> None:
    column_histogram(bits, table, np.zeros((bits.shape[1], table.width), np.int32), np.zeros(bits.shape[1], np.int64))


def whole_network(folder: Path, shape: str, runs: int, wanted: str):
    """The exact measure of a checkpoint from the page cache: every weight, in one thread and on all cores; peak memory."""
    checkpoint = write_checkpoint(folder / shape / "step0", shape)
    file = checkpoint / "model.safetensors"
    buffer = bytearray(BAND_BYTES)

    def read() -> None:
        with open(file, "rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass

    weights = file.stat().st_size / 2
    together = timed(lambda: ninscope.measure(checkpoint), runs)
    alone = timed(lambda: measure_all(checkpoint, workers=1), runs)
    reading = timed(read, runs)
    name = f"exact, {shape} shape ({weights / 1e6:.0f}M weights), all cores"
    yield name, together.median * 1e3, "ms", f"one thread {alone.median * 1e3:.0f} ms", together.median / alone.median
    limit = f"pure read of the file {reading.median * 1e3:.0f} ms"
    yield "", together.median * 1e3, "ms", limit, together.median / reading.median
    yield "", together.best * 1e3, "ms", f"(best of the runs; {wanted})", None
    found = in_new_process(f"import ninscope\nninscope.measure({str(checkpoint)!r})\nresult = 0\n")
    yield "", found["peak"] / 1e6, "MB", "(peak memory of a whole process; wanted: under 700 MB)", found["peak"] / 700e6


def naive_whole_network(folder: Path, shape: str):
    """The whole network of one checkpoint against numpy, matrix after matrix."""
    checkpoint = write_checkpoint(folder / shape / "step0", shape)
    q = np.arange(-30, 31) / 10
    ours = timed(lambda: ninscope.measure(checkpoint), 5)
    naive = timed(lambda: measure_one_sample(checkpoint, 10**9, q), 1)
    yield (
        f"exact, {shape} shape, all cores",
        ours.median * 1e3,
        "ms",
        f"naive numpy {naive.median * 1e3:.0f} ms",
        ours.median / naive.median,
    )


def suite(folder: Path, shape: str, count: int):
    """A whole suite in one command, exactly: from files in the page cache to tables and figures; then once more."""
    base = write_checkpoint(folder / shape / "step0", shape)
    source = suite_of(base, folder / f"suite-{shape}", count)
    dag = folder / "suite.toml"
    dag.write_text(f"[[models]]\nsuite = 'x'\nmodel = 'x'\nsource = '{source}'\n[analysis]\nnodes_per_layer = 'all'\n")
    code = f"from ninscope_pipeline.cli import main\nsys.argv = ['ninscope', 'run', {str(dag)!r}, '--runs-dir', "
    code += f"{str(folder)!r}]\ntry:\n    main()\nexcept SystemExit as end:\n    result = end.code\n"
    first, again = in_new_process(code), in_new_process(code)
    name = f"exact run of {count} checkpoints, {shape} shape"
    yield name, first["seconds"], "s", "wanted: under 20 s", first["seconds"] / 20
    yield f"{name}, again", again["seconds"], "s", "wanted: under 5 s", again["seconds"] / 5
    shutil.rmtree(source)


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
    width = SHAPES[shape][1]
    sampling = {"warm": (write_checkpoint(folder / "tiny", "tiny"), 16, 1)}
    sampling["measured"] = (write_checkpoint(folder / shape, shape), 128, 10)
    for name, (checkpoint, nodes_per_layer, samples) in sampling.items():
        (folder / f"{name}.toml").write_text(
            f"[[models]]\nsuite = 'x'\nmodel = 'x'\nsource = '{checkpoint}'\n"
            f"[analysis]\nnodes_per_layer = {nodes_per_layer}\nsamples = {samples}\n"
        )
    code = (
        "from pathlib import Path\n"
        "from ninscope_pipeline.execution.job import run_job\n"
        "from ninscope_pipeline.prepared_run import prepare, start\n"
        "from ninscope_pipeline.request.dagfile import load_dag\n"
        "def jobs(name):\n"
        f"    prepared = prepare(load_dag(Path({str(folder)!r}) / name), Path({str(folder / 'memory')!r}))\n"
        "    start(prepared)\n"
        "    outcomes = [run_job(prepared.folder.root, job, []) for job in prepared.plan.first_jobs()]\n"
        "    assert len(outcomes) == 2 and all(outcome.ok for outcome in outcomes), outcomes\n"
        "jobs('warm.toml')\n"
        "before = peak_bytes()\n"
        "jobs('measured.toml')\n"
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
    code = f"from ninscope_pipeline.cli import main\nsys.argv = ['ninscope', 'demo', '--runs-dir', {str(folder)!r}]\n"
    code += "try:\n    main()\nexcept SystemExit as end:\n    result = end.code\n"
    first = in_new_process(code, environment)
    again = in_new_process(code, environment)
    yield "demo, first, with compilation", first["seconds"], "s", "wanted: under 60 s", first["seconds"] / 60
    yield "demo, again", again["seconds"], "s", "wanted: under 5 s", again["seconds"] / 5


def universal(shape: tuple[int, int], windows: int, runs: int):
    """Universal neurons of two models; needs torch and transformers."""
    if all(map(importlib.util.find_spec, ("torch", "transformers"))):
        from benchmarks import universal as measured

        yield from measured.universal(shape, windows, runs)


def memel(shape: tuple[int, int, int], runs: int):
    """MEmeL in a training step, where torch and transformers are installed."""
    if all(map(importlib.util.find_spec, ("torch", "transformers"))):
        from benchmarks import memel as measured

        yield from measured.memel(shape, runs)


def polysemanticity(folder: Path, small: bool):
    """The laboratory of polysemanticity, where torch, captum and torch-pruning are installed."""
    if all(map(importlib.util.find_spec, ("torch", "captum", "torch_pruning"))):
        from benchmarks import polysemanticity as measured

        p_of_all = (4, (3, 6, 2), 5, 1) if small else (128, (10, 512, 128, 128, 2), 100, 5)
        yield from measured.polysemanticity(*p_of_all)
        yield from measured.together(*(((3, 6, 2), 2, 64, 1, 1) if small else ((10, 128, 32, 2), 24, 2240, 2, 3)))
        for name, section, limit in measured.SMALL if small else measured.OF_THE_THESIS:
            yield from measured.laboratory(folder, name, section, limit)


def neurons(small: bool):
    """The neuron observatory, where torch and transformers are installed."""
    if all(map(importlib.util.find_spec, ("torch", "transformers"))):
        from benchmarks import neurons as measured

        for shape in ("tiny",) if small else ("500k", "70m"):
            yield from measured.one_pass(shape)
        yield from measured.memory("tiny" if small else "70m")


def held(folder: Path, shape: str, runs: int):
    """Models in memory, where torch and transformers are installed, and peft."""
    if all(map(importlib.util.find_spec, ("torch", "transformers"))):
        from benchmarks import in_memory as measured

        yield from measured.in_memory(folder, shape, runs)
        if importlib.util.find_spec("peft"):
            yield from measured.adapted(shape, runs)


def trained(folder: Path, blocks: int, width: int):
    """Trainers' files, where torch is installed to write them."""
    if importlib.util.find_spec("torch"):
        from benchmarks.trainers import trainers

        yield from trainers(folder, blocks, width)


def training(folder: Path, small: bool):
    """The callback of a training, where torch, transformers and accelerate are installed."""
    if all(map(importlib.util.find_spec, ("torch", "transformers", "accelerate"))):
        from benchmarks import training as measured

        yield from measured.training(folder, *(("tiny", 2, 16, 2, 1) if small else ("14m", 8, 256, 100, 1)))


def imports():
    """Import time of the package and of its core, against Python's and numpy's own."""
    bare = in_new_process("import numpy\nresult = 0\n", anew=True)
    core = in_new_process("import ninscope\nninscope.measure\nresult = 0\n", anew=True)
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
    parser.add_argument(
        "--beside",
        type=Path,
        metavar="FOLDER",
        help="checkout of another commit (git worktree add FOLDER COMMIT), installed in its .venv, to compare CPU seconds with",
    )
    arguments = parser.parse_args()
    small, other = arguments.small, arguments.beside
    if small:
        stay_here()
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    table = Table(
        Column("what", no_wrap=True),
        "measured",
        "beside",
        "ratio",
        title=f"ninscope {ninscope.__version__}, {os.cpu_count()} cores",
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cases = [
            one_sample(folder, "tiny" if small else "70m", 2 if small else 25),
            histogram(*((2, 64, 1000) if small else (10, 4096, 5_000_000))),
            whole_network(folder, "tiny" if small else "70m", 2 if small else 20, "wanted: 60 ms"),
            naive_whole_network(folder, "tiny" if small else "70m"),
            *([] if small else [whole_network(folder, "1.4b", 3, "wanted: 3 s")]),
            suite(folder, "tiny" if small else "70m", 3 if small else 154),
            measuring(folder, *(("tiny", 3, 3, 1, other) if small else ("70m", 40, 1540, 3, other))),
            generic(folder, *((3, 6, 1, other) if small else (200, 150, 3, other))),
            running(folder, *(("tiny", (3,), 1, other) if small else ("70m", (40, 154), 2, other))),
            controls(folder, *(("tiny", 1) if small else ("410m", 3))),
            weights(folder, *(("tiny", 1) if small else ("410m", 3))),
            turned_over(folder, *((1, 128, 1, other) if small else (16, 2048, 3, other))),
            over_the_network(folder, *(("tiny", "tiny", 4) if small else ("70m", "2.8b", 154))),
            paths(folder, "tiny" if small else "70m", 2 if small else 15, 2 if small else 24),
            export(folder, "tiny" if small else "70m", 61, 2 if small else 15),
            orders_of_q(2 if small else 10, 100 if small else 5376),
            memory(folder, "tiny" if small else "deep"),
            interactions(folder, *(("tiny", 1) if small else ("410m", 3))),
            correlated(*((2, 3, 20, 100, 1) if small else (20, 40, 154, 999, 3))),
            merging(folder, *(("tiny", 1) if small else ("410m", 5))),
            families(folder, *((1, 128, 1) if small else (16, 2048, 3))),
            held(folder, *(("tiny", 2) if small else ("70m", 25))),
            sharded(folder, "tiny" if small else "6.9b"),
            trained(folder, *((2, 256) if small else (16, 1024))),
            training(folder, small),
            memel((4, 16, 64) if small else (32, 128, 768), 3 if small else 30),
            universal(*(((1, 16), 1, 2) if small else ((6, 512), 8, 5))),
            polysemanticity(folder, small),
            neurons(small),
            overhead.tasks(folder, *((40, 1) if small else (5000, 2))),
            overhead.repeat(folder, 3 if small else 1540),
            questions(folder, *((3, 2) if small else (1540, 40))),
            first_answers(1 if small else 5),
            imports(),
            report(folder, *((2, 5, 0, False) if small else (10, 154, 3, True))),
            *([] if small else [demo(folder), figures(folder / "demo", other, 5)]),
        ]
        for case in cases:
            for what, value, unit, beside, ratio in case:
                table.add_row(what, f"{value:.1f} {unit}", beside, "" if ratio is None else f"{ratio:.2f}")
                print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
