"""Which hidden neurons are on, as a code of a token or a sample: how often two have the same, and what it tells of its
label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.observatory.labelled_samples import check_once
from ninscope.neurons.observatory.measure import HIDDEN, Batch, Fact, Found, Place, StreamedMeasure, Tally
from ninscope.neurons.observatory.registry import register
from ninscope.seeding import keyed_bits

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

CODES = 1024  # codes that are kept of a layer: of all tokens, or samples
BITS = 4096  # bits of a code at most
NEIGHBOURS = 9
LABELS = 32  # labels that accuracies are asked of at most: the commonest
ROUNDS = 20  # of K-means at most
_FEWEST = 4 * NEIGHBOURS


@register
class HashEncoding(StreamedMeasure):
    """The code of a token is which hidden neurons of a layer are on (activation > 0, which for GELU and SiLU is where their
    argument is above 0). Redundancy: (n - unique) / n for n codes. Beside it what the code tells of a label: accuracy of
    K-means clusters, each given a label so that most fit, and of the majority of the 9 nearest codes by Hamming distance.

    At most 1,024 codes are kept: of tokens that are drawn once from all (the same at every checkpoint), or of samples that
    are no text, whose positions lie side by side. A code has at most 4,096 bits: of a longer one, bits drawn once. Labels
    are those of samples where there are some (a token has its window's), else the token itself; accuracies are of the codes
    with one of the 32 commonest labels (count). Neighbours are looked for among one half of the kept codes, drawn, for each
    code of the other half; of codes at the same distance that which was drawn first is nearer, and of labels with as many
    votes the smaller one wins. K-means starts from k-means++ and has as many clusters as there are labels.

    Source: He, Lei, Ji and Tao, "Neural networks behave as hash encoders: An empirical study" (2021). Grade: their public
    code was read, which takes training and test codes of labelled samples, 9 nearest, as many clusters as classes; tokens,
    halves and bounds are ours.

    Pitfalls: redundancy depends on n (count) and falls with the number of neurons; few neurons that vary
    (hash_encoding_varying) give few codes, whatever the layer knows. In text the same token at another place has another
    code only by its context. An accuracy means something beside hash_encoding_chance. Experts see tokens in no order, so
    their layers have no rows.
    """

    name = "hash_encoding"
    title = "Hash encoding"
    source = "He et al. 2021, Neural networks behave as hash encoders (code read)"
    facts: ClassVar = {
        "hash_encoding": "redundancy: share of codes that another had before (0: each code is its own; towards 1: all the same)",
        "hash_encoding_varying": "share of bits that are on for some kept codes and off for others",
        "hash_encoding_kmeans": "accuracy of K-means clusters of the codes against labels (0 to 1)",
        "hash_encoding_neighbours": "accuracy of the majority of the 9 nearest codes by Hamming distance (0 to 1)",
        "hash_encoding_chance": "share of the commonest label among the codes that accuracies are of",
    }
    reads = frozenset({HIDDEN})

    def objection(self, subject: Subject) -> str | None:
        if all(place.routed for place in subject.places_of(HIDDEN)):
            return "all its hidden neurons are those of experts, which see tokens in no order"
        return None

    def tally(self, subject: Subject) -> Tally:
        return _HashTally(subject)


class _HashTally(Tally):
    """Codes of drawn tokens: uint8 [codes, bits / 8] for each layer."""

    def __init__(self, subject: Subject) -> None:
        examples = subject.examples
        self.window, self.seed = examples.positions, subject.seed
        total = examples.samples * max(self.window, 1)
        draw = np.random.Generator(keyed_bits("neurons: tokens with a code", self.seed))
        drawn = draw.choice(total, min(CODES, total), replace=False)
        self.order = np.argsort(drawn)  # where in the draw each is, by number
        self.numbers = drawn[self.order]
        self.codes: dict[str, np.ndarray] = {}
        self.bits: dict[str, int] = {}
        self.labels = np.zeros(len(drawn), np.int64)
        self.labelled = self.window > 0 or examples.labels is not None
        self._number = -1
        self._seen: set[str] = set()  # layers of this batch

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        if place.routed:
            return
        import torch

        if batch.number != self._number:
            self._begin(batch, len(values))
        check_once(place, self._seen)
        if not len(self._rows):
            return
        if self.window and values.shape[:2] != (len(values), self.window):
            raise CheckpointError(
                "unsupported",
                f"{place.layer}: it has {values.shape[1]} positions for windows of {self.window} tokens; codes are of tokens",
            )
        flat = values.reshape(-1, values.shape[-1]) if self.window else values.flatten(1)
        on = flat[torch.from_numpy(self._rows).to(flat.device)] > 0
        if on.shape[1] > BITS:
            draw = np.random.Generator(keyed_bits(f"neurons: bits of the code of {place.layer}", self.seed))
            kept = np.sort(draw.choice(on.shape[1], BITS, replace=False))
            on = on[:, torch.from_numpy(kept).to(on.device)]
        packed = np.packbits(on.cpu().numpy(), axis=1)
        if place.layer not in self.codes:
            self.codes[place.layer] = np.zeros((len(self.numbers), packed.shape[1]), np.uint8)
            self.bits[place.layer] = on.shape[1]
        self.codes[place.layer][self._slots] = packed

    def _begin(self, batch: Batch, samples: int) -> None:
        """Which tokens of a batch have a code that is kept, and their labels."""
        self._number, of_sample = batch.number, max(self.window, 1)
        self._seen.clear()
        first, last = batch.first * of_sample, (batch.first + samples) * of_sample
        span = slice(*np.searchsorted(self.numbers, [first, last]))
        self._rows, self._slots = self.numbers[span] - first, self.order[span]
        if batch.labels is not None:
            self.labels[self._slots] = batch.labels.cpu().numpy()[self._rows // of_sample]
        elif batch.tokens is not None:
            self.labels[self._slots] = batch.tokens.reshape(-1).cpu().numpy()[self._rows]

    def found(self) -> Found:
        if len(self.numbers) < _FEWEST:
            raise RequestError(f"hash_encoding needs {_FEWEST} tokens or samples, and there are {len(self.numbers)}")
        asked, labels = common_labels(self.labels) if self.labelled else (np.empty(0, np.int64),) * 2
        facts: list[Fact] = []
        for layer, packed in self.codes.items():
            on = np.unpackbits(packed, axis=1, count=self.bits[layer])
            count = len(on)
            facts.append(Fact("hash_encoding", layer, redundancy(packed), None, count))
            varying = float((on != on[0]).any(0).mean())
            facts.append(Fact("hash_encoding_varying", layer, varying, None, self.bits[layer]))
            if self.labelled:
                facts += self._accuracies(layer, Codes.of(on[asked]), labels)
        return Found(tuple(facts))

    def _accuracies(self, layer: str, codes: Codes, labels: np.ndarray) -> list[Fact]:
        draw = np.random.Generator(keyed_bits(f"neurons: clusters of codes of {layer}", self.seed))
        classes = int(labels.max()) + 1
        clusters = k_means(codes, first_centres(codes, classes, draw))
        half = len(labels) // 2
        guesses = nearest_labels(codes.part(slice(half, None)), codes.part(slice(half)), labels[:half])
        return [
            Fact("hash_encoding_kmeans", layer, clustering_accuracy(clusters, labels), None, len(labels)),
            Fact("hash_encoding_neighbours", layer, float((guesses == labels[half:]).mean()), None, len(guesses)),
            Fact("hash_encoding_chance", layer, float(np.bincount(labels).max() / len(labels)), None, len(labels)),
        ]


@dataclass(frozen=True)
class Codes:
    """bits: float32 [n, bits] of 0 and 1. ones: float64 [n], how many are 1. Products of codes are whole numbers, and so
    exact."""

    bits: np.ndarray
    ones: np.ndarray

    @classmethod
    def of(cls, on: np.ndarray) -> Codes:
        """on: [n, bits] of 0 and 1."""
        return cls(on.astype(np.float32), on.sum(1, dtype=np.float64))

    def part(self, rows: slice | np.ndarray) -> Codes:
        return Codes(self.bits[rows], self.ones[rows])

    def distances(self, others: Codes) -> np.ndarray:
        """Hamming distances, float64 [n, others]."""
        return self.ones[:, None] + others.ones - 2.0 * _product(self.bits, others.bits.T)


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A matrix product by torch, with the threads that the passes have; numpy's own would be more beside them."""
    import torch

    return (torch.from_numpy(left) @ torch.from_numpy(right)).numpy()


def redundancy(packed: np.ndarray) -> float:
    """(n - unique) / n of the rows of uint8 [n, bytes]."""
    rows = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1]))).reshape(-1)
    return (len(rows) - len(np.unique(rows))) / len(rows)


