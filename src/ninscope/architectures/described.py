"""A model that the user describes: tensor names with numbers left open, and the node layers that each tensor joins.

    {"name": "mixer", "blocks": [
        {"tensor": "layers.{n}.up.weight", "source": "block{n}.x", "target": "block{n}.m"},
        {"tensor": "layers.{n}.down.weight", "source": "block{n}.m", "target": "block{n+1}.x"}],
     "layers": [{"name": "block{n}.x", "kind": "mlp"}], "links": [{"source": "block{n}.x", "target": "block{n+1}.x"}]}

The same keys are a DAG file's table [architecture]. Layers' sizes follow from the tensors' shapes; what is said of a layer
(block, kind, sample_group) is optional, and so are links.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from ninscope.architectures.layout import Architecture, Link, NodeLayer, RowLayout, StoredMatrix, WeightBlock
from ninscope.checkpoints.matrix import ORDERS, MatrixLayout
from ninscope.checkpoints.tensors import Tensor
from ninscope.errors import CheckpointError, RequestError

_OPEN = re.compile(r"\{([a-z][a-z0-9_]*)(?:\s*([+-])\s*(\d{1,6}))?\}", re.ASCII)
_NUMBER = r"0|[1-9]\d{0,5}"  # of one spelling, so that two tensors cannot mean the same
_LARGEST = 2**31 - 1

Numbers = Mapping[str, int]


@dataclass(frozen=True)
class DescribedBlock:
    """tensor: names, with {n} where a number stands; source, target: names of layers, with {n}, {n+1} or {n-1}. order, groups:
    as MatrixLayout; part, parts, group, first: as RowLayout; rows: how many belong to the target, where that is not one of equal
    parts."""

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
    """What is known of layers whose names look so. Without block it is the name up to its last dot; sample_group: as NodeLayer."""

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
    """Everything the user says of a model. unknown_only: it is of models of no known family, and others are read as theirs."""

    blocks: tuple[DescribedBlock, ...]
    layers: tuple[DescribedLayer, ...] = ()
    links: tuple[DescribedLink, ...] = ()
    name: str = "described"
    unknown_only: bool = False


def description_of(given: Mapping) -> Description:
    """The description that a table (or the dict of its keys) gives. Raises RequestError, which names the key."""
    if not isinstance(given, Mapping):
        raise RequestError(f"architecture is {given!r}; a table with blocks was expected")
    _known_keys("architecture", given, ("name", "blocks", "layers", "links"))
    parts = {
        key: tuple(
            _entry(kind, f"architecture.{key}.{number}", each) for number, each in enumerate(_list(given, key), 1)
        )
        for key, kind in (("blocks", DescribedBlock), ("layers", DescribedLayer), ("links", DescribedLink))
    }
    if not parts["blocks"]:
        raise RequestError("architecture.blocks: list at least one tensor with its source and target layer")
    name = given.get("name", Description.name)
    if not isinstance(name, str) or not name:
        raise RequestError(f"architecture.name is {name!r}; a text was expected")
    for number, block in enumerate(parts["blocks"], 1):
        where = f"architecture.blocks.{number}"
        if block.order not in ORDERS:
            raise RequestError(f"{where}.order is {block.order!r}; one of {', '.join(ORDERS)}")
        if (
            min(block.groups, block.parts, block.group) < 1
            or not 0 <= block.part < block.parts
            or block.first < 0
            or block.rows < 0
        ):
            raise RequestError(
                f"{where}: groups, parts and group are at least 1, part is below parts, first and rows are not negative"
            )
        if block.groups > 1 and (block.parts > 1 or block.rows or block.first):
            raise RequestError(f"{where}: a convolution of groups has all its rows; leave out parts, rows and first")
        if max(block.groups, block.parts, block.group, block.first, block.rows) > _LARGEST:
            raise RequestError(f"{where}: groups, part, parts, group, first and rows are at most {_LARGEST}")
        known = {found[1] for found in _OPEN.finditer(block.tensor)}
        for key in ("source", "target"):
            if missing := {found[1] for found in _OPEN.finditer(getattr(block, key))} - known:
                raise RequestError(f"{where}.{key}: {{{min(missing)}}} does not stand in its tensor's name")
    for kind, named, others in (("layers", "name", ("block", "sample_group")), ("links", "source", ("target",))):
        for number, one in enumerate(parts[kind], 1):
            known = {found[1] for found in _OPEN.finditer(getattr(one, named))}
            for key in others:
                if missing := {found[1] for found in _OPEN.finditer(getattr(one, key))} - known:
                    raise RequestError(
                        f"architecture.{kind}.{number}.{key}: {{{min(missing)}}} does not stand in its {named}"
                    )
    if wrong := [number for number, link in enumerate(parts["links"], 1) if not 0 <= link.first <= _LARGEST]:
        raise RequestError(f"architecture.links.{wrong[0]}.first: a number from 0 to {_LARGEST} was expected")
    return Description(name=name, **parts)


def architecture(description: Description, tensors: Mapping[str, Tensor]) -> Architecture:
    """The wiring of a checkpoint with these tensors.

    Raises CheckpointError (unsupported): a pattern that matches no tensor, shapes that disagree about a layer's size.
    """
    matched = sorted(
        ((tuple(numbers.values()), place, block, name, numbers) for place, block in enumerate(description.blocks)
         for name, numbers in _matches(block.tensor, tensors)),
        key=lambda found: found[:2],
    )  # fmt: skip
    sizes: dict[str, tuple[int, str]] = {}
    blocks, matrices = [], {}
    for _, _, block, name, numbers in matched:
        shape = tensors[name].shape
        layout = MatrixLayout(block.order, block.groups)
        if len(shape) < 2 or (len(shape) > 2 and not layout.convolves) or 0 in shape:
            raise _wrong(f"tensor {name} has shape {list(shape)}, which order {block.order} cannot be")
        if shape[0] % block.groups:
            raise _wrong(f"tensor {name} has shape {list(shape)}, whose first axis is no {block.groups} equal groups")
        targets, nodes = layout.size(shape)
        for layer, size in (
            (_filled(block.source, numbers), nodes),
            (_filled(block.target, numbers), block.rows or targets // block.parts),
        ):
            if not size:
                raise _wrong(f"tensor {name} has shape {list(shape)}, of which {layer} gets no neuron")
            known, by = sizes.setdefault(layer, (size, name))
            if known != size:
                raise _wrong(f"layer {layer} has {known} neurons by {by} and {size} by {name}")
        if name in matrices and matrices[name].layout != layout:
            raise _wrong(f"tensor {name} is given two orders")
        matrices[name] = StoredMatrix(shape, layout)
        rows = RowLayout(block.part, block.parts, block.group, block.first)
        blocks.append(WeightBlock(_filled(block.source, numbers), _filled(block.target, numbers), name, rows))
    layers = tuple(_layer(layer, size, description.layers) for layer, (size, _) in sizes.items())
    try:
        found = Architecture(
            description.name, layers, tuple(blocks), matrices, links=tuple(_links(description, sizes)), complete=False
        )
    except ValueError as error:
        raise _wrong(str(error)) from None
    _refuse_shared_rows(found, {layer: size for layer, (size, _) in sizes.items()})
    return found


def _refuse_shared_rows(found: Architecture, sizes: Mapping[str, int]) -> None:
    """Raises CheckpointError where a row of a tensor leads from one layer to two: its weights would count twice."""
    targets: dict[tuple[str, str], list[WeightBlock]] = {}
    for block in found.blocks:
        targets.setdefault((block.source, block.tensor), []).append(block)
    for (source, name), blocks in targets.items():
        if len(blocks) > 1:
            rows = np.concatenate([block.rows.rows(np.arange(sizes[block.target])) for block in blocks])
            if np.unique(rows).size < rows.size:
                names = " and ".join(block.target for block in blocks[:2])
                raise _wrong(f"rows of tensor {name} lead from {source} to {names} at once; give first, rows or parts")


def _wrong(reason: str) -> CheckpointError:
    return CheckpointError("unsupported", f"[architecture]: {reason}")


def _matches(pattern: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Numbers]]:
    """Tensors whose names look so, with the numbers that stand in them. Raises CheckpointError where there is none."""
    expression, seen, end = "", set(), 0
    for found in _OPEN.finditer(pattern):
        again = found[1] in seen
        expression += re.escape(pattern[end : found.start()])
        expression += f"(?P={found[1]})" if again else f"(?P<{found[1]}>{_NUMBER})"
        seen.add(found[1])
        end = found.end()
    whole = re.compile(expression + re.escape(pattern[end:]))
    matched = [(name, whole.fullmatch(name)) for name in tensors]
    matched = [
        (name, {key: int(value) for key, value in match.groupdict().items()}) for name, match in matched if match
    ]
    if not matched:
        some = ", ".join(sorted(tensors)[:3])
        raise _wrong(f"the pattern {pattern} matches no tensor of this checkpoint, which has {some}, ...")
    yield from matched


def _filled(template: str, numbers: Numbers) -> str:
    def number(found: re.Match) -> str:
        shift = int(found[3] or 0)
        return str(numbers[found[1]] + (-shift if found[2] == "-" else shift))

    return _OPEN.sub(number, template)


def _layer(name: str, size: int, described: Sequence[DescribedLayer]) -> NodeLayer:
    said, numbers = next(
        ((one, found) for one in described if (found := _numbers(one.name, name)) is not None),
        (DescribedLayer(name), {}),
    )
    block = _filled(said.block, numbers) or name.rpartition(".")[0]
    return NodeLayer(name, size, _filled(said.sample_group, numbers) or name, block, said.kind)


def _numbers(template: str, name: str) -> Numbers | None:
    """The numbers for which a template is this name; None where it never is."""
    end, expression, places = 0, "", []
    for found in _OPEN.finditer(template):
        expression += re.escape(template[end : found.start()]) + r"(-?\d{1,7})"
        places.append((found[1], int(found[3] or 0) * (-1 if found[2] == "-" else 1)))
        end = found.end()
    match = re.fullmatch(expression + re.escape(template[end:]), name)
    if match is None:
        return None
    numbers: dict[str, int] = {}
    for (key, shift), value in zip(places, match.groups(), strict=True):
        if numbers.setdefault(key, int(value) - shift) != int(value) - shift:
            return None  # one letter, two numbers
    return numbers


def _links(description: Description, sizes: Mapping) -> Iterator[Link]:
    for link in description.links:
        for name in sizes:
            numbers = _numbers(link.source, name)
            if numbers is not None and (target := _filled(link.target, numbers)) in sizes:
                yield Link(name, target, link.first, skip=link.skip)


def _known_keys(where: str, given: Mapping, known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise RequestError(f"{where}.{key}: no such key; known: {', '.join(known)}")


def _list(given: Mapping, key: str) -> list:
    found = given.get(key, [])
    if not isinstance(found, list | tuple):
        raise RequestError(f"architecture.{key} is {json.dumps(found, default=repr)}; a list of tables was expected")
    return list(found)


def _entry(kind, where: str, given):
    if not isinstance(given, Mapping):
        raise RequestError(f"{where} is {given!r}; a table was expected")
    known = {one.name: one for one in fields(kind)}
    _known_keys(where, given, list(known))
    for name, one in known.items():
        wanted = one.type
        if name not in given:
            if isinstance(one.default, str | int):
                continue
            raise RequestError(f"{where}.{name} is missing")
        if type(given[name]) is not wanted:
            expected = {int: "a whole number", str: "a text", bool: "true or false"}[wanted]
            raise RequestError(f"{where}.{name} is {given[name]!r}; {expected} was expected")
    return kind(**given)
