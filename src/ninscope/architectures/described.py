"""A model that the user describes: tensor names with numbers left open, and the node layers that each tensor joins.

    {"name": "mixer", "blocks": [
        {"tensor": "layers.{n}.up.weight", "source": "block{n}.x", "target": "block{n}.m"},
        {"tensor": "layers.{n}.down.weight", "source": "block{n}.m", "target": "block{n+1}.x"}],
     "layers": [{"name": "block{n}.x", "kind": "mlp"}], "links": [{"source": "block{n}.x", "target": "block{n+1}.x"}]}

The same keys are a DAG file's table [architecture]. The layers' sizes follow from the tensors' shapes. What is said of a layer
(block, kind, sample_group) is optional, and so are links. "layers.{n}.experts.up_proj[{e}]" is every slice of a tensor's first
axis, a matrix each.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TypeVar

import numpy as np

from ninscope.architectures.layout import Architecture, Link, MatrixSpec, NodeLayer, RowLayout, WeightBlock
from ninscope.checkpoints.matrix import ORDERS, MatrixLayout
from ninscope.checkpoints.tensors import Tensor
from ninscope.checkpoints.wrapped_names import unwrapped
from ninscope.errors import CheckpointError, RequestError

_OPEN = re.compile(r"\{([a-z][a-z0-9_]*)(?:\s*([+-])\s*(\d{1,6}))?\}", re.ASCII)
_NUMBER = r"0|[1-9]\d{0,5}"  # spelled in one way, so that two tensors cannot mean the same
_SLICED = re.compile(rf"(.+)\[({_NUMBER}|\{{[a-z][a-z0-9_]*\}})\]", re.ASCII | re.DOTALL)  # name[3] or name[{e}]
_LARGEST = 2**31 - 1
_MOST_MATRICES = 100_000  # of all patterns together: the largest mixtures have some 70,000
_MOST_SLICES = 30_000  # of one pattern; a stranger's file may have an axis of any length

Numbers = Mapping[str, int]


@dataclass(frozen=True)
class DescribedBlock:
    """A tensor, or part of one, that joins two layers.

    tensor: names, with {n} where a number stands; an index in brackets behind it, [{e}] or [3], means slices of the first axis.
    source, target: names of layers, with {n}, {n+1} or {n-1}. order, groups: as in MatrixLayout, of the slice. part, parts,
    group, first: as in RowLayout. rows: how many belong to the target (default: an equal part).
    """

    tensor: str
    source: str
    target: str
    order: str = "linear"
    groups: int = 1
    part: int = 0
    parts: int = 1
    group: int = 1
    first: int = 0
    rows: int = 0


@dataclass(frozen=True)
class DescribedLayer:
    """What is known of layers whose names fit `name`.

    block: default the name up to its last dot. sample_group: as in NodeLayer.
    """

    name: str
    block: str = ""
    kind: str = ""
    sample_group: str = ""


@dataclass(frozen=True)
class DescribedLink:
    """As Link, for every number for which both layers exist."""

    source: str
    target: str
    first: int = 0
    skip: bool = False


@dataclass(frozen=True)
class Description:
    """Everything that the user says of a model.

    unknown_only: the description is of models of no known family; models of known families are read as theirs.
    Raises RequestError, which names the key as in a DAG file ("architecture.blocks.2.order"), for what makes no sense.
    """

    blocks: tuple[DescribedBlock, ...]
    layers: tuple[DescribedLayer, ...] = ()
    links: tuple[DescribedLink, ...] = ()
    name: str = "described"
    unknown_only: bool = False

    def __post_init__(self) -> None:
        if not self.blocks:
            raise RequestError("architecture.blocks: list at least one tensor with its source and target layer")
        if not isinstance(self.name, str) or not self.name:
            raise RequestError(f"architecture.name is {self.name!r}; a text was expected")
        for number, block in enumerate(self.blocks, 1):
            where = f"architecture.blocks.{number}"
            _check_block(where, block)
            _check_letters(where, "its tensor's name", block.tensor, source=block.source, target=block.target)
        for number, layer in enumerate(self.layers, 1):
            where = f"architecture.layers.{number}"
            _check_letters(where, "its name", layer.name, block=layer.block, sample_group=layer.sample_group)
        for number, link in enumerate(self.links, 1):
            where = f"architecture.links.{number}"
            _check_letters(where, "its source", link.source, target=link.target)
            if not 0 <= link.first <= _LARGEST:
                raise RequestError(f"{where}.first is {link.first}; a number from 0 to {_LARGEST} was expected")


def _check_block(where: str, block: DescribedBlock) -> None:
    """Raises RequestError for numbers or an order that no matrix has."""
    openings = list(_OPEN.finditer(block.tensor))
    if any(before.end() == after.start() for before, after in pairwise(openings)):  # any cut of the digits would do
        raise RequestError(f"{where}.tensor: two letters in braces stand side by side; put something between them")
    if block.order not in ORDERS:
        raise RequestError(f"{where}.order is {block.order!r}; one of {', '.join(ORDERS)} was expected")
    positive = min(block.groups, block.parts, block.group) >= 1
    if not positive or not 0 <= block.part < block.parts or block.first < 0 or block.rows < 0:
        raise RequestError(
            f"{where}: groups, parts and group must be at least 1, part must be below parts, and first and rows must not be "
            "negative"
        )
    if block.groups > 1 and (block.parts > 1 or block.rows or block.first):
        raise RequestError(f"{where}: a convolution of groups has all its rows; leave out parts, rows and first")
    if max(block.groups, block.parts, block.group, block.first, block.rows) > _LARGEST:
        raise RequestError(f"{where}: groups, part, parts, group, first and rows must be at most {_LARGEST}")


def _check_letters(where: str, named: str, template: str, **others: str) -> None:
    """Raises RequestError where another template has a letter that `template`, which `named` calls, does not have."""
    known = {opening[1] for opening in _OPEN.finditer(template)}
    for key, other in others.items():
        if missing := {opening[1] for opening in _OPEN.finditer(other)} - known:
            raise RequestError(f"{where}.{key}: {{{min(missing)}}} does not stand in {named}")


def description_of(table: Mapping) -> Description:
    """The description that a table of a DAG file (or the dict of its keys) gives. Raises RequestError, which names the key."""
    if not isinstance(table, Mapping):
        raise RequestError(f"architecture is {table!r}; a table with blocks was expected")
    _check_keys("architecture", table, ("name", "blocks", "layers", "links"))
    return Description(
        blocks=_entries(DescribedBlock, table, "blocks"),
        layers=_entries(DescribedLayer, table, "layers"),
        links=_entries(DescribedLink, table, "links"),
        name=table.get("name", Description.name),
    )


def architecture(description: Description, tensors: Mapping[str, Tensor]) -> Architecture:
    """The wiring of a checkpoint with these tensors.

    Raises CheckpointError: unsupported (a pattern that matches no tensor, shapes that disagree about a layer's size), corrupt (a
    tensor that holds no numbers).
    """
    matches: list[tuple[tuple[int, ...], int, DescribedBlock, _Match]] = []
    for position, block in enumerate(description.blocks):
        found = _matches(block.tensor, tensors)
        matches += [(tuple(match.numbers.values()), position, block, match) for match in found]
        if len(matches) > _MOST_MATRICES:
            raise _wrong(
                f"its patterns match {len(matches)} matrices by {block.tensor}, and at most {_MOST_MATRICES} can be read; "
                "describe fewer of them"
            )
    matches.sort(key=lambda match: match[:2])
    sizes: dict[str, tuple[int, str]] = {}  # by layer: neurons, and the tensor that says so
    blocks: list[WeightBlock] = []
    matrices: dict[str, MatrixSpec] = {}
    for _, _, block, match in matches:
        match.tensor.check_readable()
        name, shape = match.name, match.shape
        layout = _layout(block, name, shape)
        targets, nodes = layout.size(shape)
        source, target = _filled(block.source, match.numbers), _filled(block.target, match.numbers)
        for layer, size in ((source, nodes), (target, block.rows or targets // block.parts)):
            if not size:
                raise _wrong(f"tensor {name} has shape {list(shape)}, which leaves no neuron for {layer}")
            known_size, known_by = sizes.setdefault(layer, (size, name))
            if known_size != size:
                raise _wrong(f"layer {layer} has {known_size} neurons by {known_by} and {size} by {name}")
        if name in matrices and matrices[name].layout != layout:
            raise _wrong(f"tensor {name} is given two orders")
        matrices[name] = match.spec(layout)
        blocks.append(WeightBlock(source, target, name, RowLayout(block.part, block.parts, block.group, block.first)))
    layers = tuple(_layer(layer, size, description.layers) for layer, (size, _) in sizes.items())
    links = tuple(_links(description, sizes))
    try:
        wiring = Architecture(description.name, layers, tuple(blocks), matrices, links=links, complete=False)
    except ValueError as error:
        raise _wrong(str(error)) from None
    _refuse_shared_rows(wiring)
    return wiring


def fitting_names(description: Description, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors by the names that the description's patterns mean: those of the file, or those without wrappers' parts."""
    try:
        for block in description.blocks:
            _matches(block.tensor, tensors)
    except CheckpointError:
        return unwrapped(tensors)
    return tensors


