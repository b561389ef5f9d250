"""Which permutation of one model's units brings them nearest to another's: by weights, or by activations.

By weights: Ainsworth, Hayase, Srinivasa, "Git Re-Basin" (2022), section 3.2 and its code: coordinate descent on the sum of
products of both models' weights, over one group of units after the other, each an assignment problem, until no assignment
changes. By activations: section 3.1, an assignment on the correlations of units over the same examples, each group by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from ninscope.neurons.observatory.measure import CONTEXT, HIDDEN, RESIDUAL, Batch, Place
from ninscope.neurons.observatory.moments import LayerSums, add_products, centre, no_products, over
from ninscope.neurons.observatory.symmetries import HEADS, STREAM, Group, Symmetries

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

SWEEPS = 100  # over all groups, as the authors' code: it has always settled long before
_GAIN = 1e-7  # of what is maximised: less is rounding

Tensors = Mapping[str, "Tensor"]


def assigned(of_units: np.ndarray, of_shared: np.ndarray | None = None) -> np.ndarray:
    """The permutation p, int64 [n], with the largest sum of of_units[i, p[i]].

    of_units: float64 [n, n]. of_shared: float64 [g, g]: units share g parts, n / g next to each other each, which move with them;
    then units stay with those that they share with, and of_shared[i, j] is added where part j takes the place of part i.
    """
    if of_shared is None or len(of_shared) == len(of_units):
        total = of_units if of_shared is None else of_units + of_shared
        return np.asarray(linear_sum_assignment(total, maximize=True)[1], np.int64)
    groups, each = len(of_shared), len(of_units) // len(of_shared)
    tiles = of_units.reshape(groups, each, groups, each).swapaxes(1, 2)
    inner = np.array([[linear_sum_assignment(tile, maximize=True)[1] for tile in row] for row in tiles])
    values = np.take_along_axis(tiles, inner[..., None], axis=3).sum(axis=(2, 3)) + of_shared
    outer = linear_sum_assignment(values, maximize=True)[1]
    return np.asarray(outer[:, None] * each + inner[np.arange(groups), outer], np.int64).reshape(-1)


def by_weights(symmetries: Symmetries, ours: Tensors, theirs: Tensors) -> dict[str, np.ndarray]:
    """The permutation of their units of each group, by its name; unit p[i] of theirs takes the place of unit i.

    Groups take turns in their order, the residual stream first: the tables that are read and written in its basis alone
    (embeddings) find it before anything else is aligned. The authors draw the order.
    """
    found = {group.name: np.arange(group.size) for group in symmetries.groups}
    for _ in range(SWEEPS):
        changed = False
        for group in symmetries.groups:
            of_units, of_shared = _products(symmetries, group, ours, theirs, found)
            new = assigned(of_units, of_shared)
            old_value, new_value = (_value(group, of_units, of_shared, order) for order in (found[group.name], new))
            if new_value > old_value + _GAIN * abs(old_value):
                found[group.name], changed = new, True
        if not changed:
            break
    return found


def _products(
    symmetries: Symmetries, group: Group, ours: Tensors, theirs: Tensors, found: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Products of units of ours with units of theirs, float64: [size, size], and of what units share, or None."""
    of_units = np.zeros((group.size, group.size))
    of_shared = np.zeros((group.size // group.shared,) * 2) if group.shared > 1 else None
    for axis in group.axes:
        moved = symmetries.permuted(axis.tensor, theirs[axis.tensor], found, but=axis)
        product = (axis.by_unit(ours[axis.tensor]) @ axis.by_unit(moved).T).double().cpu().numpy()
        if of_shared is not None and axis.shared > 1:
            of_shared += product
        else:
            of_units += product
    return of_units, of_shared


def _value(group: Group, of_units: np.ndarray, of_shared: np.ndarray | None, order: np.ndarray) -> float:
    value = of_units[np.arange(group.size), order].sum()
    if of_shared is not None:
        parts = order[:: group.shared] // group.shared
        value += of_shared[np.arange(len(parts)), parts].sum()
    return float(value)


def similarities(
    symmetries: Symmetries, ours: Tensors, theirs: Tensors, permutations: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The cosine of all weights of each unit of ours and of theirs in its place, float64 [size] by group; NaN without weights."""
    import torch

    found = {}
    for group in symmetries.groups:
        sums = torch.zeros(3, group.size, dtype=torch.float64)
        for axis in group.axes:
            left = axis.by_unit(ours[axis.tensor])
            right = axis.by_unit(symmetries.permuted(axis.tensor, theirs[axis.tensor], permutations))
            each = torch.stack([(left * right).sum(1), left.square().sum(1), right.square().sum(1)])
            sums += each.double().cpu().repeat_interleave(axis.shared, dim=1)
        product, left, right = sums.numpy()
        size = np.sqrt(left * right)
        found[group.name] = np.divide(product, size, out=np.full(group.size, np.nan), where=size > 0)
    return found


def by_activations(symmetries: Symmetries, subject: Subject, other: Subject) -> dict[str, np.ndarray]:
    """As `by_weights`. Of a head the correlations of its neurons are added up, of the residual stream those of all its layers.

    A group of which no activations are shown stays as it is.
    """
    sums: dict[tuple[str, str], tuple[LayerSums, LayerSums, Tensor]] = {}
    shown: dict[tuple[str, str], Tensor] = {}
    kinds = (HIDDEN, CONTEXT, RESIDUAL)

    def hold(place: Place, values: Tensor, batch: Batch) -> None:
        shown[place.kind, place.layer] = values.reshape(-1, values.shape[-1])

    def see(place: Place, values: Tensor, batch: Batch) -> None:
        key = place.kind, place.layer
        if place.routed or key not in shown:
            return
        rows, beside = values.reshape(-1, values.shape[-1]), shown.pop(key)
        if key not in sums:
            left, right = LayerSums(rows), LayerSums(beside)
            sums[key] = left, right, no_products(left, right)
        left, right, products = sums[key]
        ours = left.shifted(rows, left.shift.new_empty(rows.shape))
        theirs = right.shifted(beside, right.shift.new_empty(beside.shape))
        left.add(ours)
        right.add(theirs)
        add_products(products, ours, theirs)

    for batch in subject.batches():
        other.run(kinds, hold, [batch])
        subject.run(kinds, see, [batch])
    correlations = {key: _correlations(*parts) for key, parts in sums.items()}
    return {group.name: _assigned_by(group, correlations) for group in symmetries.groups}


def _correlations(left: LayerSums, right: LayerSums, products: Tensor) -> np.ndarray:
    centred = over(over(centre(products, left, right), left.deviations, 0), right.deviations, 1)
    return np.asarray(centred.double().cpu().numpy())


def _assigned_by(group: Group, correlations: Mapping[tuple[str, str], np.ndarray]) -> np.ndarray:
    kind = {HEADS: CONTEXT, STREAM: RESIDUAL}.get(group.kind, HIDDEN)
    total = np.zeros((group.size, group.size))
    for (seen, layer), found in correlations.items():
        if seen == kind and layer in group.layers:
            size = len(found) // group.size
            total += np.einsum("iaja->ij", found.reshape(group.size, size, group.size, size))
    shared = np.zeros((group.size // group.shared,) * 2) if group.shared > 1 else None
    return assigned(total, shared)


def moved(group: Group, permutation: np.ndarray) -> float:
    """The share of units that are no longer in their place."""
    return float((permutation != np.arange(group.size)).mean())
