"""One pass over activations: sums and squares of every neuron, and each sample's largest monosemantic scale.

A value's scale is (h - mean)^2 * inverse. A neuron has its largest scale where the square is largest, so while tokens are
passed through only the square is kept, and the product is taken once a neuron. Sums are of h - shift, in float32 over
16 tokens and float64 beyond, so that a neuron with a large mean loses nothing.
"""

import numpy as np
from numba import njit

Array = np.ndarray  # of the shape and dtype that the docstring of the kernel gives

# Tokens whose float32 sums are added up before they go into float64: rounding stays that of a few additions.
_FLUSH = 16


@njit(nogil=True, cache=True)
def _add_four(
    first: Array, second: Array, third: Array, fourth: Array, shift: Array, sums: Array, squares: Array, largest: Array
) -> None:
    """Four tokens at once, since loading a neuron's sums costs more than adding to them."""
    for i in range(first.size):
        a, b, c, d = first[i] - shift[i], second[i] - shift[i], third[i] - shift[i], fourth[i] - shift[i]
        aa, bb, cc, dd = a * a, b * b, c * c, d * d
        sums[i] += (a + b) + (c + d)
        squares[i] += (aa + bb) + (cc + dd)
        left = aa if aa > bb else bb
        right = cc if cc > dd else dd
        left = left if left > right else right
        largest[i] = left if left > largest[i] else largest[i]


@njit(nogil=True, cache=True)
def _add_one(token: Array, shift: Array, sums: Array, squares: Array, largest: Array) -> None:
    for i in range(token.size):
        a = token[i] - shift[i]
        aa = a * a
        sums[i] += a
        squares[i] += aa
        largest[i] = aa if aa > largest[i] else largest[i]


@njit(nogil=True, cache=True)
def scan_samples(
    values: Array, kept: Array, shift: Array, inverse: Array, first: int, last: int, sums: Array, squares: Array,
    best: Array, index: Array,
) -> None:  # fmt: skip
    """Samples first..last-1 of a batch.

    values: float32 [samples, tokens, neurons], C order. kept: bool [samples, tokens], False where a token is padding; or of no
    columns, where all count. shift, inverse: float32 [neurons]. Written, of these samples: sums, squares, float64 [samples,
    neurons], of h - shift and its square; best, float32 [samples], the largest (h - shift)^2 * inverse, 0 where no token counts;
    index, int64 [samples], token * neurons + neuron where it is, the first of equals by neuron, then by token.
    """
    tokens, neurons = values.shape[1], values.shape[2]
    some, some_squares = np.zeros(neurons, np.float32), np.zeros(neurons, np.float32)
    largest = np.empty(neurons, np.float32)
    counted = np.empty(tokens, np.int64)
    for sample in range(first, last):
        count = 0
        for token in range(tokens):
            if kept.shape[1] == 0 or kept[sample, token]:
                counted[count] = token
                count += 1
        largest[:] = 0
        done = 0
        while done < count:
            end = min(done + _FLUSH, count)
            while done + 4 <= end:
                _add_four(
                    values[sample, counted[done]],
                    values[sample, counted[done + 1]],
                    values[sample, counted[done + 2]],
                    values[sample, counted[done + 3]],
                    shift,
                    some,
                    some_squares,
                    largest,
                )
                done += 4
            while done < end:
                _add_one(values[sample, counted[done]], shift, some, some_squares, largest)
                done += 1
            for i in range(neurons):
                sums[sample, i] += some[i]
                squares[sample, i] += some_squares[i]
                some[i] = 0
                some_squares[i] = 0
        best[sample], index[sample] = _best_of(values[sample], counted[:count], shift, inverse, largest)


@njit(nogil=True, cache=True)
def _best_of(values: Array, counted: Array, shift: Array, inverse: Array, largest: Array) -> tuple[np.float32, int]:
    """(largest scale of one sample, token * neurons + neuron). largest: float32 [neurons], of each neuron's squares."""
    neurons = largest.size
    neuron, scale = 0, np.float32(0)
    for i in range(neurons):
        if largest[i] * inverse[i] > scale:
            neuron, scale = i, largest[i] * inverse[i]
    if scale == 0:
        return scale, 0
    for token in counted:
        off = values[token, neuron] - shift[neuron]
        if off * off == largest[neuron]:
            return scale, token * neurons + neuron
    return np.float32(0), 0


