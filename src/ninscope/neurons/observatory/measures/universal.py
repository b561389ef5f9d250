"""Universal neurons: those that another seed of the same training has too."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.observatory.measure import (
    ALL,
    HIDDEN,
    SEED,
    Batch,
    Fact,
    Found,
    NeuronValues,
    OwnMeasure,
    Place,
    distribution,
)
from ninscope.neurons.observatory.moments import LayerSums, add_products, centre, no_products, over
from ninscope.neurons.observatory.registry import register
from ninscope.seeding import keyed_bits

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

Sums = Mapping[str, LayerSums]
_CHUNK = 256  # neurons, and directions, of which variances are computed at once, in float64


@register
class Universal(OwnMeasure):
    """Which neurons another model has too: for each neuron the largest correlation with a neuron of the other model.

    Wide layers correlate with anything, so the largest correlation with a direction drawn at random is taken off:
    rho_i = max_j corr(h_i, h'_j) - max_j corr(h_i, (R h')_j), over the neurons j of all hidden layers of the other model and the
    same tokens. A neuron is universal where rho_i > 0.5. Of several other models rho is the mean (`over_seeds`).

    Follows Gurnee et al., "Universal neurons in GPT2 language models" (2024), section 3, and its code (code read). As there, R
    is drawn for each layer of the other model by itself, and its rows are independent directions of length 1, uniform on the
    sphere: each is what a row of a random rotation is, while the rows are orthogonal only nearly. The code leaves out padding and
    line feeds; here every position counts. Correlations are signed: a neuron of which the other model has the negative is not
    universal.

    Neurons that do not vary over the examples are left out on both sides and counted. Layers are compared where they have the
    same positions: those of a convolution or of Swin are not compared with those of fewer positions. Experts are left out: two
    models send different tokens to them. rho says nothing of few tokens: with fewer tokens than about ten times the neurons of the
    other model both maxima are large, and rho is mostly their noise.

    The products of all N neurons and N' neurons are not held at once. A pass over the examples holds those with as many layers of
    the other model as fit into `memory` bytes, at least with one (4 N N'_layer bytes: about as much as the weights of the blocks),
    and both models run once more for every pass. R h' is never formed: its products with h are C R^T of the products C, and its
    variance follows from the products of h' with itself.
    """

    name = "universal"
    title = "Universal neurons"
    source = "Gurnee et al. 2024, Universal neurons in GPT2 language models; code wesg52/universal-neurons"
    facts: ClassVar[Mapping[str, str]] = {
        "universal": "share of the neurons that vary with rho > 0.5, 0 to 1",
        "universal_rho": "of a neuron: best correlation less its baseline, -1 to 2",
        "universal_best": "of a neuron: largest correlation with a neuron of the other model, -1 to 1",
        "universal_baseline": "of a neuron: largest correlation with a random direction of a layer of the other model, -1 to 1",
        "universal_dead": "share of the neurons that are left out: they, or all they are compared with, do not vary, 0 to 1",
    }
    reads = frozenset({HIDDEN})
    compared_with = (SEED,)

    def __init__(self, memory: int = 200_000_000, threshold: float = 0.5) -> None:
        """memory: bytes of sums of products that a pass may hold. threshold: rho above which a neuron is universal."""
        self.memory, self.threshold = memory, threshold

    def objection(self, subject: Subject) -> str | None:
        """See `Measure.objection`."""
        return None if _layers(subject) else "it has no hidden layer through which every token passes"

    def found(self, subject: Subject, other: Subject | None = None) -> Found:
        """See `OwnMeasure.found`.

        Raises CheckpointError: unsupported (no neuron varies, or no layers have the same positions), nonfinite (activations).
        """
        if other is None:
            raise RequestError(f"universal: {subject.name} has no other seed to be compared with; give two seeds")
        first = next(iter(subject.batches()), None)
        if first is None:
            raise RequestError(f"universal: {subject.name} has no examples")
        mine, theirs = _first_sums(subject, first), _first_sums(other, first)
        best = {layer: np.full(sums.size, -np.inf) for layer, sums in mine.items()}
        baseline = {layer: values.copy() for layer, values in best.items()}
        compared: set[str] = set()
        for layers in self.passes(mine, theirs):
            # In a function of its own, so that the products of one pass are gone before those of the next one are there.
            compared |= _pass(subject, other, Products(mine, theirs, layers), best, baseline)
        _check_varies(subject, mine)
        _check_varies(other, theirs)
        if not compared:
            raise CheckpointError(
                "unsupported",
                f"no hidden layer of {subject.name} has as many positions as one of {other.name}; only models that read the same "
                "positions are compared",
            )
        for layer in compared:
            left_out = (mine[layer].deviations.cpu().numpy() == 0) | np.isneginf(best[layer])
            best[layer][left_out] = baseline[layer][left_out] = np.nan
        return self._rows(*({layer: each[layer] for layer in mine if layer in compared} for each in (best, baseline)))

    def passes(self, mine: Sums, theirs: Sums) -> Iterator[list[str]]:
        """Names of the other model's layers, in order, so many at once as a pass may hold. mine, theirs: of all layers."""
        rows = sum(sums.size for sums in mine.values())
        layers: list[str] = []
        held = 0
        for layer, sums in theirs.items():
            needed = 4 * sums.size * (rows + sums.size)
            if layers and held + needed > self.memory:
                yield layers
                layers, held = [], 0
            layers.append(layer)
            held += needed
        if layers:
            yield layers

    def over_seeds(self, founds: Sequence[Found]) -> Found:
        """What several other models come to: rho is the mean over them, and neurons are counted by that."""
        values: dict[tuple[str, str], list[np.ndarray]] = {}
        for found in founds:
            for one in found.values:
                values.setdefault((one.name, one.layer), []).append(one.values)
        mean = {key: np.mean(several, axis=0) for key, several in values.items()}
        layers = list(dict.fromkeys(layer for _, layer in mean))
        best, baseline = (
            {layer: mean[f"universal_{part}", layer] for layer in layers} for part in ("best", "baseline")
        )
        return self._rows(best, baseline)

    def _rows(self, best: Mapping[str, np.ndarray], baseline: Mapping[str, np.ndarray]) -> Found:
        facts: list[Fact] = []
        kept: list[NeuronValues] = []
        for layer in [*best, ALL]:
            layers = list(best) if layer == ALL else [layer]
            high, low = (np.concatenate([values[one] for one in layers]) for values in (best, baseline))
            rho = high - low
            known = np.isfinite(rho)
            count = int(known.sum())
            share = float((rho[known] > self.threshold).mean()) if count else float("nan")
            facts.append(Fact("universal", layer, share, count=count))
            for name, numbers in (("universal_rho", rho), ("universal_best", high), ("universal_baseline", low)):
                fact, of_neurons = distribution(name, layer, numbers, keep=layer != ALL)
                facts.append(fact)
                kept.extend(of_neurons)
            facts.append(Fact("universal_dead", layer, float((~known).mean()), count=len(known)))
        return Found(tuple(facts), tuple(kept))


class Products:
    """Sums of products of the neurons of one model with those of some layers of another, over one pass.

    Both models see each batch, the other one first (`see_other`, then `see`, as `Subject.run` calls them). mine, theirs: sums of
    the layers of both, which are counted here: those of `mine` only where they were not in an earlier pass. layers: of the other.
    compared: pairs of layers, mine and theirs, that have the same positions.
    """

    def __init__(self, mine: Sums, theirs: Sums, layers: Sequence[str]) -> None:
        self._mine, self._theirs, self._layers = mine, theirs, layers
        self._fresh = {layer for layer, sums in mine.items() if not sums.count}
        self._own = {layer: no_products(theirs[layer], theirs[layer]) for layer in layers}
        self._cross: dict[tuple[str, str], Tensor] = {}
        self._shown: dict[str, Tensor] = {}
        self._buffers: dict[str, Tensor] = {}

    @property
    def compared(self) -> Collection[tuple[str, str]]:
        return self._cross.keys()

    def see_other(self, place: Place, values: Tensor, batch: Batch) -> None:
        """What the other model gives, [..., n'] of any float dtype."""
        if place.layer in self._own:
            shifted = self._shifted(self._theirs[place.layer], values, f"theirs/{place.layer}")
            self._theirs[place.layer].add(shifted)
            add_products(self._own[place.layer], shifted, shifted)
            self._shown[place.layer] = shifted

    def see(self, place: Place, values: Tensor, batch: Batch) -> None:
        """What the model gives for the same batch, [..., n] of any float dtype."""
        sums = self._mine.get(place.layer)
        if sums is None:
            return
        shifted = self._shifted(sums, values, "mine")
        if place.layer in self._fresh:
            sums.add(shifted)
        for layer, beside in self._shown.items():
            if len(beside) == len(shifted):
                if (place.layer, layer) not in self._cross:
                    self._cross[place.layer, layer] = no_products(sums, self._theirs[layer])
                add_products(self._cross[place.layer, layer], shifted, beside)

    def _shifted(self, sums: LayerSums, values: Tensor, buffer: str) -> Tensor:
        rows = values.reshape(-1, sums.size)
        if buffer not in self._buffers or self._buffers[buffer].numel() < rows.numel():
            self._buffers[buffer] = sums.shift.new_empty(rows.numel())
        return sums.shifted(rows, self._buffers[buffer][: rows.numel()].view(rows.shape))

    def maxima(self, seed: int, best: Mapping[str, np.ndarray], baseline: Mapping[str, np.ndarray]) -> None:
        """Raise the maxima over the other's neurons, and over random directions, to those that these layers have.

        best, baseline: float64 [n] by layer, changed in place. Of this object it makes correlations: call it once.
        """
        import torch

        self._shown.clear()
        self._buffers.clear()
        for theirs in self._layers:
            sums = self._theirs[theirs]
            parts = {layer: cross for (layer, beside), cross in self._cross.items() if beside == theirs}
            for layer, part in parts.items():
                over(centre(part, self._mine[layer], sums), self._mine[layer].deviations, 0)
            for drawn in random_directions(sums.size, f"universal/{theirs}", seed):
                directions = torch.from_numpy(drawn).to(sums.shift.device)
                spread = _deviations_along(directions, self._own[theirs], sums)
                for layer, part in parts.items():
                    _raise(baseline[layer], part @ directions.T.to(part.dtype), spread)
            for layer, part in parts.items():
                _raise(best[layer], part, sums.deviations)


def _pass(
    subject: Subject,
    other: Subject,
    products: Products,
    best: Mapping[str, np.ndarray],
    baseline: Mapping[str, np.ndarray],
) -> set[str]:
    """Layers of the subject that are compared with any of the other's."""
    for batch in subject.batches():
        other.run((HIDDEN,), products.see_other, [batch])
        subject.run((HIDDEN,), products.see, [batch])
    products.maxima(subject.seed, best, baseline)
    return {layer for layer, _ in products.compared}


def random_directions(size: int, name: str, seed: int) -> Iterator[np.ndarray]:
    """`size` independent directions of length 1, uniform on the sphere, keyed by name and seed.

    Some at a time: float32 [some, size], a row each.
    """
    bits = np.random.Generator(keyed_bits(name, seed))
    for start in range(0, size, _CHUNK):
        drawn = bits.standard_normal((min(_CHUNK, size - start), size), dtype=np.float32)
        yield drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _raise(maximum: np.ndarray, products: Tensor, deviations: Tensor) -> None:
    """Raise a maximum [n] to that of the correlations that products [n, m] make, over the m that vary. products: changed."""
    import torch

    over(products, deviations, 1)
    products[:, deviations == 0] = -torch.inf
    highest = products.amax(dim=1).clamp(max=1.0).cpu().numpy()
    np.maximum(maximum, highest, out=maximum)


def _deviations_along(directions: Tensor, own: Tensor, sums: LayerSums) -> Tensor:
    """As `LayerSums.deviations`, along directions [d, n]: float64 [d]. own: products of shifted neurons, [n, n]."""
    some = directions.double()
    squares = some.new_zeros(len(some))
    for start in range(0, len(own), _CHUNK):
        rows = slice(start, start + _CHUNK)
        centred = own[rows].double().addr(sums.total[rows], sums.total, alpha=-1 / max(sums.count, 1))
        squares += ((some[:, rows] @ centred) * some).sum(dim=1)
    return squares.clamp(min=0).sqrt() * bool((sums.deviations > 0).any())


def _layers(subject: Subject) -> list[str]:
    return [place.layer for place in subject.places_of(HIDDEN) if not place.routed]


def _first_sums(subject: Subject, batch: Batch) -> dict[str, LayerSums]:
    """Empty sums of every layer, in the order of computation, with the shift of this batch."""
    sums: dict[str, LayerSums] = {}

    def see(place: Place, values: Tensor, batch: Batch) -> None:
        if not place.routed:
            sums[place.layer] = LayerSums(values.reshape(-1, values.shape[-1]))

    subject.run((HIDDEN,), see, [batch])
    return sums


def _check_varies(subject: Subject, sums: Sums) -> None:
    for layer, one in sums.items():
        if not bool(one.squares.isfinite().all()):
            raise CheckpointError("nonfinite", f"{subject.name}, {layer}: hidden values are NaN or infinite")
    if not any(bool((one.deviations > 0).any()) for one in sums.values()):
        raise CheckpointError("unsupported", f"{subject.name}: none of its hidden neurons varies over the examples")
