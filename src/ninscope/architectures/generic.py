"""Any model at all: every matrix and every convolution joins two node layers of its own, since what follows what is not known.

Node layers: `<tensor>.in` and `<tensor>.out`, for every 2-D tensor that is not called as one that is no weight (biases, tables,
tokens), embeddings too, and every convolution: a tensor of three dimensions whose name says conv, or of more, named weight.
Single-layer results need no more, but neurons that two matrices share (x of q, k and v) count once for each. Convolutions are
taken for [out, in, ...] of one group: a transposed one, or one of several groups, has another network, which only a description
tells. Nor do tensors tell [experts, out, in] from [experts, in, out]. The note says what cannot be read, with its share of the
weights, and what was taken for granted.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ninscope.architectures.builder import Builder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.tied import tied_names
from ninscope.checkpoints.matrix import MatrixLayout
from ninscope.checkpoints.tensors import STORED_TYPES, Tensor
from ninscope.errors import CheckpointError
from ninscope.wording import first_names

FAMILY = "generic"
_TABLES = ("I64", "BOOL")  # positions and masks, which models keep beside their weights; nothing is packed into these
_NUMBERED = re.compile(r"^(.*?\b\d+)\.")
# What parameters and buffers of a module are called that no neuron is multiplied by: they are added, scaled with or looked up.
_NO_WEIGHT = re.compile(
    r"(^|_)(bias(es)?(_.*)?|tables?|tokens?|scales?|shifts?|gamma|beta|masks?|log|embed(ding)?s?|pos(itions?)?|positional|means?|var|"
    r"std|cos|sin|cached|freqs?|sinks?|queries|latents?|prompts?|priors?|anchors?)$",
    re.IGNORECASE,
)
_BIAS_MODULE = re.compile(
    r"(^|[._])bias(es)?(_table)?$", re.IGNORECASE
)  # relative_attention_bias.weight is looked up, and added
LARGE_SHARE = 0.1


@dataclass
class _Sorted:
    """The tensors of a checkpoint by what they are. unread: weights whose matrix cannot be told; besides: what is no weight."""

    matrices: dict[str, MatrixLayout] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    besides: list[str] = field(default_factory=list)


def architecture(tensors: Mapping[str, Tensor], why: str, config: Mapping | None = None) -> Architecture:
    """The wiring that the tensors' shapes allow. why: one clause that says why the model is not read as its own family.

    config: of config.json, which may say that an embedding and a head are one matrix. Tensors outside numbered blocks that have
    one shape are compared, so some of their rows are read.
    Raises CheckpointError: unsupported (there is no matrix, or one that does not hold plain floats), corrupt (a tensor that holds
    no numbers), and what reading raises.
    """
    groups = _sorted(tensors)
    tied = tied_names({name: tensors[name] for name in groups.matrices}, config or {})
    net = Builder(FAMILY)
    read = {name: layout for name, layout in groups.matrices.items() if name not in tied}
    for name, layout in read.items():
        shape = tensors[name].shape
        targets, nodes = layout.size(shape)
        stem = name.removesuffix(".weight")
        stem = name if stem != name and stem in tensors else stem  # two tensors, x and x.weight
        numbered = _NUMBERED.match(name)
        block = numbered[1] if numbered else stem
        source = net.named_layer(f"{stem}.in", nodes, block)
        net.join(source, net.named_layer(f"{stem}.out", targets, block), name, layout.order, shape[2:])
    if not read:
        raise CheckpointError("unsupported", f"{why}, and no tensor is a matrix or a convolution; there is no network")
    left_out = _share([tensors[name] for name in groups.unread], [tensors[name] for name in read])
    warning = ""
    if left_out > LARGE_SHARE:
        unread = first_names(groups.unread)
        warning = f"{_percent(left_out)} of the weights are left out ({unread}): describe them in [architecture]"
    note = ", ".join(_notes(groups, read, tied, left_out, why))
    return net.architecture(note, complete=False, warning=warning)


def _sorted(tensors: Mapping[str, Tensor]) -> _Sorted:
    """Raises CheckpointError."""
    groups = _Sorted()
    for name, tensor in sorted(tensors.items(), key=lambda item: _natural(item[0])):
        tensor.check_readable()
        layout = _layout(tensor)
        if layout is None and len(tensor.shape) < 3:
            continue
        if tensor.dtype not in (*STORED_TYPES, *_TABLES):
            raise CheckpointError(
                "unsupported",
                f"tensor {name} is of type {tensor.dtype}; only F16, BF16, F32 and F64 weights can be measured",
            )
        if tensor.dtype in _TABLES or _is_no_weight(tensor):
            groups.besides.append(name)
        elif layout is None:
            groups.unread.append(name)
        else:
            groups.matrices[name] = layout
    return groups


def _is_no_weight(tensor: Tensor) -> bool:
    """Whether a tensor of two or more axes is called as what joins no neurons, or is one vector."""
    module, _, last = tensor.name.rpartition(".")
    if last == "weight":
        return _BIAS_MODULE.search(module) is not None
    if "weight" in last or "kernel" in last:
        return False
    return _NO_WEIGHT.search(last) is not None or sum(size > 1 for size in tensor.shape) < 2


def _notes(
    groups: _Sorted, read: Mapping[str, MatrixLayout], tied: Sequence[str], left_out: float, why: str
) -> Iterator[str]:
    joins = "embedding and head too, until [architecture] joins them"
    yield f"{why}; read as generic, each of {len(read)} matrices by itself ({joins})"
    if convolutions := sum(layout.convolves for layout in read.values()):
        yield f"{convolutions} of them convolutions taken for [out, in, ...] of one group"
    if names := groups.unread + groups.besides:
        share = f" ({_percent(left_out)} of the weights)" if groups.unread else ""
        yield f"left out: {first_names(names)}{share}"
    if tied:
        yield f"tied and counted once: {first_names(tied)}"


def _share(left_out: Sequence[Tensor], read: Sequence[Tensor]) -> float:
    """Which part of the numbers of all these tensors is left out."""
    numbers = sum(math.prod(tensor.shape) for tensor in left_out)
    return numbers / (numbers + sum(math.prod(tensor.shape) for tensor in read))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "less than 0.1 %"


def _layout(tensor: Tensor) -> MatrixLayout | None:
    """None where the tensor is not a matrix or a convolution, or that cannot be told."""
    shape = tensor.shape
    if len(shape) < 2:
        return None
    if len(shape) == 2:
        return MatrixLayout()
    named = tensor.name.endswith("weight") and (len(shape) in (4, 5) or (len(shape) == 3 and "conv" in tensor.name))
    # With one input channel it may be of several groups, each of which has its own.
    return MatrixLayout("convolution") if named and shape[1] > 1 else None


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts block 10 after block 9."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d{1,9})", name)]