@njit(nogil=True, cache=True)
def finish(count: Array, shift: Array, sums: Array, squares: Array) -> None:
    """Sums of h - shift and of its square become the mean and the variance, in index; 0 of what has no values.

    count: int64, shift: float32, sums, squares: float64, all [neurons].
    """
    for i in range(sums.size):
        off = sums[i] / max(count[i], 1)
        spread = squares[i] / max(count[i], 1) - off * off
        sums[i] = off + shift[i] if count[i] > 0 else 0.0
        # One value has no variance, whatever rounding says; NaN has to stay.
        squares[i] = 0.0 if spread < 0 or (count[i] < 2 and spread == spread) else spread


_TILE = 1024  # positions whose sums stay in the first cache while all samples pass


@njit(nogil=True, cache=True)
def scan_positions(
    values: Array, kept: Array, shift: Array, inverse: Array, first: int, last: int, sums: Array, squares: Array,
    best: Array, index: Array,
) -> None:  # fmt: skip
    """Positions first..last-1 of every sample, each a neuron.

    values: float32 [samples, positions], C order. kept: bool alike, or of no columns, where all count. shift, inverse: float32
    [positions]. Written: sums, squares, float64 [positions], of h - shift and its square, of these positions; best, float32
    [samples], index, int64 [samples]: the largest (h - shift)^2 * inverse among them, 0 where there is none, and its position,
    the first of equals.
    """
    off, scales = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    some, some_squares = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    lanes = np.empty(_TILE // 8, np.float32)
    best[:] = 0
    index[:] = 0
    for start in range(first, last, _TILE):
        end = min(start + _TILE, last)
        size = end - start
        some[:] = 0
        some_squares[:] = 0
        scales[:] = 0
        for sample in range(values.shape[0]):
            if kept.shape[1] == 0:
                _off(values[sample, start:end], shift[start:end], off)
            else:
                _off_kept(values[sample, start:end], kept[sample, start:end], shift[start:end], off)
            _add_position(off[:size], inverse[start:end], some, some_squares, scales)
            largest = _largest(scales, lanes)
            if largest > best[sample]:
                best[sample] = largest
                for i in range(size):
                    if scales[i] == largest:
                        index[sample] = start + i
                        break
            if sample % _FLUSH == _FLUSH - 1 or sample == values.shape[0] - 1:
                for i in range(size):
                    sums[start + i] += some[i]
                    squares[start + i] += some_squares[i]
                some[:] = 0
                some_squares[:] = 0


@njit(nogil=True, cache=True)
def _off(values: Array, shift: Array, off: Array) -> None:
    for i in range(values.size):
        off[i] = values[i] - shift[i]


@njit(nogil=True, cache=True)
def _off_kept(values: Array, kept: Array, shift: Array, off: Array) -> None:
    for i in range(values.size):
        off[i] = values[i] - shift[i] if kept[i] else np.float32(0)


@njit(nogil=True, cache=True)
def _add_position(off: Array, inverse: Array, sums: Array, squares: Array, scales: Array) -> None:
    for i in range(off.size):
        square = off[i] * off[i]
        sums[i] += off[i]
        squares[i] += square
        scales[i] = square * inverse[i]


@njit(nogil=True, cache=True)
def _largest(scales: Array, lanes: Array) -> np.float32:
    """The largest of a tile: eight parts side by side, and so again, as one running maximum is not vectorised."""
    _eight_to_one(scales, lanes)
    _eight_to_one(lanes, lanes)
    largest = np.float32(0)
    for i in range(_TILE // 64):
        largest = lanes[i] if lanes[i] > largest else largest
    return largest


@njit(nogil=True, cache=True)
def _eight_to_one(values: Array, out: Array) -> None:
    part = values.size // 8
    for i in range(part):
        a = _larger(_larger(values[i], values[i + part]), _larger(values[i + 2 * part], values[i + 3 * part]))
        b = _larger(
            _larger(values[i + 4 * part], values[i + 5 * part]), _larger(values[i + 6 * part], values[i + 7 * part])
        )
        out[i] = _larger(a, b)


@njit(nogil=True, cache=True)
def _larger(left: np.float32, right: np.float32) -> np.float32:
    return left if left > right else right
