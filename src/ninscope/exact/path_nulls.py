"""Null models of paths across layers: what becomes of the blocks of distances, and of who reads whose output."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ninscope.errors import CheckpointError
from ninscope.exact.blocks import matrix_name
from ninscope.multifractal.nulls import generator_of
from ninscope.multifractal.redrawn import redrawn
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.networks.radii import IntegerRadii
from ninscope.networks.rewiring import MAX_CLASSES, rewire
from ninscope.networks.transfer import radius_step
from ninscope.networks.walks import BlockPart, classes_of, distances_of

# Draws one matrix anew: (the matrix, its distances float64 [nodes, targets], radii, random numbers), changed in place.
Redraw = Callable[[BlockPart, np.ndarray, IntegerRadii, np.random.PCG64], None]


@dataclass(frozen=True)
class PathNull:
    """A null model of paths. redraw: of one matrix; None where matrices stay, and the neurons that read a layer are exchanged.
    keeps: what of the network it keeps, for the tables. needs_weights: whether a sample, whose other weights are not known, has
    none.
    """

    redraw: Redraw | None
    keeps: str
    needs_weights: bool = False


@dataclass(frozen=True)
class Drawn:
    """One draw of a null model of PATH_NULLS: `networks.walks.Redrawing`. name_prefix: of the names of random numbers, which tells
    samples of a network apart.
    """

    null: str
    radii: IntegerRadii
    seed: int
    sample: int
    name_prefix: str = ""

    def order(self, layer: str, size: int) -> np.ndarray | None:
        if PATH_NULLS[self.null].redraw is not None:
            return None
        return np.argsort(self._generator(layer).random_raw(size), kind="stable")

    def block(self, layer: str, parts: Sequence[BlockPart], distances: np.ndarray) -> np.ndarray:
        redraw = PATH_NULLS[self.null].redraw
        if redraw is None:
            return distances
        drawn = np.full_like(distances, np.inf)
        for part in parts:
            generator = self._generator(matrix_name(part.source, part.target))
            drawn[:, part.columns] = distances[:, part.columns]
            redraw(part, drawn, self.radii, generator)
        return drawn

    def _generator(self, name: str) -> np.random.PCG64:
        return generator_of(self.seed, self.sample, self.null, self.name_prefix + name)


def _shuffled(part: BlockPart, drawn: np.ndarray, radii: IntegerRadii, generator: np.random.PCG64) -> None:
    places = [np.ix_(*group) for group in part.groups]
    pool = np.concatenate([drawn[place].reshape(-1) for place in places])
    pool = pool[np.argsort(generator.random_raw(pool.size), kind="stable")]
    start = 0
    for place in places:
        size = drawn[place].size
        drawn[place] = pool[start : start + size].reshape(drawn[place].shape)
        start += size


def _gaussian(part: BlockPart, drawn: np.ndarray, radii: IntegerRadii, generator: np.random.PCG64) -> None:
    assert part.std is not None
    for nodes, columns in part.groups:
        weights = redrawn(np.full(nodes.size, part.std), columns.size, generator, part.taps, keep_norms=False)
        drawn[np.ix_(nodes, columns)] = _distances(weights, radii)


def _column_norms(part: BlockPart, drawn: np.ndarray, radii: IntegerRadii, generator: np.random.PCG64) -> None:
    for nodes, columns in part.groups:
        weights = redrawn(part.node_norms[nodes], columns.size, generator, part.taps)
        drawn[np.ix_(nodes, columns)] = _distances(weights, radii)


def _row_norms(part: BlockPart, drawn: np.ndarray, radii: IntegerRadii, generator: np.random.PCG64) -> None:
    for nodes, columns in part.groups:
        weights = redrawn(part.target_norms[columns - part.columns.start], nodes.size, generator, part.taps)
        drawn[np.ix_(nodes, columns)] = _distances(weights, radii).T


def _rewired(part: BlockPart, drawn: np.ndarray, radii: IntegerRadii, generator: np.random.PCG64) -> None:
    step = radius_step(radii.transfer, radii.max_distance)
    for group in part.groups:
        place = np.ix_(*group)
        values = np.ascontiguousarray(drawn[place])
        rewire(values, classes_of(values, radii, step), generator)
        drawn[place] = values


def _distances(weights: np.ndarray, radii: IntegerRadii) -> np.ndarray:
    return distances_of(weights.reshape(-1), radii).reshape(weights.shape)


# Every null model of paths, in the order in which a run takes them.
PATH_NULLS: Mapping[str, PathNull] = {
    "shuffled": PathNull(_shuffled, "the weights of each matrix; in random places"),
    "gaussian": PathNull(_gaussian, "the standard deviation of each matrix", needs_weights=True),
    "column_norms": PathNull(
        _column_norms, "the norm of each source neuron's weights in each matrix", needs_weights=True
    ),
    "row_norms": PathNull(_row_norms, "the norm of each target neuron's weights in each matrix", needs_weights=True),
    "matching": PathNull(None, "each matrix but for the order of its columns, so every result of single layers"),
    "rewired": PathNull(
        _rewired, "each target's weights; of each source neuron how many weights fall to each distance, in each matrix"
    ),
}


def check_path_nulls(
    network: NeuronNetwork, nulls: Sequence[str], radii: IntegerRadii, of_samples: bool = False
) -> None:
    """Raises CheckpointError (unsupported) where a network has no such null models."""
    drawn = [null for null in nulls if PATH_NULLS[null].redraw is not None]
    if not drawn:
        return
    if apart := [name for name, matrix in network.matrices.items() if matrix.taps > 1]:
        raise CheckpointError(
            "unsupported",
            f"the null model {drawn[0]} of paths knows no kernels that are read per tap ({apart[0]}); take convolutions = "
            '"norm", or leave it out of [nulls]',
        )
    grouped = [name for name, matrix in network.matrices.items() if matrix.layout.groups > 1]
    if of_samples and grouped:
        raise CheckpointError(
            "unsupported",
            f"a sample does not tell which neurons a grouped convolution joins ({grouped[0]}), so it has no null model "
            f"{drawn[0]}; take the whole network (exact), or leave it out of [nulls]",
        )
    if "rewired" in drawn and radii.count + 2 > MAX_CLASSES:
        raise CheckpointError(
            "unsupported",
            f"the null model rewired goes with at most {MAX_CLASSES - 2} radii, not {radii.count}; give a smaller max_distance",
        )
