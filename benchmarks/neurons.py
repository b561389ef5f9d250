"""The neuron observatory: all measures of one pass beside the bare pass, and beside a version that keeps everything it hooks.

Both run eager attention over the same tokens, in two threads. Only measures that share the pass count: what runs the model by
itself, or a second model, costs its own passes.
"""

import time
from collections.abc import Iterator

import numpy as np

from benchmarks.measures import in_new_process

Row = tuple[str, float, str, str, float | None]  # name, value, unit, comparison, ratio

# hidden, blocks, heads, vocabulary, windows, tokens of a window, windows of a batch, rounds
SHAPES = {
    "tiny": (24, 2, 4, 31, 4, 16, 2, 1),
    "500k": (96, 4, 6, 256, 128, 128, 16, 5),
    "70m": (512, 6, 8, 50304, 24, 128, 4, 3),
}

_COMMON = """
import time
import numpy as np, torch
from benchmarks.neurons import model_of, examples_of
from benchmarks.measures import peak_bytes
torch.set_num_threads(2)
model = model_of({shape!r})
examples = examples_of({shape!r}, {factor})
"""
_BARE = (
    _COMMON
    + """
with torch.no_grad():
    for batch in examples.batches():
        model(**batch.inputs, use_cache=False)
result = 0
"""
)
_ALL = (
    _COMMON
    + """
from benchmarks.neurons import streamed
from ninscope.neurons.observatory.passes import observe
from ninscope.neurons.observatory.subject import Subject
subject = Subject("benchmark", model, examples)
seen = observe(subject, streamed(subject))
result = [one.measure.name for one in seen if one.error is not None]
"""
)
_NAIVE = (
    _COMMON
    + """
kept = {{}}
for name, module in model.named_modules():
    def keep(module, given, output, name=name):
        for part in output if isinstance(output, tuple) else [output]:
            if isinstance(part, torch.Tensor):
                kept.setdefault(name, []).append(part)
    module.register_forward_hook(keep)
with torch.no_grad():
    for batch in examples.batches():
        model(**batch.inputs, use_cache=False, output_attentions=True)
result = 0
"""
)


def model_of(shape: str):
    """A GPT-NeoX with random weights, eager attention."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    hidden, blocks, heads, vocabulary, _, window, _, _ = SHAPES[shape]
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        hidden_size=hidden, num_hidden_layers=blocks, num_attention_heads=heads, intermediate_size=4 * hidden,
        vocab_size=vocabulary, max_position_embeddings=max(window, 64), bos_token_id=0, eos_token_id=0,
        attn_implementation="eager",
    )  # fmt: skip
    return GPTNeoXForCausalLM(config).eval()


def examples_of(shape: str, factor: int = 1):
    """Random tokens. factor: so many times as many."""
    from ninscope.neurons.observatory.examples import Examples

    _, _, _, vocabulary, windows, window, batch_size, _ = SHAPES[shape]
    tokens = np.random.default_rng(0).integers(0, vocabulary, (windows * factor, window))
    return Examples("tokens", tokens, batch_size)


def streamed(subject) -> list:
    """The measures that share one pass and can be had of this model without labels."""
    from ninscope.neurons.observatory.measure import StreamedMeasure
    from ninscope.neurons.observatory.passes import objection
    from ninscope.neurons.observatory.registry import measures

    of_one = [one for one in measures().values() if isinstance(one, StreamedMeasure)]
    return [one for one in of_one if objection(one, subject) is None]


def one_pass(shape: str) -> Iterator[Row]:
    """Seconds of all measures of one pass beside the bare pass, in turn; wanted: at most 1.6 times."""
    import torch

    from ninscope.neurons.observatory.passes import observe
    from ninscope.neurons.observatory.subject import Subject

    rounds = SHAPES[shape][-1]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        subject = Subject("benchmark", model_of(shape), examples_of(shape))
        chosen = streamed(subject)

        def bare() -> None:
            with torch.no_grad():
                for batch in subject.batches():
                    subject.forward(batch)

        both = [bare, lambda: observe(subject, chosen)]
        least = [float("inf"), float("inf")]
        for number in range(rounds + 1):  # the first round compiles and warms
            for place, work in enumerate(both):
                start = time.perf_counter()
                work()
                spent = time.perf_counter() - start
                least[place] = min(least[place], spent) if number else least[place]
    finally:
        torch.set_num_threads(before)
    what = f"{len(chosen)} measures of one pass, {subject.examples.tokens} tokens, {shape} shape"
    yield what, least[1] * 1e3, "ms", f"bare pass {least[0] * 1e3:.0f} ms; wanted: 1.6 times", least[1] / least[0]


def memory(shape: str) -> Iterator[Row]:
    """Most memory of a process: the bare pass, of all measures, of everything kept, of all measures of four times the tokens."""
    peaks = {}
    for name, code, factor in (("bare", _BARE, 1), ("all", _ALL, 1), ("naive", _NAIVE, 1), ("four", _ALL, 4)):
        done = in_new_process(code.format(shape=shape, factor=factor), anew=True)
        if done["result"]:
            raise RuntimeError(f"measures failed: {done['result']}")
        peaks[name] = done["peak"] / 1e6
    beyond = peaks["all"] - peaks["bare"]
    said = f"bare pass {peaks['bare']:.0f} MB, naive {peaks['naive']:.0f} MB; wanted: 300 MB beyond"
    yield f"memory of the measures, {shape} shape", peaks["all"], "MB", said, beyond / 300
    yield (
        f"memory with four times the tokens, {shape} shape", peaks["four"], "MB", "wanted: the same", peaks["four"] / peaks["all"],
    )  # fmt: skip
