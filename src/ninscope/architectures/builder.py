"""Puts an architecture together, layer by layer: what all modules that make one have in common."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ninscope.architectures.gauge import Attention, Detour, Gain, Gauge, Skip, Units
from ninscope.architectures.layout import (
    Architecture,
    Link,
    MatrixSpec,
    NodeLayer,
    RowLayout,
    UnevenRowLayout,
    WeightBlock,
)
from ninscope.architectures.registry import WITH_GAUGE
from ninscope.checkpoints.matrix import MatrixLayout
from ninscope.errors import CheckpointError


@dataclass(frozen=True)
class Stack:
    """A tensor that holds `count` matrices along its first axis; index: which of them a matrix is."""

    tensor: str
    index: int
    count: int


@dataclass(frozen=True)
class _Join:
    source: str
    targets: tuple[str, ...]
    matrix: str
    order: str
    kernel: tuple[int, ...]
    interleaved: tuple[int, ...]
    stack: Stack | None


class Builder:
    """Collects node layers, the matrices that join them, and links, in the order in which they are added.

    A join or link may name a layer that is added later. Shapes follow from the layers' sizes.

    prefixes: as in Architecture. limits: the most node layers, and the most neurons of one, that a model may
    have (default: no limit); a configuration that implies more is refused before it takes memory.
    part: the block of layers that are added without one, while a module walks through the parts of a model.
    """

    def __init__(self, family: str, prefixes: Sequence[str] = ("",), limits: tuple[int, int] | None = None):
        self.family, self.part = family, ""
        self.prefixes, self._limits = tuple(prefixes), limits
        self._layers: dict[str, NodeLayer] = {}
        self._joins: list[_Join] = []
        self._links: list[Link] = []
        self._left: set[str] = set()  # layers whose kind their first weights have said
        self._of_block: dict[str, list[str]] = {}
        self._readers: dict[str, list[str]] = {}
        self._declared: list[Gain | Attention | Units | Detour | Skip] | None = None

    def layer(self, block: str, part: str, size: int, kind: str = "", group: str = "") -> str:
        """Add the node layer `block`.`part`; returns that name. Layers of one block and `group` share sampled neurons."""
        return self.named_layer(f"{block}.{part}", size, block, kind, f"{block}.{group or part}")

    def named_layer(self, name: str, size: int, block: str = "", kind: str = "", group: str = "") -> str:
        """Add a node layer; returns its name. block: default `part`. Layers of one `group` share sampled neurons.

        Raises CheckpointError (corrupt) where the layer exceeds the limits.
        """
        if name in self._layers:
            raise ValueError(f"node layer {name} was added before")
        if self._limits and (len(self._layers) >= self._limits[0] or size > self._limits[1]):
            raise CheckpointError(
                "corrupt",
                f"config.json: its sizes imply more than {self._limits[0]} node layers, or one of more than "
                f"{self._limits[1]} neurons",
            )
        self._layers[name] = NodeLayer(name, size, group or name, block or self.part, kind)
        self._of_block.setdefault(block or self.part, []).append(name)
        return name

    def size(self, name: str) -> int:
        """The number of neurons of a layer that was added."""
        return self._layers[name].size

    def join(
        self,
        source: str,
        target: str | Sequence[str],
        matrix: str,
        order: str = "linear",
        kernel: tuple[int, ...] = (),
        kind: str = "",
        interleaved: int | Sequence[int] = 0,
        stack: Stack | None = None,
    ) -> None:
        """Add a matrix that leads from `source` to `target`, or to several layers whose rows stand one after the other.

        matrix: its tensor's name. order: as in MatrixLayout. kernel: a convolution's. kind: of the weights; the first ones that
        leave a layer say its kind, and its block, which is then `part` (default: the layer's own).
        interleaved: the rows of several targets take turns, so many of one target at a time (default: 0, they do not); a
        number for each target where they differ.
        stack: the tensor that holds this matrix among others; `matrix` is then the matrix's name alone.
        """
        targets = (target,) if isinstance(target, str) else tuple(target)
        if kind and source not in self._left:
            self._left.add(source)
            self._layers[source] = replace(self._layers[source], block=self.part, kind=kind)
        turns = (interleaved,) * len(targets) if isinstance(interleaved, int) else tuple(interleaved)
        self._joins.append(_Join(source, targets, matrix, order, kernel, turns if any(turns) else (), stack))
        self._readers.setdefault(source, []).append(matrix)

    def link(self, source: str, target: str, first: int = 0, skip: bool = False, **heads: int) -> None:
        """Add a connection without weights. first, skip, heads (part, parts, group): as in Link."""
        self._links.append(Link(source, target, first, skip=skip, **heads))

    def declare(self, *parts: Gain | Attention | Units | Detour | Skip) -> None:
        """Add what is known of the model's function beside its wiring (`gauge`). A family says all of it, or nothing.

        It counts where the family is registered with `gauge`.
        """
        self._declared = [*(self._declared or ()), *parts]

    def layers_of(self, block: str) -> list[str]:
        """Names of a block's node layers, as far as they were added, in order."""
        return list(self._of_block.get(block, ()))

    def reading(self, *layers: str) -> tuple[str, ...]:
        """The matrices that read these layers, as far as they were added."""
        return tuple(dict.fromkeys(matrix for layer in layers for matrix in self._readers.get(layer, ())))

    def _gauge(self) -> Gauge | None:
        declared = self._declared
        if declared is None or self.family not in WITH_GAUGE:
            return None
        return Gauge(
            tuple(part for part in declared if isinstance(part, Gain)),
            tuple(part for part in declared if isinstance(part, Attention)),
            tuple(part for part in declared if isinstance(part, Units)),
            tuple(part for part in declared if isinstance(part, Detour)),
            tuple(part for part in declared if isinstance(part, Skip)),
        )

    def architecture(self, note: str = "", complete: bool = True, warning: str = "") -> Architecture:
        """What was added. note, complete, warning: as in Architecture. Raises ValueError where the parts do not fit each other."""
        blocks: list[WeightBlock] = []
        matrices: dict[str, MatrixSpec] = {}
        for join in self._joins:
            target_sizes = [self.size(target) for target in join.targets]
            layouts = _row_layouts(join, target_sizes)
            blocks += [
                WeightBlock(join.source, target, join.matrix, rows)
                for target, rows in zip(join.targets, layouts, strict=True)
            ]
            matrices[join.matrix] = self._spec(join, rows=sum(target_sizes))
        return Architecture(
            self.family,
            tuple(self._layers.values()),
            tuple(blocks),
            matrices,
            prefixes=self.prefixes,
            links=tuple(self._links),
            note=note,
            complete=complete,
            warning=warning,
            gauge=self._gauge(),
        )

    def _spec(self, join: _Join, rows: int) -> MatrixSpec:
        layout = MatrixLayout(join.order)
        shape: tuple[int, ...] = (rows, self.size(join.source))
        if layout.nodes_first:
            shape = shape[::-1]
        shape += join.kernel
        if join.stack is None:
            return MatrixSpec(shape, layout)
        return MatrixSpec((join.stack.count, *shape), layout, join.stack.tensor, join.stack.index)


def _row_layouts(join: _Join, target_sizes: Sequence[int]) -> list[RowLayout]:
    """Which of a matrix's rows are each target's. Raises ValueError where rows cannot take turns as the join says."""
    turns = join.interleaved
    if not turns:
        return [RowLayout(first=sum(target_sizes[:part])) for part in range(len(target_sizes))]
    rounds = {divmod(size, turn) for size, turn in zip(target_sizes, turns, strict=True)}
    if len(rounds) > 1 or rounds.pop()[1]:
        raise ValueError(
            f"{join.matrix}: rows of {list(target_sizes)} neurons cannot take turns by {', '.join(map(str, turns))}"
        )
    if len(set(turns)) == 1:
        return [RowLayout(part, len(turns), turns[0]) for part in range(len(turns))]
    every = sum(turns)
    return [UnevenRowLayout(group=turn, first=sum(turns[:part]), every=every) for part, turn in enumerate(turns)]


def spelling(
    names: Collection[str],
    prefixes: Sequence[str],
    spellings: Sequence[Mapping[str, str]],
    numbers: Iterable[tuple[int, ...]],
) -> Mapping[str, str]:
    """The way of naming tensors that a file follows: the one that most of its names fit, the first one where none fits.

    names: the file's tensors. spellings: each way's templates, by part. numbers: those of every block, for the templates.
    """
    if not names:
        return spellings[0]
    numbers = list(numbers)

    def fitting(templates: Mapping[str, str]) -> int:
        spelled = {
            prefix + template.format(*block)
            for template in templates.values()
            for block in numbers
            for prefix in prefixes
        }
        return sum(name in names for name in spelled)

    return max(spellings, key=fitting)
