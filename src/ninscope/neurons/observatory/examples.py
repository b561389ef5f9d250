"""What a model is run on: windows of tokens, images, or rows of numbers, with labels or without; and the shuffled control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ninscope.errors import RequestError
from ninscope.neurons.observatory.measure import Batch
from ninscope.seeding import keyed_bits

TOKENS_KIND, IMAGES_KIND, ARRAYS_KIND = "tokens", "images", "arrays"
MOST_AT_ONCE = 16  # samples of a batch, where nobody says how many
_MOST_LOGITS = 2**24  # numbers that a model gives for a batch, 64 MB of float32: several copies are made of them
# The argument of a model's forward pass; a plain module takes its only one by position.
_ARGUMENT = {TOKENS_KIND: "input_ids", IMAGES_KIND: "pixel_values", ARRAYS_KIND: ""}


@dataclass(frozen=True)
class Examples:
    """kind: "tokens" (int64 [n, window]), "images" (float32 [n, channels, height, width]) or "arrays" (float32 [n, ...]).

    labels: int64 [n], classes of samples, or None. classes: their names. bos: the first token of every window is the same special
    one. Raises RequestError: shapes or values that make no sense.
    """

    kind: str
    values: np.ndarray
    batch_size: int = MOST_AT_ONCE
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    bos: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise RequestError(f"batch_size is {self.batch_size!r}; a whole number from 1 was expected")
        dimensions = {TOKENS_KIND: 2, IMAGES_KIND: 4}.get(self.kind)
        if dimensions not in (None, self.values.ndim) or self.values.ndim < 2 or 0 in self.values.shape:
            raise RequestError(
                f"examples have shape {list(self.values.shape)}; {self.kind} are [samples, ...], and at least one is needed"
            )
        if self.kind == TOKENS_KIND and (self.values.dtype.kind not in "iu" or self.values.min() < 0):
            raise RequestError("tokens must be whole numbers from 0")
        if self.kind != TOKENS_KIND and not np.isfinite(self.values).all():
            raise RequestError("examples hold NaN or infinity; leave these out")
        if self.labels is not None and self.labels.shape != self.values.shape[:1]:
            raise RequestError(
                f"labels have shape {list(self.labels.shape)}, and there are {len(self.values)} samples; give one to each"
            )
        if self.labels is not None and self.labels.min() < 0:
            raise RequestError(f"labels hold {self.labels.min()}; classes are whole numbers from 0")

    @property
    def samples(self) -> int:
        return len(self.values)

    @property
    def positions(self) -> int:
        """Tokens of a window; 0 where samples are no text."""
        return self.values.shape[1] if self.kind == TOKENS_KIND else 0

    @property
    def tokens(self) -> int:
        """All tokens, each counted as often as it is there."""
        return self.samples * self.positions

    @property
    def batch_count(self) -> int:
        return -(-self.samples // self.batch_size)

    def batches(self, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """All samples, in order; the same each time."""
        for number, first in enumerate(range(0, self.samples, self.batch_size)):
            part = slice(first, first + self.batch_size)
            kind = np.int64 if self.kind == TOKENS_KIND else np.float32
            values = torch.from_numpy(np.ascontiguousarray(self.values[part], dtype=kind)).to(device)
            labels = None
            if self.labels is not None:
                labels = torch.from_numpy(np.ascontiguousarray(self.labels[part], dtype=np.int64)).to(device)
            tokens = values if self.kind == TOKENS_KIND else None
            yield Batch(number, first, {_ARGUMENT[self.kind]: values}, tokens, labels)

    def shuffled(self, seed: int) -> Examples:
        """The control, which has the same numbers and no order.

        Tokens are permuted over all windows, but for a first one that is special; pixels within each image, all channels alike;
        of rows of numbers each column over all rows.
        """
        bits = np.random.Generator(keyed_bits("neurons: shuffled examples", seed))
        values = self.values.copy()
        if self.kind == TOKENS_KIND:
            rest = values[:, 1:] if self.bos else values
            rest[...] = bits.permutation(rest.reshape(-1)).reshape(rest.shape)
        elif self.kind == IMAGES_KIND:
            flat = values.reshape(*values.shape[:2], -1)
            for sample in flat:
                sample[...] = sample[:, bits.permutation(sample.shape[1])]
        else:
            columns = values.reshape(len(values), -1)
            columns[...] = bits.permuted(columns, axis=0)
        return replace(self, values=values)


def batch_for(positions: int, vocabulary: int | None) -> int:
    """Samples of a batch: 16, or fewer where a model gives so many numbers for a window of so many positions that memory would
    go to them. vocabulary: its outputs at a position, None where that is not known."""
    return max(1, min(MOST_AT_ONCE, _MOST_LOGITS // max(positions * (vocabulary or 1), 1)))


def positions_of(config: Mapping[str, Any]) -> int | None:
    """How many positions a model has, as its configuration states; None where it states none."""
    stated = [config.get(key) for key in ("max_position_embeddings", "n_positions")]
    return min((limit for limit in stated if isinstance(limit, int) and limit > 0), default=None)


def check_window(name: str, config: Mapping[str, Any], window: int) -> None:
    """Raises RequestError: a window is longer than the model of this name has positions."""
    limit = positions_of(config)
    if limit is not None and limit < window:
        raise RequestError(f"{name} has {limit} positions, and window is {window}; take a window of {limit} or less")


def token_windows(tokens: np.ndarray | Sequence[int], window: int, bos: int | None = None) -> np.ndarray:
    """int64 [n, window] of a text's tokens [t], one window after another; what fills no window is left out at the end.

    bos: a token that every window begins with, which takes one place of it. Raises RequestError: less than a window.
    """
    flat = np.asarray(tokens, np.int64).reshape(-1)
    body = window - (bos is not None)
    count = len(flat) // body if body > 0 else 0
    if count == 0:
        raise RequestError(
            f"the text has {len(flat)} tokens, and a window needs {max(body, 1)}; give more text or a smaller window"
        )
    windows = flat[: count * body].reshape(count, body)
    if bos is None:
        return windows.copy()
    return np.concatenate([np.full((count, 1), bos, np.int64), windows], axis=1)
