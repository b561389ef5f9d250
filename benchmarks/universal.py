"""Universal neurons of two models: what streaming costs beside the bare products of matrices that it needs, and its memory."""

import statistics
from collections.abc import Callable, Iterator

import numpy as np
import torch
import transformers
from torch import Tensor

from benchmarks.measures import in_new_process
from benchmarks.memel import Row, interleaved, ratio
from ninscope.neurons.observatory.examples import Examples
from ninscope.neurons.observatory.measure import HIDDEN, Batch, Place
from ninscope.neurons.observatory.measures.universal import Products, Universal
from ninscope.neurons.observatory.moments import LayerSums
from ninscope.neurons.observatory.subject import Subject

_VOCABULARY, _WINDOW = 512, 128

Shape = tuple[int, int]  # blocks, width

# Peak memory of `found` beyond two models that have run before; it is run in a process of its own.
_MEMORY = """
import torch
from benchmarks.universal import subjects
from ninscope.neurons.observatory.measures.universal import Universal
torch.set_grad_enabled(False)
one, other = subjects({shape}, {windows}, {batches})
for subject in (one, other):
    subject.run((), print, [next(subject.batches())])
before = peak_bytes()
Universal().found(one, other)
result = peak_bytes() - before
"""


def subjects(shape: Shape, windows: int, batches: int) -> list[Subject]:
    """Two models of Pythia's kind with random weights, and the same random tokens."""
    blocks, width = shape
    tokens = np.random.default_rng(0).integers(0, _VOCABULARY, (windows * batches, _WINDOW))
    config = transformers.GPTNeoXConfig(
        vocab_size=_VOCABULARY,
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=max(width // 64, 1),
        intermediate_size=4 * width,
        max_position_embeddings=_WINDOW,
    )
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = transformers.GPTNeoXForCausalLM(config).eval()
        found.append(Subject(f"seed {seed}", model, Examples("tokens", tokens, windows)))
    return found


def _activations(subject: Subject) -> dict[Place, Tensor]:
    found: dict[Place, Tensor] = {}
    subject.run((HIDDEN,), lambda place, values, batch: found.__setitem__(place, values), [next(subject.batches())])
    return found


def _streamed(ours: dict[Place, Tensor], theirs: dict[Place, Tensor], layers: list[str]) -> Callable[[], None]:
    sums = [{place.layer: LayerSums(h.flatten(0, 1)) for place, h in each.items()} for each in (ours, theirs)]
    products = Products(*sums, layers)
    batch = Batch(0, 0, {})

    def work() -> None:
        for place, values in theirs.items():
            products.see_other(place, values, batch)
        for place, values in ours.items():
            products.see(place, values, batch)

    return work


def _bare(ours: dict[Place, Tensor], theirs: dict[Place, Tensor], layers: list[str]) -> Callable[[], None]:
    """Nothing but the products: of the layers of a pass with themselves, and of every layer of the model with them."""
    own = [h.flatten(0, 1) for place, h in theirs.items() if place.layer in layers]
    beside, left = torch.cat(own, dim=1), [h.flatten(0, 1) for h in ours.values()]
    squares = [torch.empty(h.shape[1], h.shape[1]) for h in own]
    cross = [torch.empty(h.shape[1], beside.shape[1]) for h in left]

    def work() -> None:
        for h, out in zip(own, squares, strict=True):
            torch.mm(h.T, h, out=out)
        for h, out in zip(left, cross, strict=True):
            torch.mm(h.T, beside, out=out)

    return work


@torch.no_grad()
def universal(shape: Shape, windows: int, runs: int) -> Iterator[Row]:
    """A batch of one pass on all cores: streaming beside bare products; then the memory of the whole measure."""
    pair = subjects(shape, windows, 1)
    ours, theirs = (_activations(subject) for subject in pair)
    sums = {place.layer: LayerSums(h.flatten(0, 1)) for place, h in ours.items()}
    layers = next(Universal().passes(sums, sums))
    works = {"streamed": _streamed(ours, theirs, layers), "bare": _bare(ours, theirs, layers)}
    seconds = interleaved(works, runs)
    name = f"universal neurons, {shape[0]} x {4 * shape[1]}, {len(layers)} layers a pass, {windows * _WINDOW} tokens"
    beside = f"bare products {statistics.median(seconds['bare']) * 1e3:.0f} ms; wanted: 1.3 times"
    yield name, statistics.median(seconds["streamed"]) * 1e3, "ms", beside, ratio(seconds, "streamed", "bare")
    best = min(seconds["streamed"])
    yield "", best * 1e3, "ms", "(best of the runs)", best / min(seconds["bare"])
    peak = in_new_process(_MEMORY.format(shape=shape, windows=windows, batches=2))["result"] / 1e6
    yield "", peak, "MB", "memory beyond the models; wanted: 300 MB", peak / 300
