"""How the weights of one checkpoint differ from those of another: distance, cosine, flipped signs (docs/method.md)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numba import njit

from ninscope.checkpoints.matrix import WeightTile
from ninscope.checkpoints.tensors import as_float
from ninscope.checkpoints.verification import Verification, unverified
from ninscope.exact.bands import BAND_BYTES, Band, BandReader, Outgoing, outgoing
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.weights.counting import WHOLE, rows_of_matrices, weights_of_matrices
from ninscope.wording import joined_clauses

# Columns of the sums of one row: squares of the differences, of the weights now and before, their products, opposite
# signs, weights.
_ROW_SUMS = 6


@dataclass(frozen=True)
class WeightChange:
    """Of the weights W of a matrix against V, those of another checkpoint. NaN where it is not defined.

    distance: ||W - V|| / ||V||; cosine: of the angle between W and V as vectors; sign_flips: share of the weights that are above
    0 in one and below 0 in the other. message: one clause on why something is missing, or empty.
    """

    distance: float = math.nan
    cosine: float = math.nan
    sign_flips: float = math.nan
    message: str = ""


CHANGES = tuple(field.name for field in fields(WeightChange) if field.name != "message")


@dataclass(frozen=True)
class NetworkChanges:
    """Changes of every matrix by its name, in the order of the blocks, and of all that both have ("all"), last.

    unverified: as in `NetworkWeights`.
    """

    changes: Mapping[str, WeightChange]
    unverified: str = ""


def network_changes(now: NeuronNetwork, before: NeuronNetwork, label: str) -> NetworkChanges:
    """Compare two checkpoints band by band: of each no more than a band is in memory. label: what messages call the other one.

    A matrix that the other one does not have, or has in another shape, has no values, and its message says so; the others have
    theirs. Raises CheckpointError.
    """
    pairs = _pairs(now, before)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in weights_of_matrices(now)}
    whole = len(pairs) == len(outgoing(now))
    verifications = [Verification(network.tensors) for network in (now, before)] if whole else []
    bands = [both for pair in pairs for both in _bands_of(*pair)]
    readers = [BandReader([both[side] for both in bands]) for side in (0, 1)]
    for both in bands:
        tiles = [_tiles(reader, band) for reader, band in zip(readers, both, strict=True)]
        for now_tile, before_tile in zip(*tiles, strict=True):
            _compare(both, now_tile, before_tile, rows)
    clauses = [verification.finish() for verification in verifications]
    if not whole:
        clauses = [unverified(network.matrices.values()) for network in (now, before)]
    return NetworkChanges(_changes(rows, label), joined_clauses(*dict.fromkeys(clauses)))


def _pairs(now: NeuronNetwork, before: NeuronNetwork) -> list[tuple[Outgoing, Outgoing]]:
    """What can be compared: tensors of one name, shape and layout, of which the same rows lead to the same layers."""
    others = {(part.layer, part.matrix.name): part for part in outgoing(before)}
    pairs = [(part, others.get((part.layer, part.matrix.name))) for part in outgoing(now)]
    return [(part, other) for part, other in pairs if other is not None and _are_alike(part, other)]


def _are_alike(part: Outgoing, other: Outgoing) -> bool:
    matrix, before = part.matrix, other.matrix
    return (
        matrix.tensor.shape == before.tensor.shape
        and matrix.layout == before.layout
        and list(part.leads_to) == list(other.leads_to)
        and all(np.array_equal(rows, other.leads_to[target]) for target, rows in part.leads_to.items())
    )


def _bands_of(part: Outgoing, other: Outgoing) -> list[tuple[Band, Band]]:
    """The same slices of both, about a band's bytes of the wider type."""
    slice_bytes = max(part.matrix.slice_bytes, other.matrix.slice_bytes, 1)
    height = max(BAND_BYTES // slice_bytes, 1)
    spans = [(first, min(first + height, part.matrix.slices)) for first in range(0, part.matrix.slices, height)]
    return [(Band(part, *span), Band(other, *span)) for span in spans]


def _tiles(reader: BandReader, band: Band) -> list[WeightTile]:
    raw, matrix = reader.raw(band), band.part.matrix
    matrix.check_stored(raw, band.first)
    return list(matrix.tiles(raw, band.first))


def _compare(both: tuple[Band, Band], now: WeightTile, before: WeightTile, rows: dict[str, list[np.ndarray]]) -> None:
    """Add the sums of every row of weights to those of its matrix."""
    band, other = both
    pieces = zip(rows_of_matrices(band.part, now), rows_of_matrices(other.part, before), strict=True)
    for (names, bits, slots), (_, before_bits, _) in pieces:
        weights = _floats(bits, band.part.matrix.dtype)
        sums = np.zeros((len(weights), _ROW_SUMS))
        with np.errstate(all="ignore"):  # as compiled code does
            _compare_rows(weights, _floats(before_bits, other.part.matrix.dtype), sums)
        for number, name in enumerate(names):
            rows[name].append(sums[slots == number])


def _floats(bits: np.ndarray, dtype: str) -> np.ndarray:
    """Weights as float32 or float64, read-only."""
    values = as_float(bits if dtype == "BF16" else bits.view(f"<f{bits.itemsize}"), dtype)
    values = np.ascontiguousarray(values, dtype=np.float64 if dtype == "F64" else np.float32).view()
    values.flags.writeable = False
    return values


_LANES = 64  # sums side by side, which compile to vector instructions


@njit(cache=True, nogil=True, error_model="numpy")
def _compare_rows(now: np.ndarray, before: np.ndarray, sums: np.ndarray) -> None:
    """sums: float64 [rows, _ROW_SUMS], written."""
    rows, columns = now.shape
    lanes = np.zeros((5, _LANES))
    for r in range(rows):
        lanes[:] = 0.0
        for start in range(0, columns, _LANES):
            some, others = now[r, start : start + _LANES], before[r, start : start + _LANES]
            for c in range(some.size):
                weight, other = np.float64(some[c]), np.float64(others[c])
                difference = weight - other
                lanes[0, c] += difference * difference
                lanes[1, c] += weight * weight
                lanes[2, c] += other * other
                lanes[3, c] += weight * other
                lanes[4, c] += 1.0 if (weight > 0.0) & (other < 0.0) | (weight < 0.0) & (other > 0.0) else 0.0
        for lane in range(_LANES):
            for kind in range(5):
                sums[r, kind] += lanes[kind, lane]
        sums[r, 5] = columns


def _changes(rows: Mapping[str, list[np.ndarray]], label: str) -> dict[str, WeightChange]:
    """Of every matrix, and of all that were compared."""
    found = {}
    for name, some in rows.items():
        absent = WeightChange(message=f"{label} has no such matrix of the same shape")
        found[name] = _change(np.concatenate(some), label) if some else absent
    compared = [row for some in rows.values() for row in some]
    left_out = sum(not some for some in rows.values())
    if not compared:
        found[WHOLE] = WeightChange(message=f"{label} has no matrix of the same shape")
        return found
    whole = _change(np.concatenate(compared), label)
    note = f"without {left_out} matrices that {label} has not in the same shape" if left_out else ""
    found[WHOLE] = replace(whole, message=joined_clauses(whole.message, note))
    return found


def _change(rows: np.ndarray, label: str) -> WeightChange:
    """rows: float64 [k, _ROW_SUMS]. Sums of rows are exact, so that no order matters."""
    if not np.isfinite(rows).all():
        return WeightChange(message="weights too large to compare")
    difference, now, before, product, flips, weights = (math.fsum(column) for column in rows.T)
    if before == 0:
        return WeightChange(sign_flips=flips / weights, message=f"all weights are 0 in {label}: no distance, no cosine")
    cosine = product / math.sqrt(now) / math.sqrt(before) if now else math.nan
    return WeightChange(
        math.sqrt(difference / before),
        cosine,
        flips / weights,
        "" if now else "all weights are 0: no cosine",
    )
