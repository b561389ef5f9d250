"""Any model at all: every matrix and every convolution joins two node layers of its own, since how they follow is not known.

Node layers: `<tensor>.in` and `<tensor>.out`, for every 2-D tensor (embeddings too: whether a matrix is one cannot be seen) and
every convolution, a tensor of three dimensions whose name says conv, or of more, named weight. Single-layer results need no more,
but neurons that two matrices share (x of q, k and v) count once for each. Convolutions are taken for [out, in, ...] of one group:
a transposed one, or one of several groups, has another network, which only a description tells. What cannot be read, and what
was taken for granted, is said in the note.
"""

import re
from collections.abc import Mapping

from ninscope.architectures.layout import Architecture, NodeLayer, StoredMatrix, WeightBlock
from ninscope.checkpoints.matrix import MatrixLayout
from ninscope.checkpoints.tensors import STORED_TYPES, Tensor
from ninscope.errors import CheckpointError

FAMILY = "generic"
_TABLES = ("I64", "BOOL")  # positions and masks, which models keep beside their weights; nothing is packed into these
_NUMBERED = re.compile(r"^(.*?\b\d+)\.")


def architecture(tensors: Mapping[str, Tensor], why: str) -> Architecture:
    """The wiring that tensors' shapes allow. why: one clause that says why the model is not read as its own family.

    Raises CheckpointError (unsupported) where there is no matrix, or one that holds no plain floats.
    """
    layers, blocks, matrices, left, tied = [], [], {}, [], []
    places: dict[tuple, str] = {}
    for name, tensor in sorted(tensors.items(), key=lambda item: _natural(item[0])):
        layout = _layout(tensor)
        if layout is None and (len(tensor.shape) < 3 or tensor.dtype in STORED_TYPES or tensor.dtype in _TABLES):
            left += [name] if len(tensor.shape) > 2 else []
            continue
        if tensor.dtype in _TABLES:
            left.append(name)
            continue
        if tensor.dtype not in STORED_TYPES:
            raise CheckpointError(
                "unsupported",
                f"tensor {name} is of type {tensor.dtype}; only F16, BF16, F32 and F64 weights can be measured",
            )
        place = (id(tensor.file), tensor.entry.start, tensor.shape)
        if places.setdefault(place, name) != name:
            tied.append(name)
            continue
        targets, nodes = layout.size(tensor.shape)
        stem = name.removesuffix(".weight")
        stem = name if stem != name and stem in tensors else stem  # two tensors, x and x.weight
        numbered = _NUMBERED.match(name)
        block = numbered[1] if numbered else stem
        layers.append(NodeLayer(f"{stem}.in", nodes, f"{stem}.in", block))
        layers.append(NodeLayer(f"{stem}.out", targets, f"{stem}.out", block))
        blocks.append(WeightBlock(f"{stem}.in", f"{stem}.out", name))
        matrices[name] = StoredMatrix(tensor.shape, layout)
    if not blocks:
        raise CheckpointError("unsupported", f"{why}, and no tensor is a matrix or a convolution; there is no network")
    notes = [f"{why}; read as generic, each of {len(blocks)} matrices by itself"]
    convolutions = sum(stored.layout.convolves for stored in matrices.values())
    notes += [f"{convolutions} of them convolutions taken for [out, in, ...] of one group"] if convolutions else []
    notes += [f"left out: {_listed(left)}"] if left else []
    notes += [f"tied and counted once: {_listed(tied)}"] if tied else []
    return Architecture(FAMILY, tuple(layers), tuple(blocks), matrices, note=", ".join(notes), complete=False)


def _layout(tensor: Tensor) -> MatrixLayout | None:
    """None where it is no matrix and no convolution, or it cannot be told."""
    shape = tensor.shape
    if len(shape) < 2 or 0 in shape:
        return None
    if len(shape) == 2:
        return MatrixLayout()
    named = tensor.name.endswith("weight") and (len(shape) in (4, 5) or (len(shape) == 3 and "conv" in tensor.name))
    # With one input channel it may be of groups, each of which has its own.
    return MatrixLayout("convolution") if named and shape[1] > 1 else None


def _natural(name: str) -> list:
    """Block 10 after block 9."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d{1,9})", name)]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
