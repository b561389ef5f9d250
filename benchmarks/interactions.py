"""Coupling of all pairs of matrices of a checkpoint, beside the bare products of the matrices within its blocks."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.shapes import SHAPES, write_checkpoint
from ninscope.checkpoints.source import open_source
from ninscope.interaction.of_checkpoint import checkpoint_interactions
from ninscope.interaction.whole import Options
from ninscope.threads import one_thread_each

Row = tuple[str, float, str, str, float | None]


def interactions(folder: Path, shape: str, runs: int) -> Iterator[Row]:
    """CPU seconds, in one thread: reading, float64, gains and permutations included; the bare products are of arrays in memory."""
    checkpoint = _with_gains(write_checkpoint(folder / f"interactions-{shape}" / "step0", shape), shape)
    source = open_source(checkpoint)

    def measured(options: Options) -> Callable[[], object]:
        return lambda: checkpoint_interactions(source.open("step0"), options)

    with one_thread_each():
        products, reading = _bare_products(checkpoint, shape, runs)
        within = _least(measured(Options(across=False, spikes=False)), runs)
        both = _least(measured(Options(across=True, spikes=False)), runs)
    blocks, width, _ = SHAPES[shape]
    name = f"coupling within blocks, {shape} shape"
    yield name, within, "s CPU", f"bare products {products:.2f} s; wanted: 1.3 times", within / products
    yield "", within, "s CPU", f"with reading them in float64 {products + reading:.2f} s", within / (products + reading)
    pairs = 2 * 4 * blocks * (blocks - 1) // 2
    how = "estimated" if width > Options().exactness.neurons else "exact"
    name, across = f"coupling across blocks, {pairs} pairs, {how}", both - within
    yield name, across, "s CPU", f"bare products within {products:.2f} s; wanted: as long", across / products


def _with_gains(folder: Path, shape: str) -> Path:
    """The same checkpoint with the LayerNorms that a real one has."""
    file, (blocks, width, _) = folder / "model.safetensors", SHAPES[shape]
    gains = {
        f"gpt_neox.layers.{block}.{norm}.weight": np.ones(width, np.float16)
        for block in range(blocks)
        for norm in ("input_layernorm", "post_attention_layernorm")
    }
    save_file(load_file(file) | gains, file)
    return folder


def _bare_products(folder: Path, shape: str, runs: int) -> tuple[float, float]:
    """(CPU seconds of the products of MLP in and out, v and o, q and k of each head; of reading the matrices in float64)."""
    blocks, width, heads = SHAPES[shape]
    tensors = load_file(folder / "model.safetensors")
    names = [name for name in tensors if ".layers.0." in name and tensors[name].ndim > 1]
    size = width // heads
    start = time.process_time()
    first = {name.split(".")[-2]: tensors[name].astype(np.float64) for name in names}
    reading = time.process_time() - start
    qkv = first["query_key_value"].reshape(heads, 3, size, width)

    def products() -> None:
        first["dense_4h_to_h"] @ first["dense_h_to_4h"]
        for head in range(heads):
            first["dense"][:, head * size : (head + 1) * size] @ qkv[head, 2]
            qkv[head, 0].T @ qkv[head, 1]

    return blocks * _least(products, runs), blocks * reading


def _least(work: Callable[[], object], runs: int) -> float:
    """CPU seconds of the fastest of several runs, after one that warms caches."""
    work()
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)
