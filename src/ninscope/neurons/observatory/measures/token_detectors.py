"""Token and n-gram detectors: neurons that are on if, and only if, the text has one of a few tokens, or n-grams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.errors import RequestError
from ninscope.neurons.observatory.by_layer import neuron_values, shares, something_seen
from ninscope.neurons.observatory.firing import Firing, Rule, is_on, over_neurons, processor_values, told_facts
from ninscope.neurons.observatory.grams import Grams, grams_of, groups_of, numbering_of
from ninscope.neurons.observatory.measure import ALL, HIDDEN, TOKENS, Batch, Fact, Found, Place, StreamedMeasure, Tally
from ninscope.neurons.observatory.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

SIZES = {1: "tokens", 2: "bigrams", 3: "trigrams"}
MOST = {1: 5, 2: 50, 3: 50}  # triggers that a detector may have; the source has 5 tokens, 50 trigrams
# A trigger is a token on which the neuron is on in 95 % of all cases, and triggers have to cover 95 % of what the neuron
# fires. In whole numbers: one miss in 20 is allowed.
ALLOWED = 20
# Counts take so many bytes, or this part of what the model's weights take if that is more: half for tokens, a quarter
# for bigrams, and for trigrams.
BYTES, OF_WEIGHTS = 128 << 20, 1 / 8
PARTS = {1: 0.5, 2: 0.25, 3: 0.25}
_BYTES_EACH, _EXACT = 4, 1 << 24  # of a count: float32 holds whole numbers up to this
_BLOCK = 1 << 22  # counts that are searched at once


@register
class TokenDetectors(StreamedMeasure):
    """The share of hidden neurons that fire if, and only if, the text has one of at most five tokens.

    Token v is a trigger of neuron i where i is on (`firing.py` says what on is) in at least 95 % of v's occurrences. i
    is a token detector where its five most frequent triggers, or fewer, make up at least 95 % of what it fires.
    Detectors of bigrams and trigrams are the same with up to 50 triggers; a token detector mostly is one too, so that
    those that are not are told apart. A detector suppresses its triggers where U w, the unembedding times the weights
    that leave the neuron, is negative on the mean over its triggers; centred, where it is less there than on the mean
    over the vocabulary, which alone the softmax sees.

    Left out is the first token of every window, beside one that begins all of them (BOS). The source does so with BOS,
    since for many neurons it makes most of what they fire; a window without BOS shows the same at its first token.
    Ours too: tokens that are there less than five times are no triggers, as at these chance is enough, but what a
    neuron fires there counts. Where there is no gate a neuron is on only at positive values, which the sign of U w
    supposes; behind a gate it is not known (NaN).

    Memory: four bytes for each neuron and each counted token, bigram and trigram. Where this would take more than 128
    MiB, or an eighth of what the weights take if that is more, only the most frequent tokens are counted;
    `token_detectors_tokens_counted` is the share of positions that they cover. What a neuron fires at rarer ones
    counts, and they are no triggers.

    Source: Voita et al., "Neurons in Large Language Models: Dead, N-gram, Positional" (2023), sections 4.2, 4.4,
    appendix A.2. Paper read. It reads 5 million tokens; on a short text most tokens are too rare to be found. It asks,
    besides, that the five tokens on which the neuron fires most cover 95 %, which what is said above implies.
    """

    name: ClassVar[str] = "token_detectors"
    title: ClassVar[str] = "Token detectors"
    source: ClassVar[str] = "Voita et al. 2023, Neurons in Large Language Models, section 4"
    facts: ClassVar = {
        "token_detectors": "share of neurons that detect at most 5 tokens, 0 to 1",
        "token_detectors_tokens": "tokens that some neuron detects",
        "token_detectors_tokens_counted": "share of the text's positions whose token could be a trigger, 0 to 1",
        "token_detectors_suppressing": "share of token detectors that lower their triggers' logits, 0 to 1; count: detectors",
        "token_detectors_suppressing_centred": "the same beside the mean over the vocabulary",
        "token_detectors_bigrams": "share of neurons that detect at most 50 bigrams, 0 to 1",
        "token_detectors_bigrams_only": "share of neurons that do, and detect no tokens",
        "token_detectors_bigrams_counted": "share of the text's positions whose bigram could be a trigger, 0 to 1",
        "token_detectors_trigrams": "share of neurons that detect at most 50 trigrams, 0 to 1",
        "token_detectors_trigrams_only": "share of neurons that do, and detect neither tokens nor bigrams",
        "token_detectors_trigrams_counted": "share of the text's positions whose trigram could be a trigger, 0 to 1",
        **told_facts("token_detectors"),
    }
    needs: ClassVar[frozenset[str]] = frozenset({TOKENS})
    reads: ClassVar[frozenset[str]] = frozenset({HIDDEN})

    def objection(self, subject: Subject) -> str | None:
        """Experts are shown their tokens in no order; windows of one token have none that counts."""
        if all(place.routed for place in subject.places_of(HIDDEN)):
            return "its hidden neurons are experts', whose tokens come in no order"
        return "windows have one token, and the first is left out" if subject.examples.positions < 2 else None

    def tally(self, subject: Subject) -> Tally:
        """How often each neuron is on at each counted token, bigram and trigram."""
        return _Tally(subject)


@dataclass
class _Counts:
    """Of one layer and one n: how often a neuron was on.

    hits: float32 [grams, neurons], at each counted n-gram; exact, and float64 where one is there over 16 million times.
    fired: float64 [neurons], wherever there is an n-gram, counted or not.
    """

    hits: Tensor
    fired: Tensor


class _Tally(Tally):
    def __init__(self, subject: Subject) -> None:
        self._subject, self._firing = subject, Firing(subject)
        self._grams = _counted_grams(subject)
        self._groups: dict[int, Tensor] = {}
        self._counts: dict[str, dict[int, _Counts]] = {}

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        from ninscope.neurons.observatory.counting_kernels import add_on_by_groups

        if place.routed or batch.tokens is None or values.shape[:2] != batch.tokens.shape:
            return
        if not self._groups:
            self._groups = {size: groups_of(grams, batch.tokens) for size, grams in self._grams.items()}
        counts = self._counts.get(place.layer)
        if counts is None:
            counts = {size: _empty(grams, values) for size, grams in self._grams.items()}
            self._counts[place.layer] = counts
        rule, held = self._firing.rule(place, values), processor_values(values)
        if held is None:
            for size, sums in counts.items():
                _add(sums, rule, values, self._groups[size])
            return
        rows, groups = held.reshape(-1, held.shape[-1]), np.stack([self._groups[size].numpy() for size in SIZES])
        hits, fired = [counts[size].hits.numpy() for size in SIZES], np.zeros((len(SIZES), held.shape[-1]))
        above, below = rule.bounds
        one, two, three = hits

        def work(first: int, last: int) -> None:
            add_on_by_groups(rows, above, below, groups, first, last, one, two, three, fired)

        over_neurons(rows, work)
        for size, more in zip(SIZES, fired, strict=True):
            counts[size].fired.numpy()[:] += more

    def batch_ended(self, batch: Batch) -> None:
        """Positions are those of one batch."""
        self._groups = {}

    def found(self) -> Found:
        something_seen("token_detectors", self._counts)
        detectors = {
            size: {
                layer: _detectors(counts[size], self._grams[size], MOST[size]) for layer, counts in self._counts.items()
            }
            for size in SIZES
        }
        flags = {size: {layer: one.flags for layer, one in found.items()} for size, found in detectors.items()}
        tokens = flags[1]
        bigrams_only = {layer: flags[2][layer] & ~tokens[layer] for layer in tokens}
        trigrams_only = {layer: flags[3][layer] & ~flags[2][layer] & ~tokens[layer] for layer in tokens}
        facts = (
            *shares("token_detectors", tokens),
            *_detected(detectors[1]),
            *self._suppression(detectors[1]),
            *shares("token_detectors_bigrams", flags[2]),
            *shares("token_detectors_bigrams_only", bigrams_only),
            *shares("token_detectors_trigrams", flags[3]),
            *shares("token_detectors_trigrams_only", trigrams_only),
            *(
                Fact(
                    f"token_detectors_{name}_counted",
                    ALL,
                    self._grams[size].covered,
                    count=len(self._grams[size].numbers),
                )
                for size, name in SIZES.items()
            ),
            *self._firing.facts("token_detectors"),
        )
        return Found(facts, neuron_values("token_detectors", tokens))

    def _suppression(self, detectors: Mapping[str, _Detectors]) -> Iterator[Fact]:
        """Of layers where it is not known, the share is of no detector."""
        known = any(found.flags.any() and not self._firing.rules[layer].gated for layer, found in detectors.items())
        unembedding = self._subject.unembedding() if known else None
        vocabulary = self._grams[1].last_tokens()
        signs: dict[str, np.ndarray] = {}
        for layer, found in detectors.items():
            signs[layer] = np.zeros((0, 2), bool)
            if unembedding is not None and found.flags.any() and not self._firing.rules[layer].gated:
                signs[layer] = _suppressed(unembedding, _leaving(self._subject, layer), found, vocabulary)
        for column, ending in enumerate(("suppressing", "suppressing_centred")):
            yield from shares(f"token_detectors_{ending}", {layer: given[:, column] for layer, given in signs.items()})


@dataclass(frozen=True)
class _Detectors:
    """flags: bool [neurons]. triggers: int64 [neurons, most], numbers of n-grams, the most frequent first; -1 where
    there are no more.
    """

    flags: np.ndarray
    triggers: np.ndarray


def _counted_grams(subject: Subject) -> dict[int, Grams]:
    """The n-grams that are counted, as many as memory allows."""
    neurons = max(1, _neurons(subject))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in subject.model.parameters())
    memory = max(BYTES, int(weights * OF_WEIGHTS))
    numbering = numbering_of(subject.examples)
    return {
        size: grams_of(subject.examples, size, int(memory * part) // (neurons * _BYTES_EACH), numbering)
        for size, part in PARTS.items()
    }


def _neurons(subject: Subject) -> int:
    """How many hidden neurons there are whose tokens are in order: from the weights, else from one sample."""
    places = [place for place in subject.places_of(HIDDEN) if not place.routed]
    widths: dict[str, int] = {}
    try:
        widths = {place.layer: subject.leaving(place.layer).shape[1] for place in places}
    except RequestError:  # modules that the user names
        first = next(subject.batches())
        one = Batch(0, 0, {name: values[:1] for name, values in first.inputs.items()}, first.tokens[:1])  # type: ignore[index]
        subject.run((HIDDEN,), lambda place, values, _: widths.update({place.layer: values.shape[-1]}), [one])
    return sum(widths.get(place.layer, 0) for place in places)


def _empty(grams: Grams, values: Tensor) -> _Counts:
    import torch

    number, neurons = len(grams.numbers), values.shape[-1]
    kind = torch.float64 if number and grams.occurrences.max() > _EXACT else torch.float32
    return _Counts(
        torch.zeros((number, neurons), dtype=kind, device=values.device),
        torch.zeros(neurons, dtype=torch.float64, device=values.device),
    )


def _add(sums: _Counts, rule: Rule, values: Tensor, groups: Tensor) -> None:
    """As the kernel `add_on_by_groups`. Sums of 0 and 1 are exact, in any order."""
    import torch

    on = is_on(rule, values).flatten(0, 1)
    sums.fired += on[groups > -2].sum(0, dtype=torch.float64)
    sums.hits.index_add_(0, groups[groups >= 0], on[groups >= 0].to(sums.hits.dtype))


def _detectors(counts: _Counts, grams: Grams, most: int) -> _Detectors:
    """Which neurons of a layer detect at most `most` n-grams, and which those are."""
    import torch

    fired = counts.fired.cpu().long()
    flags = np.zeros(len(fired), bool)
    triggers = np.full((len(fired), most), -1, np.int64)
    number = len(grams.numbers)
    occurrences = torch.from_numpy(grams.occurrences)[:, None]
    step = max(1, _BLOCK // max(number, 1))
    for first in range(0, len(fired) if number else 0, step):
        hits = counts.hits[:, first : first + step].cpu().long()
        hits = torch.where((occurrences - hits) * ALLOWED <= occurrences, hits, 0)
        enough = fired[first : first + step] * (ALLOWED - 1)
        likely = ((hits.sum(0) * ALLOWED >= enough) & (enough > 0)).nonzero().flatten()
        ranked = hits[:, likely] * number + torch.arange(number - 1, -1, -1)[:, None]  # ties: the smaller number first
        best = ranked.topk(min(most, number), dim=0).values
        covered = best // number
        found = covered.sum(0) * ALLOWED >= enough[likely]
        rows = (likely[found] + first).numpy()
        flags[rows] = True
        chosen = torch.where(covered > 0, number - 1 - best % number, -1)[:, found]
        triggers[rows, : len(chosen)] = chosen.T.numpy()
    return _Detectors(flags, triggers)


def _detected(detectors: Mapping[str, _Detectors]) -> Iterator[Fact]:
    """How many tokens have a detector, in each layer and in the model."""
    tokens = {layer: np.unique(found.triggers[found.flags]) for layer, found in detectors.items()}
    tokens[ALL] = np.unique(np.concatenate(list(tokens.values())))
    for layer, found in tokens.items():
        yield Fact("token_detectors_tokens", layer, float(np.sum(found >= 0)))


def _leaving(subject: Subject, layer: str) -> Tensor | None:
    try:
        return subject.leaving(layer)
    except RequestError:  # which weights it has is not known
        return None


def _suppressed(unembedding: Tensor, leaving: Tensor | None, found: _Detectors, vocabulary: np.ndarray) -> np.ndarray:
    """Of each detector, whether it lowers its triggers' logits, and whether so beside the mean logit: bool [detectors,
    2].

    Nothing is known ([0, 2]) where what leaves the layer is not written into the residual stream, of the unembedding's
    width.
    """
    if leaving is None or leaving.shape[0] != unembedding.shape[1]:
        return np.zeros((0, 2), bool)
    mean = unembedding.mean(0)
    signs = []
    for neuron in np.flatnonzero(found.flags):
        triggers = found.triggers[neuron]
        written = leaving[:, neuron].double()
        logits = unembedding[vocabulary[triggers[triggers >= 0]]].double() @ written
        signs.append((float(logits.mean()) < 0, float(logits.mean() - mean.double() @ written) < 0))
    return np.array(signs, bool).reshape(-1, 2)
