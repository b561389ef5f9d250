"""Any model at all: every matrix and every convolution joins two node layers of its own, since what follows what is not known.

Node layers: `<tensor>.in` and `<tensor>.out`, for every 2-D tensor (embeddings too: a matrix does not show whether it is one) and
every convolution: a tensor of three dimensions whose name says conv, or of more, named weight. Single-layer results need no more,
but neurons that two matrices share (x of q, k and v) count once for each. Convolutions are taken for [out, in, ...] of one group:
a transposed one, or one of several groups, has another network, which only a description tells. The note says what cannot be
read, and what was taken for granted.
"""

import re
from collections.abc import Mapping, Sequence

from ninscope.architectures.builder import Builder
from ninscope.architectures.layout import Architecture
from ninscope.checkpoints.matrix import MatrixLayout
from ninscope.checkpoints.tensors import STORED_TYPES, Tensor
from ninscope.errors import CheckpointError

FAMILY = "generic"
_TABLES = ("I64", "BOOL")  # positions and masks, which models keep beside their weights; nothing is packed into these
_NUMBERED = re.compile(r"^(.*?\b\d+)\.")


def architecture(tensors: Mapping[str, Tensor], why: str) -> Architecture:
    """The wiring that the tensors' shapes allow. why: one clause that says why the model is not read as its own family.

    Raises CheckpointError (unsupported) where there is no matrix, or one that does not hold plain floats.
    """
    net = Builder(FAMILY)
    left_out, tied = [], []
    matrices = convolutions = 0
    first_names: dict[tuple, str] = {}  # by where the tensor is stored
    for name, tensor in sorted(tensors.items(), key=lambda item: _natural(item[0])):
        layout = _layout(tensor)
        like_weights = layout is not None or len(tensor.shape) > 2
        if like_weights and tensor.dtype not in (*STORED_TYPES, *_TABLES):
            raise CheckpointError(
                "unsupported",
                f"tensor {name} is of type {tensor.dtype}; only F16, BF16, F32 and F64 weights can be measured",
            )
        if layout is None or tensor.dtype not in STORED_TYPES:
            left_out += [name] if like_weights else []
            continue
        stored_at = (id(tensor.file), tensor.entry.start, tensor.shape)
        if first_names.setdefault(stored_at, name) != name:
            tied.append(name)
            continue
        targets, nodes = layout.size(tensor.shape)
        stem = name.removesuffix(".weight")
        stem = name if stem != name and stem in tensors else stem  # two tensors, x and x.weight
        numbered = _NUMBERED.match(name)
        block = numbered[1] if numbered else stem
        source = net.named_layer(f"{stem}.in", nodes, block)
        net.join(source, net.named_layer(f"{stem}.out", targets, block), name, layout.order, tensor.shape[2:])
        matrices += 1
        convolutions += layout.convolves
    if not matrices:
        raise CheckpointError("unsupported", f"{why}, and no tensor is a matrix or a convolution; there is no network")
    notes = [f"{why}; read as generic, each of {matrices} matrices by itself"]
    notes += [f"{convolutions} of them convolutions taken for [out, in, ...] of one group"] if convolutions else []
    notes += [f"left out: {_listed(left_out)}"] if left_out else []
    notes += [f"tied and counted once: {_listed(tied)}"] if tied else []
    return net.architecture(", ".join(notes), complete=False)


def _layout(tensor: Tensor) -> MatrixLayout | None:
    """None where the tensor is not a matrix or a convolution, or that cannot be told."""
    shape = tensor.shape
    if len(shape) < 2 or 0 in shape:
        return None
    if len(shape) == 2:
        return MatrixLayout()
    named = tensor.name.endswith("weight") and (len(shape) in (4, 5) or (len(shape) == 3 and "conv" in tensor.name))
    # With one input channel it may be of several groups, each of which has its own.
    return MatrixLayout("convolution") if named and shape[1] > 1 else None


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts block 10 after block 9."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d{1,9})", name)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