def _layout(block: DescribedBlock, name: str, shape: tuple[int, ...]) -> MatrixLayout:
    """How a tensor holds a block's matrix. Raises CheckpointError where its shape cannot be that."""
    layout = MatrixLayout(block.order, block.groups)
    if len(shape) < 2 or (len(shape) > 2 and not layout.convolves):
        raise _wrong(f"tensor {name} has shape {list(shape)}, which order {block.order} cannot be")
    if shape[0] % block.groups:
        raise _wrong(
            f"tensor {name} has shape {list(shape)}, whose first axis cannot be cut into {block.groups} equal groups"
        )
    return layout


def _refuse_shared_rows(wiring: Architecture) -> None:
    """Raises CheckpointError where a row of a tensor leads from one layer to two: its weights would count twice."""
    sizes = {layer.name: layer.size for layer in wiring.layers}
    by_matrix: dict[tuple[str, str], list[WeightBlock]] = {}
    for block in wiring.blocks:
        by_matrix.setdefault((block.source, block.tensor), []).append(block)
    for (source, name), blocks in by_matrix.items():
        if len(blocks) > 1:
            rows = np.concatenate([block.rows.rows(np.arange(sizes[block.target])) for block in blocks])
            if np.unique(rows).size < rows.size:
                targets = " and ".join(block.target for block in blocks[:2])
                raise _wrong(
                    f"rows of tensor {name} lead from {source} to {targets} at once; give first, rows or parts"
                )


