"""Tokens and n-grams of the examples that are frequent enough to be counted for every neuron, and where a batch has
them.

An n-gram belongs to the position of its last token. Left out are the first position of every window, where attention
has nothing to look back at, a token that begins every window, wherever it stands, and n-grams that would reach into
the window before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ninscope.errors import RequestError
from ninscope.neurons.observatory.measure import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.examples import Examples

LEAST = 5  # an n-gram that is there less often is not counted: that a neuron fires at each of so few may be chance
_AT_ONCE = 1 << 22  # n-grams that are sorted at a time
_TOKENS = 1 << 21  # three tokens below this fit 63 bits


@dataclass(frozen=True)
class Numbering:
    """How n-grams are written as one number. vocabulary: tokens are below it. bos: the token that is left out, or
    -1.
    """

    vocabulary: int
    bos: int


@dataclass(frozen=True)
class Grams:
    """The n-grams that are counted. size: n. numbers: sorted int64 [grams]. occurrences: int64 [grams], in all
    examples.

    positions: those with an n-gram, counted or not.
    """

    size: int
    numbers: np.ndarray
    occurrences: np.ndarray
    positions: int
    numbering: Numbering

    @property
    def covered(self) -> float:
        """The share of positions whose n-gram is counted; NaN where there are none."""
        return float(self.occurrences.sum() / self.positions) if self.positions else float("nan")

    def last_tokens(self) -> np.ndarray:
        """int64 [grams], the token that each ends with."""
        return self.numbers % self.numbering.vocabulary


def numbering_of(examples: Examples) -> Numbering:
    """From one look at all tokens. Raises RequestError: tokens too large for a trigram to be written as one number."""
    largest, bos = 0, -1
    for batch in examples.batches():
        assert batch.tokens is not None
        largest = max(largest, int(batch.tokens.max()))
        bos = int(batch.tokens[0, 0]) if examples.bos else -1
    if largest >= _TOKENS:
        raise RequestError(f"the text has token {largest}; n-grams are counted of tokens below {_TOKENS}")
    return Numbering(largest + 1, bos)


def grams_of(examples: Examples, size: int, most: int, numbering: Numbering) -> Grams:
    """The `most` most frequent n-grams of n = size that are there LEAST times or more; of equal ones those of smaller
    number.

    Memory does not grow with the text: n-grams are sorted in parts of about 4 million, one pass over the tokens for
    each.
    """
    parts = max(1, -(-examples.tokens // _AT_ONCE))
    numbers, occurrences, positions = np.empty(0, np.int64), np.empty(0, np.int64), 0
    for part in range(parts):
        found = np.concatenate(
            [given[given % parts == part] for given in _all_numbers(examples.batches(), size, numbering)]
        )
        positions += len(found)
        values, counts = np.unique(found, return_counts=True)
        kept = counts >= LEAST
        numbers, occurrences = np.append(numbers, values[kept]), np.append(occurrences, counts[kept])
        best = np.lexsort((numbers, -occurrences))[:most]
        numbers, occurrences = numbers[best], occurrences[best]
    order = np.argsort(numbers)
    return Grams(size, numbers[order], occurrences[order].astype(np.int64), positions, numbering)


def groups_of(grams: Grams, tokens: Tensor) -> Tensor:
    """The number in `Grams` of the n-gram at each position: int64 [n * t]; -1 for one not counted, -2 where there is
    none.

    tokens: int64 [n, t].
    """
    import torch

    numbers, there = _numbers(tokens, grams.size, grams.numbering)
    groups = torch.full_like(numbers, -1)
    known = torch.from_numpy(grams.numbers).to(tokens.device)
    if len(known):
        place = torch.searchsorted(known, numbers).clamp_(max=len(known) - 1)
        groups = torch.where(known[place] == numbers, place, groups)
    return torch.where(there, groups, -2).flatten()


def _all_numbers(batches: Iterable[Batch], size: int, numbering: Numbering) -> Iterator[np.ndarray]:
    for batch in batches:
        assert batch.tokens is not None
        numbers, there = _numbers(batch.tokens, size, numbering)
        yield numbers[there].cpu().numpy()


def _numbers(tokens: Tensor, size: int, numbering: Numbering) -> tuple[Tensor, Tensor]:
    """The number of the n-gram that ends at each position, int64 [n, t], and whether there is one, bool [n, t]."""
    import torch

    numbers = torch.zeros_like(tokens)
    there = torch.ones_like(tokens, dtype=torch.bool)
    there[:, : max(1, size - 1)] = False
    for back in range(size - 1, -1, -1):
        earlier = torch.zeros_like(tokens)
        earlier[:, back:] = tokens[:, : tokens.shape[1] - back]
        numbers = numbers * numbering.vocabulary + earlier
        there[:, back:] &= earlier[:, back:] != numbering.bos
    return numbers, there
