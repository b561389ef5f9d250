"""A model in memory beside its file, measured in turn in one process; with adapters, beside what peft merges of it."""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import transformers
from transformers.utils.logging import disable_progress_bar

import ninscope
from benchmarks.shapes import SHAPES

Row = tuple[str, float, str, str, float | None]

LARGE_VOCABULARY = 50_304  # Pythia's: the network has no embeddings, and a model has


def in_memory(folder: Path, shape: str, runs: int) -> Iterator[Row]:
    """`measure` of a model of transformers with random weights, all cores, beside `measure` of its file from the page cache."""
    disable_progress_bar()
    for dtype in (torch.float16, torch.float32):
        model = _model(shape).to(dtype)
        file = folder / f"in-memory-{shape}-{dtype}" / "step0"
        model.save_pretrained(file)
        held, read, ratio = _in_turn(partial(ninscope.measure, model), partial(ninscope.measure, file), runs)
        name = f"measure of a model in memory, {shape} shape, {str(dtype).removeprefix('torch.')}"
        beside = f"its file from the page cache {read * 1e3:.0f} ms; wanted: 1.1 times"
        yield name, held * 1e3, "ms", beside, ratio


def adapted(shape: str, runs: int) -> Iterator[Row]:
    """`measure` of a model with LoRA of all matrices that is merged as it is read, beside that of the merged model."""
    from peft import LoraConfig, get_peft_model

    options = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a base without a name
        model, merged = (get_peft_model(_model(shape), options) for _ in range(2))
        merged = merged.merge_and_unload()
    held, alone, ratio = _in_turn(partial(ninscope.measure, model), partial(ninscope.measure, merged), runs)
    name = f"measure of a model in memory with LoRA, {shape} shape, float32"
    yield name, held * 1e3, "ms", f"the merged model {alone * 1e3:.0f} ms", ratio


def _model(shape: str) -> transformers.PreTrainedModel:
    blocks, width, heads = SHAPES[shape]
    torch.manual_seed(0)
    sizes = {
        "num_hidden_layers": blocks,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }
    config = transformers.GPTNeoXConfig(vocab_size=LARGE_VOCABULARY if width > 64 else 64, **sizes)
    return transformers.GPTNeoXForCausalLM(config)


def _in_turn(work: Callable[[], object], other: Callable[[], object], runs: int) -> tuple[float, float, float]:
    """Median seconds of each, and the median of their ratio in each of some turns, so that both had what load there was.

    Now the one is first and now the other, after one turn that warms caches and compiles.
    """
    seconds: list[list[float]] = [[], []]
    for number in range(runs + 1):
        for place in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            (work, other)[place]()
            if number:
                seconds[place].append(time.perf_counter() - start)
    ratio = statistics.median(one / another for one, another in zip(*seconds, strict=True))
    return statistics.median(seconds[0]), statistics.median(seconds[1]), ratio