def _wrong(reason: str) -> CheckpointError:
    return CheckpointError("unsupported", f"[architecture]: {reason}")


@dataclass(frozen=True)
class _Match:
    """A tensor whose name fits a pattern, or one slice of it; numbers: what its letters stand for."""

    tensor: Tensor
    index: int | None
    numbers: Numbers

    @property
    def name(self) -> str:
        return self.tensor.name if self.index is None else f"{self.tensor.name}[{self.index}]"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape if self.index is None else self.tensor.shape[1:]

    def spec(self, layout: MatrixLayout) -> MatrixSpec:
        if self.index is None:
            return MatrixSpec(self.tensor.shape, layout)
        return MatrixSpec(self.tensor.shape, layout, self.tensor.name, self.index)


def _matches(pattern: str, tensors: Mapping[str, Tensor]) -> list[_Match]:
    """The tensors, or slices, whose names fit a pattern. Raises CheckpointError where there is none, or an index has no slice."""
    matches = [_Match(tensor, None, numbers) for tensor, numbers in _named(pattern, tensors)]
    sliced = None if matches else _SLICED.fullmatch(pattern)  # a file may well have a name in brackets
    if sliced is not None:
        matches = [
            part
            for tensor, numbers in _named(sliced[1], tensors)
            for part in _slices(pattern, tensor, numbers, sliced[2].strip("{}"))
        ]
    if not matches:
        some = ", ".join(sorted(tensors)[:3])
        raise _wrong(f"the pattern {pattern} matches no tensor of this checkpoint, which has {some}, ...")
    return matches


def _slices(pattern: str, tensor: Tensor, numbers: Numbers, index: str) -> Iterator[_Match]:
    """The slices of a tensor that an index means: one where it is a number, or a letter whose number is known, else each.

    Raises CheckpointError.
    """
    tensor.check_readable()
    count = tensor.shape[0] if tensor.shape else 0
    if index.isdigit() or index in numbers:
        number = int(index) if index.isdigit() else numbers[index]
        if number >= count:
            raise _wrong(
                f"tensor {tensor.name} has shape {list(tensor.shape)}, so it has no slice [{number}] ({pattern})"
            )
        yield _Match(tensor, number, numbers)
        return
    if not 0 < count <= _MOST_SLICES:
        raise _wrong(
            f"tensor {tensor.name} has shape {list(tensor.shape)}; 1 to {_MOST_SLICES} slices of its first axis were expected "
            f"({pattern})"
        )
    for number in range(count):
        yield _Match(tensor, number, {**numbers, index: number})


