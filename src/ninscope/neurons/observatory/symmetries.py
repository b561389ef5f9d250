"""Which neurons of a model may be permuted without a change of its function: hidden neurons, heads, the residual stream.

A permutation moves the rows of what leads to neurons, their biases and gains, and the columns of what leaves them. The matrices
are those of the network (`places.py`); node layers that are added to each other or multiplied with each other hold the same
neurons and are permuted together. What the network leaves out (biases, normalisations, embeddings, heads) is told by where it
stands and by its shape, which is a guess; so `checked` permutes at random, compares the outputs, and gives up what changes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ninscope.neurons.observatory.measure import CONTEXT, Batch
from ninscope.seeding import keyed_bits

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.architectures.layout import Link
    from ninscope.neurons.observatory.places import Held, Places
    from ninscope.neurons.observatory.subject import Subject

HIDDEN_NEURONS, HEADS, STREAM = "hidden neurons", "heads", "residual stream"
_GENERIC = "generic"
_HEAD_NORMS = {"q_norm": "q", "k_norm": "k"}
_SAMPLES = 2  # of the first batch, whose outputs are compared
_CLOSE = {
    torch.float16: 0.05,
    torch.bfloat16: 0.2,
}  # of the outputs' deviation; rounding alone gives about a tenth of that
_CLOSE_FLOAT = 1e-3

Permutations = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Axis:
    """Where neurons of a group lie: neuron i at place rows[i] of an axis of a tensor. rows: int64 [neurons].

    size: neurons of one unit, side by side (a head's). shared: so many units of the group have one such part (query heads that
    read one head of keys and values).
    """

    tensor: str
    axis: int
    rows: np.ndarray
    size: int = 1
    shared: int = 1

    def order(self, permutation: np.ndarray) -> np.ndarray:
        """rows in the order of a permutation of units [units]."""
        units = permutation[:: self.shared] // self.shared
        return self.rows[(units[:, None] * self.size + np.arange(self.size)).reshape(-1)]

    def by_unit(self, tensor: Tensor) -> Tensor:
        """What the tensor holds of each part, float32 [units / shared, ...]."""
        rows = torch.from_numpy(self.rows).to(tensor.device)
        return tensor.index_select(self.axis, rows).movedim(self.axis, 0).float().reshape(len(rows) // self.size, -1)


@dataclass(frozen=True)
class Group:
    """Units that one permutation moves. name: their first node layer; for heads that of their outputs. size: number of units.

    kind: "hidden neurons", "heads" or "residual stream". layers: all node layers that hold them. shared: as in Axis; a permutation
    keeps together what shares.
    """

    name: str
    kind: str
    size: int
    layers: tuple[str, ...]
    shared: int = 1
    axes: tuple[Axis, ...] = ()

    def random(self, seed: int) -> np.ndarray:
        """A permutation that is allowed, int64 [size], keyed by the group's name and the seed."""
        bits = np.random.Generator(keyed_bits(f"alignment: {self.name}", seed))
        outer = bits.permutation(self.size // self.shared)
        inner = [bits.permutation(self.shared) for _ in outer]
        return (outer[:, None] * self.shared + np.array(inner)).reshape(-1)


@dataclass(frozen=True)
class Symmetries:
    """groups: in the order of computation, the residual stream first. left_out: names of those that turned out to be none."""

    groups: tuple[Group, ...]
    left_out: tuple[str, ...] = ()
    _axes: dict[str, list[tuple[str, Axis]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        axes: dict[str, list[tuple[str, Axis]]] = {}
        for group in self.groups:
            for axis in group.axes:
                axes.setdefault(axis.tensor, []).append((group.name, axis))
        object.__setattr__(self, "_axes", axes)

    def permuted(self, name: str, tensor: Tensor, permutations: Permutations, but: Axis | None = None) -> Tensor:
        """A tensor of the model with its units in another order. but: an axis that is left as it is."""
        for group, axis in self._axes.get(name, ()):
            if axis is not but and group in permutations:
                rows = torch.from_numpy(axis.rows).to(tensor.device)
                order = torch.from_numpy(axis.order(permutations[group])).to(tensor.device)
                tensor = tensor.index_copy(axis.axis, rows, tensor.index_select(axis.axis, order))
        return tensor


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of floats by name, each once, without gradients; they share the model's memory."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in named if tensor.is_floating_point()}


@contextmanager
def holding(model: nn.Module, tensors: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """The model has other weights meanwhile, tensors(name, its own) of the same shape; afterwards it has its own again."""
    named = [*model.named_parameters(), *model.named_buffers()]
    own = [(name, tensor, tensor.data) for name, tensor in named if tensor.is_floating_point()]
    try:
        for name, tensor, data in own:
            tensor.data = tensors(name, data).to(data.dtype)
        yield
    finally:
        for _, tensor, data in own:
            tensor.data = data


def symmetries_of(subject: Subject, batch: Batch) -> Symmetries:
    """The permutations that leave the outputs of a model for some samples as they are."""
    return checked(subject, _candidates(subject.places), batch)


def checked(subject: Subject, found: Symmetries, batch: Batch) -> Symmetries:
    """Without the groups of which a random permutation changes the outputs."""
    some = replace(batch, inputs={name: values[:_SAMPLES] for name, values in batch.inputs.items()})
    plain = subject.outputs(some)
    allowed = _CLOSE.get(next(iter(tensors_of(subject.model).values())).dtype, _CLOSE_FLOAT) * plain.std()

    def keeps(groups: Sequence[Group]) -> bool:
        permutations = {group.name: group.random(subject.seed) for group in groups}
        with holding(subject.model, lambda name, own: found.permuted(name, own, permutations)):
            return bool((subject.outputs(some) - plain).abs().max() <= allowed)

    good: list[Group] = []
    for kind in (STREAM, HEADS, HIDDEN_NEURONS):
        groups = [group for group in found.groups if group.kind == kind]
        good += groups if keeps(groups) else [group for group in groups if keeps([group])]
    left = tuple(group.name for group in found.groups if group not in good)
    return Symmetries(tuple(group for group in found.groups if group in good), left)


# --- from the network to axes -------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Part:
    """Neurons of a node layer that belong to a group: those from `first` on."""

    group: str
    first: int
    count: int
    size: int = 1
    shared: int = 1


class _Layout:
    """Which group the neurons of each node layer belong to."""

    def __init__(self, places: Places) -> None:
        network = places.network
        assert network is not None
        self.sizes = network.sizes
        self.groups: dict[str, Group] = {}
        self._parts: dict[str, list[_Part]] = {}
        heads = {place.layer: place.heads for place in places.of(CONTEXT)}
        for layer, count in heads.items():
            self._add_heads(layer, count)
        same, beside = _joined(network.links, self.sizes, self._parts)
        if network.family == _GENERIC:
            same += _in_a_row(places.held, self.sizes)
        hidden = set(places.hidden_layers)
        streams = {name for link in network.links if link.skip for name in (link.source, link.target)}
        for members in _classes([name for name in self.sizes if name not in self._parts], same):
            kind = STREAM if streams.intersection(members) else HIDDEN_NEURONS
            name = next((member for member in members if member in hidden), members[0])
            group = Group(name, kind, self.sizes[name], tuple(members))
            self.groups[group.name] = group
            for member in members:
                self._parts[member] = [_Part(group.name, 0, group.size)]
        for link in beside:
            self._beside(link, [other for other in beside if other.target == link.target])

    def _add_heads(self, layer: str, count: int) -> None:
        stem = layer.removesuffix(".c")
        parts = {part: f"{stem}.{part}" for part in "qkvc"}
        if not all(name in self.sizes for name in parts.values()) or self.sizes[layer] % count:
            return
        dim = self.sizes[layer] // count
        values = max(self.sizes[parts["v"]] // dim, 1)
        if count % values or self.sizes[parts["k"]] != self.sizes[parts["v"]]:
            return
        self.groups[layer] = Group(layer, HEADS, count, tuple(parts.values()), count // values)
        for part, name in parts.items():
            shared = count // values if part in "kv" else 1
            self._parts[name] = [_Part(layer, 0, self.sizes[name], dim, shared)]

    def _beside(self, link: Link, links: Sequence[Link]) -> None:
        """A layer in which neurons of others lie side by side is no group of its own."""
        if sum(self.sizes[one.source] for one in links) == self.sizes[link.target]:
            self.groups.pop(link.target, None)
            self._parts[link.target] = [
                _Part(part.group, one.first + part.first, part.count)
                for one in links
                for part in self._parts[one.source]
            ]

    def of(self, layer: str) -> list[_Part]:
        return self._parts.get(layer, [])

    def of_size(self, size: int, kind: str = "") -> str | None:
        """A layer of this size, of a group of this kind: if all such layers belong to the same groups."""
        found = {
            tuple(part.group for part in parts): layer
            for layer, parts in self._parts.items()
            if self.sizes[layer] == size
            and all(kind in ("", self.groups[part.group].kind) for part in parts)
            and all(self.groups[part.group].kind != HEADS for part in parts)
        }
        return next(iter(found.values())) if len(found) == 1 else None


def _joined(
    links: Sequence[Link], sizes: Mapping[str, int], taken: Mapping[str, object]
) -> tuple[list[tuple[str, str]], list[Link]]:
    """(pairs of layers that hold the same neurons, links to layers in which several lie side by side)."""
    free = [one for one in links if one.parts == 1 and one.source not in taken and one.target not in taken]
    same = [(one.source, one.target) for one in free if sizes[one.source] == sizes[one.target]]
    return same, [one for one in free if sizes[one.source] < sizes[one.target]]


def _in_a_row(held: Sequence[Held], sizes: Mapping[str, int]) -> list[tuple[str, str]]:
    """A plain network: what a module with weights gives is what the next one reads, if it is as many neurons."""
    weights = [one for one in held if not isinstance(one.module, nn.Embedding)]
    return [(one.target, after.source) for one, after in pairwise(weights) if sizes[one.target] == sizes[after.source]]


def _classes(names: Sequence[str], same: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Classes of names that are the same by way of pairs, each in the order of names."""
    found = {name: [name] for name in names}
    for one, other in same:
        if found[one] is not found[other]:
            joined = found[one] + found[other]
            found |= dict.fromkeys(joined, joined)
    position = {name: number for number, name in enumerate(names)}
    unique = {id(members): members for members in found.values()}
    return [sorted(members, key=position.__getitem__) for members in unique.values()]


def _candidates(places: Places) -> Symmetries:
    """What may be permuted, as far as names and shapes tell."""
    layout = _Layout(places)
    names = {id(tensor): name for name, tensor in places.model.named_parameters()}
    axes: dict[str, list[Axis]] = {name: [] for name in layout.groups}
    entered: set[str] = set()
    left: set[str] = set()

    def add(layer: str, tensor: str, axis: int, rows: np.ndarray) -> list[str]:
        parts = layout.of(layer)
        for part in parts:
            taken = rows[part.first : part.first + part.count]
            axes[part.group].append(Axis(tensor, axis, taken, part.size, part.shared))
        return [part.group for part in parts]

    by_module = _by_module(places.held)
    for several in by_module.values():
        weight, transposed = several[0].module.get_parameter("weight"), several[0].transposed
        columns = np.arange(layout.sizes[several[0].source])
        if weight.shape[0 if transposed else 1] != len(columns):
            continue  # a convolution of several groups of channels
        left.update(add(several[0].source, names[id(weight)], 0 if transposed else 1, columns))
        for one in several:
            rows = one.row_numbers.numpy()
            entered.update(add(one.target, names[id(weight)], 1 if transposed else 0, rows))
            if getattr(one.module, "bias", None) is not None:
                add(one.target, names[id(one.module.bias)], 0, rows)
    for layer, tensor, axis in _rest(places, layout, by_module):
        add(layer, tensor, axis, np.arange(layout.sizes[layer]))
    for group, tensor, axis in _tables_of_heads(places, layout, by_module):
        axes[group].append(Axis(tensor, axis, np.arange(layout.groups[group].size)))
    groups = [
        replace(group, axes=tuple(axes[name]))
        for name, group in layout.groups.items()
        if name in left and (name in entered or group.kind == STREAM) and group.size > 1
    ]
    order = {one.source: number for number, one in enumerate(places.held)}
    groups.sort(key=lambda group: (group.kind != STREAM, order.get(group.name, len(order))))
    return Symmetries(tuple(groups))


def _rest(places: Places, layout: _Layout, by_module: Mapping[str, Sequence[Held]]) -> Iterator[tuple[str, str, int]]:
    """(node layer, tensor, axis) of what the network leaves out, told by names, shapes and what stands before it."""
    canonical = {id(tensor): name for name, tensor in [*places.model.named_parameters(), *places.model.named_buffers()]}
    seen = {canonical[id(several[0].module.weight)] for several in by_module.values()}
    last: Held | None = None
    for name, module in places.model.named_modules():
        if name in by_module:
            last = by_module[name][-1]
            continue
        weight = getattr(module, "weight", None)
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            full = canonical.get(id(tensor), "")
            if not full or full in seen or not tensor.is_floating_point() or tensor.ndim == 0:
                continue
            seen.add(full)
            if tensor.ndim > 1:
                layer, axis = _of_table(layout, tensor)
            elif key == "bias" and isinstance(weight, torch.Tensor) and weight.ndim == 2:
                continue  # of a head, whose outputs are no neurons of the network
            else:
                layer, axis = _of_vector(layout, name, tensor, last), 0
            if layer is not None:
                yield layer, full, axis
        if isinstance(module, nn.Linear) and layout.of_size(module.out_features, STREAM) is not None:
            return  # a layer of the head's own: what comes after it reads that


def _of_vector(layout: _Layout, module: str, tensor: Tensor, last: Held | None) -> str | None:
    """The layer that a gain, a bias or a running mean belongs to, if it is of the size.

    What the module with weights that is registered before it (last) gives, or reads, or else the only layer of this size.
    """
    part = _HEAD_NORMS.get(module.rpartition(".")[2])
    if part is not None:
        layer = f"{last.target.rpartition('.')[0] if last else ''}.{part}"
        return layer if layout.sizes.get(layer) == len(tensor) else None
    for near in (last.target, last.source) if last else ():
        parts = layout.of(near)
        if (
            layout.sizes[near] == len(tensor)
            and parts
            and not any(layout.groups[one.group].kind == HEADS for one in parts)
        ):
            return near
    return layout.of_size(len(tensor))


def _of_table(layout: _Layout, tensor: Tensor) -> tuple[str | None, int]:
    """(layer, axis) of an embedding, a head, a token, a convolution of patches, experts: the axis that is the stream.

    The last one if it can be; only a tensor of three dimensions and more may have it elsewhere.
    """
    axes = range(tensor.ndim - 1, -1 if tensor.ndim > 2 else tensor.ndim - 2, -1)
    for axis in axes:
        layer = layout.of_size(tensor.shape[axis], STREAM)
        if layer is not None:
            return layer, axis
    return None, 0


def _tables_of_heads(
    places: Places, layout: _Layout, by_module: Mapping[str, Sequence[Held]]
) -> Iterator[tuple[str, str, int]]:
    """(group, tensor, axis) of tables inside an attention whose last axis is its heads: relative position biases."""
    for group in layout.groups.values():
        if group.kind != HEADS:
            continue
        stem = group.name.removesuffix(".c")
        layers = {group.name, f"{stem}.q"}
        inside = [name for name, held in by_module.items() if any({one.source, one.target} & layers for one in held)]
        levels = zip(*(name.split(".") for name in inside), strict=False)
        whole = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels)]
        for name, tensor in places.model.named_parameters():
            within = name.split(".")[: len(whole)] == whole
            if inside and within and "bias_table" in name and tensor.ndim == 2 and tensor.shape[1] == group.size:
                yield group.name, name, 1


def _by_module(held: Sequence[Held]) -> dict[str, list[Held]]:
    """The matrices of each module: a fused one holds several."""
    found: dict[str, list[Held]] = {}
    for one in held:
        found.setdefault(one.module_name, []).append(one)
    return found