def common_labels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows whose label is one of the LABELS commonest (of equally common ones the smaller), and these labels numbered
    from 0."""
    values, counts = np.unique(labels, return_counts=True)
    kept = np.sort(values[np.lexsort((values, -counts))[:LABELS]])
    rows = np.flatnonzero(np.isin(labels, kept))
    return rows, np.searchsorted(kept, labels[rows])


def nearest_labels(codes: Codes, known: Codes, labels: np.ndarray) -> np.ndarray:
    """int64 [codes]: for each code the label that most of the NEIGHBOURS nearest known codes have.

    Of known codes at the same distance the first is nearer; of labels with as many votes the smaller one wins. Fewer known
    codes than NEIGHBOURS: all of them vote.
    """
    order = codes.distances(known) * len(known.ones) + np.arange(len(known.ones))
    nearest = np.argpartition(order, min(NEIGHBOURS, order.shape[1]) - 1, axis=1)[:, :NEIGHBOURS]
    votes = np.zeros((len(order), int(labels.max()) + 1), np.int64)
    np.add.at(votes, (np.arange(len(order))[:, None], labels[nearest]), 1)
    return votes.argmax(1)


def first_centres(codes: Codes, clusters: int, draw: np.random.Generator) -> np.ndarray:
    """int64 [clusters]: rows from which K-means starts, by k-means++: each next one is drawn with chances as its squared
    distance to the nearest so far. Where all have distance 0, any row."""
    rows = [int(draw.integers(len(codes.ones)))]
    nearest = np.full(len(codes.ones), np.inf)
    for _ in range(clusters - 1):
        # The squared Euclidean distance of codes is their Hamming distance.
        nearest = np.minimum(nearest, codes.distances(codes.part(np.array(rows[-1:])))[:, 0])
        total = nearest.sum()
        chances = nearest / total if total > 0 else None
        rows.append(int(draw.choice(len(nearest), p=chances)))
    return np.array(rows)


def k_means(codes: Codes, centres: np.ndarray) -> np.ndarray:
    """int64 [n]: the cluster of each code, after Lloyd's rounds from the rows `centres`, at most ROUNDS.

    Centres are kept as sums, which are whole numbers below 2^24 and so exact. Of clusters at the same distance the first
    has the code; one that loses all its codes stays where it is.
    """
    sums, sizes = codes.bits[centres], np.ones(len(centres))
    clusters = np.full(len(codes.ones), -1)
    for _ in range(ROUNDS):
        squares = np.square(sums, dtype=np.float64).sum(1) / sizes**2
        distances = squares - 2.0 * _product(codes.bits, sums.T) / sizes
        before, clusters = clusters, distances.argmin(1)
        if np.array_equal(before, clusters):
            break
        members = (clusters[:, None] == np.arange(len(centres))).astype(np.float32)
        counts = members.sum(0, dtype=np.float64)
        held = counts > 0
        sums = np.where(held[:, None], _product(members.T, codes.bits), sums)
        sizes = np.where(held, counts, sizes)
    return clusters


def clustering_accuracy(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Share of codes that have their cluster's label, with one label to each cluster such that most have. NaN: no codes."""
    from scipy.optimize import linear_sum_assignment

    if not len(labels):
        return math.nan
    table = np.zeros((int(clusters.max()) + 1, int(labels.max()) + 1), np.int64)
    np.add.at(table, (clusters, labels), 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / len(labels))