def _named(pattern: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Numbers]]:
    """The tensors whose whole names fit a pattern, with the numbers in them."""
    expression, letters, end = "", set(), 0
    for opening in _OPEN.finditer(pattern):
        letter = opening[1]
        expression += re.escape(pattern[end : opening.start()])
        expression += f"(?P={letter})" if letter in letters else f"(?P<{letter}>{_NUMBER})"
        letters.add(letter)
        end = opening.end()
    whole = re.compile(expression + re.escape(pattern[end:]))
    for name, tensor in tensors.items():
        if match := whole.fullmatch(name):
            yield tensor, {letter: int(digits) for letter, digits in match.groupdict().items()}


def _filled(template: str, numbers: Numbers) -> str:
    """A template with numbers for its letters."""
    return _OPEN.sub(lambda opening: str(numbers[opening[1]] + _shift(opening)), template)


def _shift(opening: re.Match[str]) -> int:
    """What an opening adds to its letter's number: 1 for {n+1}."""
    return int(opening[3] or 0) * (-1 if opening[2] == "-" else 1)


def _layer(name: str, size: int, described: Sequence[DescribedLayer]) -> NodeLayer:
    """A node layer with what the first description that fits its name says of it."""
    fitting = ((layer, numbers) for layer in described if (numbers := _numbers(layer.name, name)) is not None)
    layer, numbers = next(fitting, (DescribedLayer(name), {}))
    block = _filled(layer.block, numbers) or name.rpartition(".")[0]
    return NodeLayer(name, size, _filled(layer.sample_group, numbers) or name, block, layer.kind)


def _numbers(template: str, name: str) -> Numbers | None:
    """The numbers for which a template is this name; None where there are none."""
    end, expression, openings = 0, "", []
    for opening in _OPEN.finditer(template):
        expression += re.escape(template[end : opening.start()]) + r"(-?\d{1,7})"
        openings.append(opening)
        end = opening.end()
    match = re.fullmatch(expression + re.escape(template[end:]), name)
    if match is None:
        return None
    numbers: dict[str, int] = {}
    for opening, digits in zip(openings, match.groups(), strict=True):
        number = int(digits) - _shift(opening)
        if numbers.setdefault(opening[1], number) != number:
            return None  # one letter would stand for two numbers
    return numbers


def _links(description: Description, names: Mapping[str, object]) -> Iterator[Link]:
    for link in description.links:
        for name in names:
            numbers = _numbers(link.source, name)
            if numbers is not None and (target := _filled(link.target, numbers)) in names:
                yield Link(name, target, link.first, skip=link.skip)


def _check_keys(where: str, table: Mapping, known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise RequestError(f"{where}.{key}: no such key; known: {', '.join(known)}")


_Entry = TypeVar("_Entry", DescribedBlock, DescribedLayer, DescribedLink)
_EXPECTED: dict[object, str] = {int: "a whole number", str: "a text", bool: "true or false"}


def _entries(kind: type[_Entry], table: Mapping, key: str) -> tuple[_Entry, ...]:
    """The tables that a key lists. Raises RequestError."""
    tables = table.get(key, [])
    if not isinstance(tables, list | tuple):
        raise RequestError(f"architecture.{key} is {json.dumps(tables, default=repr)}; a list of tables was expected")
    return tuple(_entry(kind, f"architecture.{key}.{number}", entry) for number, entry in enumerate(tables, 1))


def _entry(kind: type[_Entry], where: str, table: object) -> _Entry:
    """One table. Raises RequestError for an unknown key, one that is missing, or a value of another type."""
    if not isinstance(table, Mapping):
        raise RequestError(f"{where} is {table!r}; a table was expected")
    known = {field.name: field for field in fields(kind)}
    _check_keys(where, table, list(known))
    for name, field in known.items():
        if name not in table:
            if not isinstance(field.default, str | int):
                raise RequestError(f"{where}.{name} is missing")
        elif type(table[name]) is not field.type:
            raise RequestError(f"{where}.{name} is {table[name]!r}; {_EXPECTED[field.type]} was expected")
    return kind(**table)
