"""What ranks send each other to measure a sharded model, beside what gathering its weights would move.

Counts are those of drawn weights, N(0, 0.02), of one block with all its neurons, whose other blocks are like it; what each rank
would add is packed as ranks pack it. A ring moves 2 (p-1)/p of what is added, and (p-1)/p of what is gathered.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.shapes import SHAPES, write_empty_checkpoint
from ninscope.checkpoints.source import open_source
from ninscope.distributed.packing import Packing, facts_of
from ninscope.multifractal.boxes import column_histogram
from ninscope.networks.bin_table import bin_table
from ninscope.networks.neuron_network import NeuronNetwork, neuron_network
from ninscope.networks.radii import IntegerRadii
from ninscope.weights.counting import weights_of_matrices

Row = tuple[str, float, str, str, float | None]

_WANTED = 0.02
_DEVIATION = 0.02
# The weights as they are, and what controls count besides: unit and fixed readings in one array, the baseline in another.
_OWN, _CONTROLS = (((1.0,),), ((0.1 / _DEVIATION, 0.5), (1.3,)))
_CHUNKS = 8  # the largest number of ranks
_SUMS_OF_SQUARES = 256 * 4 * 8  # bytes a matrix


def sharded(folder: Path, shape: str) -> Iterator[Row]:
    """An own reading, and one with controls, of a model in bfloat16 by FSDP2 and by tensor parallelism."""
    network = neuron_network(
        open_source(write_empty_checkpoint(folder / f"empty-{shape}", shape)).open("empty-" + shape)
    )
    blocks = SHAPES[shape][0]
    weights = sum(weights_of_matrices(network).values())
    counted = _counts_of_a_block(network)
    matrices = len(weights_of_matrices(network)) * _SUMS_OF_SQUARES
    for way, ranks in (("FSDP", 2), ("FSDP", 8), ("tensor parallel", 2), ("tensor parallel", 8)):
        own, controls = (
            blocks * sum(_bytes_of_layer(layers, arrays, way, ranks) for layers in counted.values())
            for arrays in (_OWN, _CONTROLS)
        )
        for name, added in (("a reading", own + matrices), ("a reading with controls", own + matrices + controls)):
            moved, gathered = 2 * added * (ranks - 1) / ranks, 2 * weights * (ranks - 1) / ranks
            wanted = f"; wanted: {_WANTED}" if name == "a reading" else ""
            yield (
                f"all_reduce of {name}, {shape} shape, {ranks} ranks, {way}",
                moved / 1e6,
                "MB",
                f"gathering the weights {gathered / 1e6:.0f} MB{wanted}",
                moved / gathered,
            )


Chunks = Mapping[
    float, list[np.ndarray]
]  # by the factor of the weights, counts [nodes, K + 1] of each chunk of targets


def _counts_of_a_block(network: NeuronNetwork) -> dict[str, tuple[Chunks, bool]]:
    """By node layer of the first block, its counts, and whether tensor parallelism shards the nodes rather than the targets."""
    first = network.layers[0].name.split(".")[0]
    edges: dict[str, int] = {}
    for block in network.blocks:
        if block.source.startswith(f"{first}."):
            edges[block.source] = edges.get(block.source, 0) + network.sizes[block.target]
    generator = np.random.default_rng(0)
    rowwise = {
        block.source
        for block in network.blocks
        if block.tensor.endswith(("attention.dense.weight", "mlp.dense_4h_to_h.weight"))
    }
    return {name: (_drawn(network.sizes[name], count, generator), name in rowwise) for name, count in edges.items()}


def _drawn(nodes: int, edges: int, generator: np.random.Generator) -> Chunks:
    """Counts of a layer of neurons with so many edges each."""
    table = bin_table("BF16", IntegerRadii())
    factors = [factor for arrays in (*_OWN, *_CONTROLS) for factor in arrays]
    found: dict[float, list[np.ndarray]] = {factor: [] for factor in factors}
    for targets in np.array_split(np.arange(edges), _CHUNKS):
        weights = generator.standard_normal((len(targets), nodes), dtype=np.float32)
        for factor in factors:
            bits = ((weights * np.float32(factor * _DEVIATION)).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
            counts = np.zeros((nodes, table.width), np.int32)
            column_histogram(bits, table, counts, None)
            found[factor].append(counts[:, : table.radius_count + 1])
    return found


def _bytes_of_layer(layer: tuple[Chunks, bool], arrays: Sequence[Sequence[float]], way: str, ranks: int) -> int:
    """What one rank adds for a layer: its counts under some readings, sums of distances, and what ranks tell each other before."""
    chunks, by_nodes = layer
    total = 0
    for readings in arrays:
        of_ranks = [
            np.stack([_of_rank(chunks[factor], number, ranks, by_nodes and way != "FSDP") for factor in readings])
            for number in range(ranks)
        ]
        total += sum(array.nbytes for array in _added(of_ranks)) + 8 * ranks + 8 * of_ranks[0].shape[1]
    return total


def _added(of_ranks: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """All that a rank adds to have the sum of counts."""
    facts = np.sum([facts_of([counts]) for counts in of_ranks], axis=0)
    packings = [Packing([counts], facts) for counts in of_ranks]
    words = np.sum([packing.words() for packing in packings], axis=0)
    packings[0].take(words)
    yield from (facts, words)
    if packings[0].is_doubtful:
        yield packings[0].words_again()


def _of_rank(chunks: Sequence[np.ndarray], number: int, ranks: int, by_nodes: bool) -> np.ndarray:
    """Counts of one rank's targets, or of its nodes."""
    if not by_nodes:
        mine = np.array_split(np.arange(len(chunks)), ranks)[number]
        return np.sum([chunks[chunk] for chunk in mine], axis=0, dtype=np.int32)
    counts = np.sum(chunks, axis=0, dtype=np.int32)
    kept = np.zeros_like(counts)
    mine = np.array_split(np.arange(len(counts)), ranks)[number]
    kept[mine] = counts[mine]
    return kept
