"""What merging a LoRA adapter costs, beside measuring its base alone."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import ninscope
from benchmarks.shapes import used_shapes, write_checkpoint

RANK = 8
# What peft adapts in a GPT-NeoX unless it is told otherwise, and every matrix ("all-linear").
TARGETS = {
    "peft's targets": ("query_key_value",),
    "all matrices": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
}


def merging(folder: Path, shape: str, runs: int) -> Iterator[tuple[str, float, str, str, float]]:
    """The exact measure of a base with an adapter in it, and of the base alone, in turn: CPU seconds of all threads."""
    base = write_checkpoint(folder / f"base-{shape}", shape)
    adapters = [
        _adapter(folder / f"adapter-{number}", shape, targets) for number, targets in enumerate(TARGETS.values())
    ]
    works = [lambda: ninscope.measure(base), *(_merged(adapter, base) for adapter in adapters)]
    alone, *merged = _least_cpu(works, runs)
    for name, seconds in zip(TARGETS, merged, strict=True):
        beside = f"the base alone {alone:.2f} s; wanted: 1.3 times"
        yield f"CPU of merging LoRA, r {RANK}, {name}, {shape} shape", seconds, "s", beside, seconds / alone


def _merged(adapter: Path, base: Path) -> Callable[[], object]:
    return lambda: ninscope.measure(adapter, base=base)


def _least_cpu(works: Sequence[Callable[[], object]], runs: int) -> list[float]:
    """CPU seconds of each, the least of several runs, taken in turn after one that warms caches and compiles."""
    least = [float("inf")] * len(works)
    for number in range(runs + 1):
        for place, work in enumerate(works):
            before = time.process_time()
            work()
            if number:
                least[place] = min(least[place], time.process_time() - before)
    return least


def _adapter(folder: Path, shape: str, targets: Sequence[str]) -> Path:
    """An adapter of float32, as peft writes one, of every module of these names."""
    generator = np.random.default_rng(0)
    tensors = {}
    for name, (outputs, inputs) in used_shapes(shape).items():
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] in targets:
            for which, size in (("A", (RANK, inputs)), ("B", (outputs, RANK))):
                values = generator.standard_normal(size, dtype=np.float32) * np.float32(0.02)
                tensors[f"base_model.model.{module}.lora_{which}.weight"] = values
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": list(targets)}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder
