"""CPU seconds of whole `ninscope measure` commands, beside those of another commit where a checkout of it is named."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.families import configurations, write
from benchmarks.measures import cpu_seconds
from benchmarks.shapes import write_checkpoint

Row = tuple[str, float, str, str, float | None]
SMALL_CHECKPOINT = Path(__file__).parents[1] / "data" / "stdlib-neox-67k" / "step64"
# This checkout's command, with whatever installed packages the benchmarks run with.
_OURS = [
    sys.executable, "-c",
    f"import sys; sys.path[:0] = {sys.path!r}; from ninscope_pipeline.cli import main; main()",
]  # fmt: skip


def commands(other: Path | None) -> dict[str, list[str]]:
    """How `ninscope` is called, of this checkout and, under the folder's name, of the other, installed in its .venv."""
    found = {"here": _OURS}
    if other is not None:
        program = other / ".venv" / "bin" / "ninscope"
        if not program.exists():
            raise SystemExit(f"{program} is absent; run `make demo` in {other}, or name another folder with --beside")
        found[other.name] = [str(program)]
    return found


def suite_of(base: Path, folder: Path, count: int) -> Path:
    """A folder of `count` revisions of a checkpoint, each with other weights."""
    tensors, config = load_file(base / "model.safetensors"), (base / "config.json").read_text()
    for step in range(count):
        revision = folder / f"step{step}"
        revision.mkdir(parents=True)
        scale = np.float16(1 + step / count)
        save_file({name: values * scale for name, values in tensors.items()}, revision / "model.safetensors")
        (revision / "config.json").write_text(config)
    return folder


def measuring(folder: Path, shape: str, count: int, tiny: int, runs: int, other: Path | None) -> Iterator[Row]:
    """One small checkpoint, a suite of `count` of a shape, and a suite of `tiny` that were never looked at."""
    yield from _beside("CPU of measure, one small checkpoint", SMALL_CHECKPOINT, runs, other, 0.5, anew=True)
    suite = suite_of(write_checkpoint(folder / f"cpu-{shape}" / "step0", shape), folder / "cpu-suite", count)
    yield from _beside(f"CPU of measure, {count} checkpoints, {shape} shape", suite, runs, other, 0.6)
    shutil.rmtree(suite)
    base = write_checkpoint(folder / "cpu-tiny" / "step0", "tiny", vocabulary=8)
    suite = suite_of(base, folder / "cpu-many", tiny)
    yield from _beside(f"CPU of measure, {tiny} tiny checkpoints", suite, 1, other, 0.5)
    shutil.rmtree(suite)


def generic(folder: Path, count: int, tensors: int, runs: int, other: Path | None) -> Iterator[Row]:
    """A folder of `count` checkpoints of no known family, of so many matrices each: audited, and measured."""
    generator = np.random.default_rng(0)
    weights = {
        f"blocks.{number // 6}.part{number % 6}.weight": generator.normal(0, 0.1, (24, 24)).astype(np.float16)
        for number in range(tensors)
    }
    base = folder / "cpu-unknown"
    base.mkdir()
    save_file(weights, base / "model.safetensors")
    (base / "config.json").write_text(json.dumps({"model_type": "unknown-to-ninscope"}))
    suite = suite_of(base, folder / "cpu-generic", count)
    name = f"{count} generic checkpoints of {tensors} tensors"
    yield from _beside(f"CPU of audit, {name}", suite, runs, other, 1.1, command="audit")
    yield from _beside(f"CPU of measure, {name}", suite, runs, other, 1.1)
    shutil.rmtree(suite)


def running(folder: Path, shape: str, counts: Sequence[int], runs: int, other: Path | None) -> Iterator[Row]:
    """An exact `ninscope run` of suites of a shape, beside `ninscope measure` of the same folder, and beside another commit's."""
    base = write_checkpoint(folder / f"cpu-run-{shape}" / "step0", shape, vocabulary=8)
    for count in counts:
        suite = suite_of(base, folder / f"cpu-run-{count}", count)
        dag = folder / f"cpu-run-{count}.toml"
        dag.write_text(
            f"[[models]]\nsuite = 'x'\nmodel = 'x'\nsource = '{suite}'\n[analysis]\nnodes_per_layer = 'all'\n"
        )
        called = commands(other)
        into = {label: ["--runs-dir", str(folder / f"cpu-runs-{label}")] for label in called}

        def cleared(into: dict[str, list[str]] = into) -> None:
            for _, runs_dir in into.values():
                shutil.rmtree(runs_dir, ignore_errors=True)

        measured = [[*command, "measure", str(suite)] for command in called.values()]
        ran = [[*command, "run", str(dag), *into[label]] for label, command in called.items()]
        seconds = cpu_seconds([*measured, *ran], runs, cleared)
        ours_measured, ours_ran = seconds[0], seconds[len(called)]
        name, wanted = f"CPU of run, {count} checkpoints, {shape} shape", 1.25 if count >= 154 else 1.5
        yield name, ours_ran, "s", f"measure {ours_measured:.2f} s; wanted: {wanted} times", ours_ran / ours_measured
        for number, label in enumerate(list(called)[1:], 1):
            theirs = seconds[len(called) + number]
            yield "", ours_ran, "s", f"{label} {theirs:.2f} s; wanted: 0.6 times", ours_ran / theirs
        cleared()
        shutil.rmtree(suite)


def _beside(
    name: str,
    source: Path,
    runs: int,
    other: Path | None,
    wanted: float,
    anew: bool = False,
    command: str = "measure",
) -> Iterator[Row]:
    called = commands(other)
    ours, *theirs = cpu_seconds([[*program, command, str(source)] for program in called.values()], runs, anew=anew)
    if not theirs:
        yield name, ours, "s", "(no other commit: --beside FOLDER)", None
    for label, seconds in zip(list(called)[1:], theirs, strict=True):
        yield name, ours, "s", f"{label} {seconds:.2f} s; wanted: {wanted} times", ours / seconds


def turned_over(folder: Path, blocks: int, width: int, runs: int, other: Path | None) -> Iterator[Row]:
    """GPT-2, whose matrices are stored as [in, out], beside a GPT-NeoX of as many weights."""
    configs = configurations(blocks, width)
    sources = []
    for family in ("GPT-NeoX", "GPT-2 ([in, out])"):
        source = folder / f"cpu-{configs[family]['model_type']}" / "step0"
        weights = write(source, configs[family])
        sources.append(source)
    for label, command in commands(other).items():
        neox, gpt2 = cpu_seconds([[*command, "measure", str(source)] for source in sources], runs)
        name = f"CPU of measure, GPT-2, {weights / 1e6:.0f}M weights, {label}"
        yield name, gpt2, "s", f"GPT-NeoX {neox:.2f} s; wanted: 1.15 times", gpt2 / neox
    for source in sources:
        shutil.rmtree(source)
