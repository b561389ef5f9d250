"""Which pairs of matrices there are of which one reads what the other writes: from an architecture's layers, blocks and links.

A *writer* is a weight block to whose target neurons a *reader*'s source neurons are linked, or which they are. The node layers
that skip links join are a *residual stream*: what is written to one of them is read at every layer that links lead to from there.
Any other layer passes what it is given along its links: v to c of an attention, gate and up projection to the hidden layer.
Links by which neighbours are put side by side (the merging of Swin's patches) are not followed, nor those that modulate a stream.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ninscope.architectures.gauge import Attention, Gauge, Rotary
from ninscope.architectures.layout import Link, NodeLayer, WeightBlock
from ninscope.exact.blocks import matrix_name

MLP, VO, QK, ACROSS = "mlp", "vo", "qk", "across"
OTHER = "other"
MAX_ACROSS = 100_000  # pairs through residual streams, of one checkpoint; a table of more helps nobody

Neurons = np.ndarray | slice | None  # some of a layer's, int64 where they are no span; None is all of them


@dataclass(frozen=True)
class Pair:
    """One writer and one reader.

    kind: "mlp", "vo", "qk", "across", or, of a layer between that is none of these, what its weights do ("convolution", ...).
    distance: blocks from the writer's to the reader's, in the order of the architecture.
    """

    writer: WeightBlock
    reader: WeightBlock
    kind: str
    distance: int


@dataclass(frozen=True)
class Within(Pair):
    """Two matrices with one layer of neurons between them, which is not a residual stream's.

    heads: for each head the writer's neurons and the reader's, of equal numbers; one entry for all neurons where there are no
    heads. Of kind "qk" both are target neurons: of the writer (k) and of the reader (q). rotary: what the position turns.
    """

    heads: tuple[tuple[Neurons, Neurons], ...] = ((None, None),)
    rotary: Rotary | None = None


@dataclass(frozen=True)
class Across(Pair):
    """Two matrices on a residual stream.

    layers: those that what is written passes, from the writer's target to the reader's source. places: which of the reader's
    source neurons are the writer's targets, one by one; None where all are, in order.
    """

    layers: tuple[str, ...] = ()
    places: np.ndarray | None = None


@dataclass(frozen=True)
class Wired:
    """What pairs follow from. gauge: what the family says of the model's function, None where it says nothing."""

    layers: Sequence[NodeLayer]
    blocks: Sequence[WeightBlock]
    links: Sequence[Link]
    gauge: Gauge | None = None

    @cached_property
    def true_blocks(self) -> tuple[WeightBlock, ...]:
        """The blocks, each between the layers that it really joins: of a chain that is a fiction, without it (`Detour`)."""
        detours = {(detour.source, detour.target): detour for detour in (self.gauge.detours if self.gauge else ())}
        return tuple(
            replace(block, source=detour.reads, target=detour.writes)
            if (detour := detours.get((block.source, block.target))) is not None
            else block
            for block in self.blocks
        )

    @cached_property
    def names(self) -> dict[tuple[str, str], str]:
        """What tables call each matrix, by the (source, target) of its true block: its source and target in the wiring."""
        pairs = zip(self.true_blocks, self.blocks, strict=True)
        return {(true.source, true.target): matrix_name(block.source, block.target) for true, block in pairs}

    @cached_property
    def sizes(self) -> dict[str, int]:
        return {layer.name: layer.size for layer in self.layers}

    @cached_property
    def kinds(self) -> dict[str, str]:
        return {layer.name: layer.kind for layer in self.layers}

    @cached_property
    def depth(self) -> dict[str, int]:
        """The number of each layer's block, in the order of the layers."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(layer.block for layer in self.layers))}
        return {layer.name: numbers[layer.block] for layer in self.layers}

    @cached_property
    def true_links(self) -> tuple[Link, ...]:
        """The links, with the skip connections that the wiring leaves out."""
        skips = self.gauge.skips if self.gauge else ()
        return (*self.links, *(Link(skip.source, skip.target, skip=True) for skip in skips))

    @cached_property
    def stream(self) -> frozenset[str]:
        """The layers of residual streams: the ends of skip links."""
        return frozenset(end for link in self.true_links if link.skip for end in (link.source, link.target))

    @cached_property
    def attentions(self) -> tuple[Attention, ...]:
        return self.gauge.attentions if self.gauge else ()

    def distance(self, writer: WeightBlock, reader: WeightBlock) -> int:
        return self.depth[reader.source] - self.depth[writer.source]


def within_pairs(wired: Wired) -> Iterator[Within]:
    """The pairs with one layer between, and those of q and k, in the order of the readers."""
    follow = _links_from(link for link in wired.true_links if not _in_stream(wired, link))
    writers = _by_target(wired.true_blocks)
    read_at: dict[str, list[tuple[str, tuple[Link, ...]]]] = {}
    for target in writers:
        if target not in wired.stream:
            for layer, path in _reached(target, follow):
                if layer not in wired.stream:
                    read_at.setdefault(layer, []).append((target, path))
    attention_of_q = {attention.q: attention for attention in wired.attentions}
    for reader in wired.true_blocks:
        for target, paths in _grouped(read_at.get(reader.source, [])).items():
            kind, heads = _heads(wired, target, reader.source, paths)
            for writer in writers[target]:
                yield Within(writer, reader, kind, wired.distance(writer, reader), heads)
        if (attention := attention_of_q.get(reader.target)) is not None:
            heads = _query_heads(wired, attention)
            for writer in writers.get(attention.k, ()) if heads else ():
                yield Within(writer, reader, QK, wired.distance(writer, reader), heads, attention.rotary)


def across_pairs(wired: Wired) -> Iterator[Across]:
    """The pairs through residual streams, in the order of the readers."""
    follow = _links_from(link for link in wired.true_links if _in_stream(wired, link))
    writers = _by_target(wired.true_blocks)
    read_at: dict[str, list[tuple[str, tuple[str, ...], np.ndarray | None]]] = {}
    for target in writers:
        if target in wired.stream:
            for layer, path in _reached(target, follow):
                passed = (target, *(link.target for link in path))
                read_at.setdefault(layer, []).append((target, passed, _places(path, wired.sizes, target)))
    for reader in wired.true_blocks:
        for target, passed, places in read_at.get(reader.source, ()):
            for writer in writers[target]:
                yield Across(writer, reader, ACROSS, wired.distance(writer, reader), passed, places)


def _in_stream(wired: Wired, link: Link) -> bool:
    """Whether a link is part of a residual stream: what is concatenated of two streams is one too, what modulates one is not."""
    return link.skip or (link.source in wired.stream and link.target in wired.stream)


def _by_target(blocks: Sequence[WeightBlock]) -> dict[str, list[WeightBlock]]:
    grouped: dict[str, list[WeightBlock]] = {}
    for block in blocks:
        grouped.setdefault(block.target, []).append(block)
    return grouped


def _links_from(links: Iterator[Link]) -> dict[str, list[Link]]:
    grouped: dict[str, list[Link]] = {}
    for link in links:
        grouped.setdefault(link.source, []).append(link)
    return grouped


def _reached(start: str, follow: Mapping[str, Sequence[Link]]) -> Iterator[tuple[str, tuple[Link, ...]]]:
    """Every layer that links lead to from `start`, itself first, each with the links; once for each way its neurons are laid out.

    Where two ways end in the same neurons (around a block's part, and through it), the shorter one counts.
    """
    seen: set[tuple] = set()
    ways: list[tuple[str, tuple[Link, ...]]] = [(start, ())]
    while ways:
        layer, path = ways.pop(0)
        laid_out = (layer, tuple(link.rows for link in path if not _is_plain(link)))
        if laid_out in seen or any(link.source == layer for link in path):
            continue
        seen.add(laid_out)
        yield layer, path
        ways += [(link.target, (*path, link)) for link in follow.get(layer, ())]


def _is_plain(link: Link) -> bool:
    """Whether neuron i leads to neuron i."""
    return (link.first, link.part, link.parts) == (0, 0, 1)


def _places(path: Sequence[Link], sizes: Mapping[str, int], start: str) -> np.ndarray | None:
    """Where a layer's neurons are at the end of a path of links; None where they are all there is, in order."""
    end = path[-1].target if path else start
    if all(map(_is_plain, path)) and sizes[end] == sizes[start]:
        return None
    places = np.arange(sizes[start])
    for link in path:
        places = link.targets(places)
    return places


def _grouped(paths: Sequence[tuple[str, tuple[Link, ...]]]) -> dict[str, list[tuple[Link, ...]]]:
    grouped: dict[str, list[tuple[Link, ...]]] = {}
    for target, path in paths:
        grouped.setdefault(target, []).append(path)
    return grouped


def _heads(
    wired: Wired, target: str, source: str, paths: Sequence[tuple[Link, ...]]
) -> tuple[str, tuple[tuple[Neurons, Neurons], ...]]:
    """(kind, heads) of the pairs of a layer that is written and a layer that is read. paths: of links, one for each way."""
    attention = next((one for one in wired.attentions if target == one.v or (source == one.c and paths[0])), None)
    size = wired.sizes[target]
    is_value = attention is not None or (bool(paths[0]) and target.rpartition(".")[2] == "v")
    kind = VO if is_value else wired.kinds[source] or OTHER
    head_dim = attention.head_dim if attention is not None else 0
    if not head_dim:  # nothing says it, but where heads are shared
        head_dim = max((link.group for path in paths for link in path if link.parts > 1), default=size)
    heads: list[tuple[Neurons, Neurons]] = []
    for path in paths:
        places = _places(path, wired.sizes, target)
        if places is None and head_dim == size:
            heads.append((None, None))
            continue
        places = np.arange(size) if places is None else places
        for first in range(0, size, head_dim):
            heads.append((slice(first, first + head_dim), _span(places[first : first + head_dim])))
    return kind, tuple(heads)


def _span(numbers: np.ndarray) -> np.ndarray | slice:
    """The same neurons, as a slice where they are consecutive."""
    first = int(numbers[0])
    return slice(first, first + numbers.size) if np.array_equal(numbers, first + np.arange(numbers.size)) else numbers


def _query_heads(wired: Wired, attention: Attention) -> tuple[tuple[slice, slice], ...]:
    """For each head of q the neurons of k and of q that are multiplied; none where a head of k is not like one of q."""
    queries, keys = wired.sizes[attention.q], wired.sizes[attention.k]
    size = attention.head_dim or (queries if queries == keys else 0)
    if not size or queries % size or keys % size or queries != keys * attention.shared:
        return ()

    def head(number: int) -> slice:
        return slice(number * size, (number + 1) * size)

    return tuple((head(number // attention.shared), head(number)) for number in range(queries // size))
