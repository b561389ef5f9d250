"""What the files of timm's models say: their config.json has a name and no sizes, so sizes are those of the tensors."""

import re
from collections.abc import Collection, Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.layout import Architecture
from ninscope.checkpoints.tensors import Tensor
from ninscope.errors import CheckpointError


def shape_of(tensors: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there, with so many axes, none of them empty. Raises CheckpointError (corrupt)."""
    tensor = tensors.get(name)
    if tensor is None:
        raise CheckpointError("corrupt", f"tensor {name} is absent, which every model of its kind has")
    if len(tensor.shape) != axes or 0 in tensor.shape:
        raise CheckpointError("corrupt", f"tensor {name} has shape {list(tensor.shape)}; {axes} axes were expected")
    return tensor.shape


def count_of(tensors: Mapping[str, Tensor], name: str) -> int:
    """How many tensors have this name, in which {} stands for any number: that of blocks, or of stages."""
    pattern = re.compile(re.escape(name).replace(re.escape("{}"), r"(0|[1-9]\d{0,5})"))
    return len([name for name in tensors if pattern.fullmatch(name)])


def only_known_vectors(tensors: Mapping[str, Tensor], known: Collection[str], left_out: str) -> bool:
    """Whether every vector of a file is a bias, one of `known` ({}: any number) or left out: its parts are known then."""
    patterns = "|".join(re.sub(r"\\{\d?\\}", r"\\d+", re.escape(name)) for name in known)
    allowed = re.compile(rf"{patterns}|.*\.bias")
    besides = re.compile(left_out)
    vectors = (name for name, tensor in tensors.items() if len(tensor.shape) < 2)
    return all(allowed.fullmatch(name) or besides.match(name) for name in vectors)


def whole(net: Builder, config: Mapping, tensors: Mapping[str, Tensor], left_out: str) -> Architecture:
    """The architecture, if it has every weight of the file but those whose names match `left_out`.

    A model of the name may have further parts. Raises CheckpointError: unsupported, with the name of a tensor that is not read;
    corrupt, where num_features, which config.json does say, is not what leaves the last block.
    """
    architecture = net.architecture(
        complete=False
    )  # what follows is stricter, and knows that normalisations have numbers too
    besides = re.compile(left_out)
    for name, tensor in tensors.items():
        if len(tensor.shape) > 1 and name not in architecture.matrices and not besides.match(name):
            raise CheckpointError(
                "unsupported",
                f"tensor {name} is in no {architecture.family} that is known here; describe the model with [architecture]",
            )
    width = net.size("output.x")
    if sizes.width(config, "num_features", width) != width:
        raise CheckpointError(
            "corrupt",
            f"config.json: num_features is {config['num_features']}, but the tensors' last block has {width} neurons",
        )
    return architecture
