"""Counts of node layers as few arrays of bytes, which compress well, and back.

Most counts of a layer are below 256, and those of one bin are alike over the layer's nodes. So counts lie bin after bin, and of
every number its lowest byte in the first plane, the next in the second: a plane that is nearly all zeros takes no room.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ninscope.exact.counting import LayerCounts


def byte_planes(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The bytes of integers that are not negative, uint8 [planes, n]: plane 0 has the lowest byte of each, and so on.

    parts: int32 or int64, any shapes, whose numbers follow each other in C order. There are as many planes as the largest needs,
    at least one. Raises ValueError: a number is negative.
    """
    largest = 0
    for part in parts:
        most = int(
            part.view(f"u{part.itemsize}").max(initial=0)
        )  # of a negative number as well, and then beyond all others
        if most > np.iinfo(part.dtype).max:
            raise ValueError("integers that are not negative were expected")
        largest = max(largest, most)
    planes = np.empty((max(-(-largest.bit_length() // 8), 1), sum(part.size for part in parts)), np.uint8)
    first = 0
    for part in parts:
        for plane in range(len(planes)):
            there = planes[plane, first : first + part.size].reshape(part.shape)
            np.copyto(there, part >> (8 * plane) if plane else part, casting="unsafe")  # of a number its lowest byte
        first += part.size
    return planes


def of_byte_planes(planes: np.ndarray, shapes: Sequence[tuple[int, ...]], dtype: type[np.integer]) -> list[np.ndarray]:
    """The integers that `byte_planes` was given, of these shapes and this type. Raises ValueError: they are of other sizes."""
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
    if planes.dtype != np.uint8 or planes.ndim != 2 or planes.shape[1] != sum(sizes):
        raise ValueError(f"bytes {planes.dtype} {planes.shape} of {sum(sizes)} numbers: they are no such planes")
    if 8 * len(planes) > np.iinfo(dtype).bits:
        raise ValueError(f"numbers of {len(planes)} bytes do not fit {np.dtype(dtype)}")
    parts, first = [], 0
    for size, shape in zip(sizes, shapes, strict=True):
        numbers = np.zeros(size, dtype)
        for plane, bytes_of in enumerate(planes[:, first : first + size]):
            numbers |= bytes_of.astype(dtype) << dtype(8 * plane)
        parts.append(numbers.reshape(shape))
        first += size
    return parts


def packed_counts(layers: Mapping[str, LayerCounts]) -> tuple[np.ndarray, np.ndarray]:
    """(planes of the edges per bin and node, planes of the sums of distances), layer after layer: of `byte_planes`."""
    histograms = byte_planes([counts.histogram.T for counts in layers.values()])
    return histograms, byte_planes([counts.distances for counts in layers.values()])


def unpacked_counts(
    histograms: np.ndarray, distances: np.ndarray, nodes: Mapping[str, int], bins: int
) -> dict[str, LayerCounts]:
    """The layers that `packed_counts` packed. nodes: of each layer, in its order. bins: K + 1. Raises ValueError."""
    of_bins = of_byte_planes(histograms, [(bins, size) for size in nodes.values()], np.int32)
    of_nodes = of_byte_planes(distances, [(size,) for size in nodes.values()], np.int64)
    return {
        name: LayerCounts(np.ascontiguousarray(counts.T), sums)
        for name, counts, sums in zip(nodes, of_bins, of_nodes, strict=True)
    }
