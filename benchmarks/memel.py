"""MEmeL in a training step, compared with elementwise layers, the authors' module written naively, and a layer of BERT-base."""

import statistics
import time
from collections.abc import Callable, Iterator

import torch
import transformers
from torch import Tensor, nn

from ninscope.neurons.memel import MEmeL, insert_memel

SETTINGS = {
    "": {},
    ", positions": {"neurons": "positions"},
    ", top-10": {"select": "top-10"},
    ", threshold": {"select": {"threshold": 20.0}},
    ", naive_shift": {"method": "naive_shift"},
}


class NaiveMEmeL(nn.Module):
    """As the MEmeL paper prints it: every position is a neuron, and formulas stand one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.mean, self.variance = 0, None, None

    def forward(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            samples, seen, mean = len(h), self.seen, self.mean
            batch_mean = h.mean(0)
            spread = ((h - batch_mean) ** 2).mean(0)
            self.seen += samples
            if mean is None:
                self.mean, self.variance = batch_mean, spread
                return h
            phi = (h - mean) ** 2 / (self.variance + 0.01 * self.variance.mean())
            chosen = torch.zeros(samples, h[0].numel(), dtype=torch.bool)
            chosen[torch.arange(samples), phi.view(samples, -1).argmax(1)] = True
            rest = seen + samples - 1
            gap = seen * samples * (mean - batch_mean) ** 2 / (rest * (seen + samples))
            self.variance = gap + (samples * spread + (seen - 1) * self.variance) / rest
            self.mean = (seen * mean + samples * batch_mean) / (seen + samples)
        return torch.where(chosen.view_as(h), -h + (mean + h).detach(), h)


def step(layer: Callable[[Tensor], Tensor], h: Tensor, incoming: Tensor) -> Callable[[], None]:
    """Forward and backward."""

    def work() -> None:
        layer(h.detach().requires_grad_()).backward(incoming)

    return work


def interleaved(works: dict[str, Callable[[], None]], runs: int) -> dict[str, list[float]]:
    """Seconds of every run. The works take turns, so that whatever else the machine does is in all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for run in range(runs + 3):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if run > 2:  # the first runs compile, and give statistics
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], work: str, baseline: str) -> float:
    """The median of the ratios of neighbouring runs."""
    return statistics.median(ours / theirs for ours, theirs in zip(seconds[work], seconds[baseline], strict=True))


Row = tuple[str, float, str, str, float]  # name, value, unit, comparison, ratio


def elementwise(shape: tuple[int, int, int], runs: int) -> Iterator[Row]:
    """One layer's forward and backward, on all cores."""
    torch.manual_seed(0)
    h, incoming = torch.randn(shape), torch.randn(shape)
    layers: dict[str, Callable[[Tensor], Tensor]] = {
        "h * 1.5": lambda h: h * 1.5,
        "tanh": torch.tanh,
        "the authors' module, naively": NaiveMEmeL(),
    }
    layers |= {f"MEmeL{name}": MEmeL(late_start=0, **settings) for name, settings in SETTINGS.items()}
    seconds = interleaved({name: step(layer, h, incoming) for name, layer in layers.items()}, runs)
    bare = "h * 1.5"
    for name in layers:
        if name == bare:
            continue
        wanted = "; wanted: 1.6 times" if name.startswith("MEmeL") else ""
        beside = f"{bare} {statistics.median(seconds[bare]) * 1e3:.1f} ms{wanted}"
        took = statistics.median(seconds[name]) * 1e3
        yield f"{name}, {list(shape)} forward and backward", took, "ms", beside, ratio(seconds, name, bare)


def bert_layer(shape: tuple[int, int, int], runs: int) -> Iterator[Row]:
    """Forward and backward of a layer of BERT-base's kind, with MEmeL behind its attention and without."""
    torch.manual_seed(0)
    width = shape[2]
    config = transformers.BertConfig(
        hidden_size=width, intermediate_size=4 * width, num_attention_heads=max(width // 64, 1), num_hidden_layers=1
    )
    plain, hooked = (transformers.BertModel(config, add_pooling_layer=False).train().encoder.layer[0] for _ in range(2))
    hooked.load_state_dict(plain.state_dict())
    insert_memel(hooked, "attention", late_start=0)
    h, incoming = torch.randn(shape), torch.randn(shape)
    works = {name: step(_first_of(layer), h, incoming) for name, layer in (("plain", plain), ("MEmeL", hooked))}
    seconds = interleaved(works, runs)
    name = f"a BERT layer, {list(shape)}, with MEmeL"
    beside = f"without {statistics.median(seconds['plain']) * 1e3:.0f} ms; wanted: 1.01 times"
    yield name, statistics.median(seconds["MEmeL"]) * 1e3, "ms", beside, ratio(seconds, "MEmeL", "plain")
    yield "", min(seconds["MEmeL"]) * 1e3, "ms", "(best of the runs)", min(seconds["MEmeL"]) / min(seconds["plain"])


def _first_of(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    def run(h: Tensor) -> Tensor:
        out = layer(h)
        return out if isinstance(out, Tensor) else out[0]

    return run


def whole_model(settings: dict, samples: int, tokens: int, runs: int) -> Iterator[Row]:
    """A fine-tuning step of BERT in bfloat16 with four MEmeLs and without, on a GPU."""
    config = transformers.BertConfig(**settings)
    works = {}
    for name in ("plain", "MEmeL"):
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(config).train().cuda()
        if name == "MEmeL":
            insert_memel(model, late_start=0)
        works[name] = _training_step(model, samples, tokens)
    seconds = interleaved(works, runs)
    beside = f"without {statistics.median(seconds['plain']) * 1e3:.1f} ms; wanted: 1.03 times"
    took = statistics.median(seconds["MEmeL"]) * 1e3
    yield (
        f"a step of BERT, {samples} of {tokens} tokens, GPU, four MEmeLs",
        took,
        "ms",
        beside,
        ratio(seconds, "MEmeL", "plain"),
    )


def _training_step(model: nn.Module, samples: int, tokens: int) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    inputs = {"input_ids": torch.randint(0, 1000, (samples, tokens)), "labels": torch.zeros(samples, dtype=torch.long)}
    inputs = {name: values.cuda() for name, values in inputs.items()}

    def work() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()

    return work


def memel(shape: tuple[int, int, int], runs: int) -> Iterator[Row]:
    """All of them; the step on a GPU only where there is a GPU."""
    yield from elementwise(shape, runs)
    yield from bert_layer(shape, max(runs // 3, 2))
    if torch.cuda.is_available():
        yield from whole_model({}, *shape[:2], runs)
