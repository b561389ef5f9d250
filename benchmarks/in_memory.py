"""A model in memory beside its file, measured in turn in one process; with adapters, beside what peft merges of it."""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
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
        held, read = _in_turn(
            [lambda model=model: ninscope.measure(model), lambda file=file: ninscope.measure(file)], runs
        )
        name = f"measure of a model in memory, {shape} shape, {str(dtype).removeprefix('torch.')}"
        beside = f"its file from the page cache {read * 1e3:.0f} ms; wanted: 1.1 times"
        yield name, held * 1e3, "ms", beside, held / read


def adapted(shape: str, runs: int) -> Iterator[Row]:
    """`measure` of a model with LoRA of all matrices that is merged as it is read, beside that of the merged model."""
    from peft import LoraConfig, get_peft_model

    options = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a base without a name
        model, merged = (get_peft_model(_model(shape), options) for _ in range(2))
        merged = merged.merge_and_unload()
    held, alone = _in_turn([lambda: ninscope.measure(model), lambda: ninscope.measure(merged)], runs)
    name = f"measure of a model in memory with LoRA, {shape} shape, float32"
    yield name, held * 1e3, "ms", f"the merged model {alone * 1e3:.0f} ms", held / alone


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


def _in_turn(works: list[Callable[[], object]], runs: int) -> list[float]:
    """Median seconds of each, taken in turn, first now the one and now the other, after one run that warms caches and compiles."""
    seconds: list[list[float]] = [[] for _ in works]
    for number in range(runs + 1):
        for place in (range(len(works)), reversed(range(len(works))))[number % 2]:
            start = time.perf_counter()
            works[place]()
            if number:
                seconds[place].append(time.perf_counter() - start)
    return [statistics.median(each) for each in seconds]
