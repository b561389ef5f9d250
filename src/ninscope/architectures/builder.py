"""Puts an architecture together, layer by layer: what the families' modules have in common."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ninscope.architectures.layout import Architecture, Link, NodeLayer, RowLayout, StoredMatrix, WeightBlock
from ninscope.checkpoints.matrix import MatrixLayout


@dataclass(frozen=True)
class _Join:
    source: str
    targets: tuple[str, ...]
    tensor: str
    order: str
    kernel: tuple[int, ...]
    held_in: str
    index: int | None
    held: int


class Builder:
    """Node layers, the tensors that join them and links, in the order they are named. A join or link may name a layer that is
    added later; shapes follow from the layers' sizes.
    """

    def __init__(self, family: str, prefixes: Sequence[str]):
        self._family, self._prefixes = family, tuple(prefixes)
        self._layers: dict[str, NodeLayer] = {}
        self._joins: list[_Join] = []
        self._links: list[Link] = []

    def layer(self, block: str, part: str, size: int, kind: str = "", group: str = "") -> str:
        """Add the node layer `block`.`part`; returns that name. Layers of a block and of one `group` share sampled neurons."""
        name = f"{block}.{part}"
        if name in self._layers:
            raise ValueError(f"node layer {name} was added before")
        self._layers[name] = NodeLayer(name, size, f"{block}.{group or part}", block, kind)
        return name

    def join(
        self,
        source: str,
        target: str | tuple[str, ...],
        tensor: str,
        order: str = "linear",
        kernel: tuple[int, ...] = (),
        held_in: str = "",
        index: int | None = None,
        held: int = 0,
    ) -> None:
        """A matrix leads from `source` to `target`, or to several layers whose rows stand one after the other.

        order: of MatrixLayout; kernel: a convolution's. held_in, index, held: the tensor that holds `held` such matrices
        along its first axis, of which this is number `index`; `tensor` is then the matrix's name alone.
        """
        targets = (target,) if isinstance(target, str) else target
        self._joins.append(_Join(source, targets, tensor, order, kernel, held_in, index, held))

    def link(self, source: str, target: str, **places: int | bool) -> None:
        """A connection without weights. places: which neurons, and whether it is a skip connection, as Link."""
        self._links.append(Link(source, target, **places))

    def architecture(self) -> Architecture:
        blocks, matrices = [], {}
        for join in self._joins:
            rows = 0
            for target in join.targets:
                blocks.append(WeightBlock(join.source, target, join.tensor, RowLayout(first=rows)))
                rows += self._layers[target].size
            shape = (rows, self._layers[join.source].size)
            if join.order.startswith("transposed"):
                shape = shape[::-1]
            shape += join.kernel
            if join.index is not None:
                shape = (join.held, *shape)
            matrices[join.tensor] = StoredMatrix(shape, MatrixLayout(join.order), join.held_in, join.index)
        return Architecture(
            self._family,
            tuple(self._layers.values()),
            tuple(blocks),
            matrices,
            prefixes=self._prefixes,
            links=tuple(self._links),
        )


def spelling(
    names: Collection[str], prefixes: Sequence[str], spellings: Sequence[Mapping[str, str]], places: Iterable[tuple]
) -> Mapping[str, str]:
    """The way of naming tensors that this file follows: the one that most of its names fit, the first where none does.

    names: of the file's tensors; spellings: templates by part; places: what to format them with, one tuple a block.
    """
    if not names:
        return spellings[0]
    places = list(places)

    def fitting(templates: Mapping[str, str]) -> int:
        full = {
            prefix + template.format(*place)
            for template in templates.values()
            for place in places
            for prefix in prefixes
        }
        return sum(name in names for name in full)

    return max(spellings, key=fitting)
