"""Where in its base the weight lies that an adapter is of: a tensor, rows of it, or slices of a stack of experts."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ninscope.checkpoints.formats.weight_file import TensorEntry
from ninscope.checkpoints.lora import storage
from ninscope.checkpoints.lora.adapter import Adapter, Factors
from ninscope.checkpoints.tensors import STORED_TYPES, Tensor
from ninscope.checkpoints.wrapped_names import unwrapped
from ninscope.errors import CheckpointError

_TAIL = 4  # parts of a name by which it is looked up


class Names:
    """The tensors of a base by the ends of their names, without those of wrappers in them: an adapter names what was under a
    head, or without one.
    """

    def __init__(self, tensors: Mapping[str, Tensor], model_type: object):
        self.tensors, self.model_type = tensors, model_type
        self._stored = unwrapped({name: name for name in tensors})  # by the names without wrappers
        self._by_tail: dict[str, list[str]] = defaultdict(list)
        for name in self._stored:
            parts = name.split(".")
            for count in range(1, min(len(parts), _TAIL) + 1):
                self._by_tail[".".join(parts[-count:])].append(name)

    def find(self, name: str) -> str | None:
        """The tensor of that name in any spelling of its family, with or without the prefix of a head model, or None.

        Raises CheckpointError (corrupt) where there are several.
        """
        spelled_so = (self._find_spelled(spelled) for spelled in storage.spellings(self.model_type, name))
        return next((in_base for in_base in spelled_so if in_base is not None), None)

    def _find_spelled(self, name: str) -> str | None:
        if name in self.tensors:
            return name
        if name in self._stored:
            return self._stored[name]
        parts = name.split(".")
        candidates = self._by_tail.get(".".join(parts[-_TAIL:]), ())
        longer = [other for other in candidates if other.endswith(f".{name}")]
        shorter = [".".join(parts[n:]) for n in range(1, len(parts) - 1) if ".".join(parts[n:]) in self._stored]
        if len(longer) > 1:
            raise CheckpointError(
                "corrupt", f"tensor {name} of the adapter may be {longer[0]} or {longer[1]} of the base"
            )
        return next((self._stored[other] for other in longer or shorter), None)

    def embedding_of(self, head: str) -> str | None:
        """The input embedding, which a model may share with its head; None where `head` names no head, or it is not clear."""
        if head.removesuffix(".weight").rpartition(".")[2] not in storage.HEADS:
            return None
        tables = [
            stored
            for name, stored in self._stored.items()
            if name.split(".")[-2:-1] and name.split(".")[-2] in storage.EMBEDDINGS
        ]
        return tables[0] if len(tables) == 1 else None


@dataclass(frozen=True)
class Place:
    """Rows of a matrix in the base, and what of the factors is added to them.

    tensor: the rows as a tensor, consecutive bytes of its file. turned: they are of W[in, out]. key: the name by which the
    adapter's settings know it. rows: which of the update's rows they are, first to last - 1 (default: all). expert, experts:
    which of how many it is whose ranks are in the factors.
    """

    tensor: Tensor
    turned: bool
    key: str
    rows: tuple[int, int] | None = None
    expert: int = 0
    experts: int = 1


def places_of(adapter: Adapter, factors: Factors, names: Names, turned_elsewhere: bool) -> list[Place]:
    """turned_elsewhere: the base stores another module, whose shape tells, [in, out].

    Raises CheckpointError: corrupt (the base lacks it, or has it in another shape), unsupported (how it is stored is not known).
    """
    parameters = [name for name in adapter.settings.parameters_of(factors.module) if name != "weight"]
    stacks = [stack for name in parameters for stack in _stacks(adapter, factors, name, names)]
    if len(stacks) > 1:
        raise CheckpointError(
            "unsupported",
            f"{factors.module}: which of its parameters {factors.a.name} belongs to is not clear; merge it with peft",
        )
    if stacks:
        return stacks[0]
    if parameters and names.find(f"{factors.module}.weight") is None:
        raise CheckpointError(
            "corrupt",
            f"{factors.module}: no parameter of the base ({', '.join(parameters)}) goes with {factors.a.name} of shape "
            f"{list(factors.a.shape)}; name the base that it was trained on",
        )
    return [_place_of_module(adapter, factors, names, turned_elsewhere)]


def shape_tells(factors: Factors, names: Names) -> bool | None:
    """Whether a module's weight is stored [in, out]; None where its shape does not tell, or the base has no such module."""
    in_base = names.find(f"{factors.module}.weight")
    if in_base is None or factors.table or len(factors.a.shape) > 2 or factors.pair[0] == factors.pair[1]:
        return None
    return names.tensors[in_base].shape == factors.pair[::-1]


def other_shape(weight: Tensor, shape: tuple[int, ...], of: str) -> CheckpointError:
    return CheckpointError(
        "corrupt",
        f"tensor {weight.name} of the base has shape {list(weight.shape)}, the adapter ({of}) {list(shape)}; "
        "name the base that it was trained on",
    )


def _place_of_module(adapter: Adapter, factors: Factors, names: Names, turned_elsewhere: bool) -> Place:
    """Raises CheckpointError."""
    module, weight = factors.module, f"{factors.module}.weight"
    if names.find(f"{factors.key}.in_proj_weight") is not None:  # peft adds the update of its out_proj twice
        raise CheckpointError(
            "unsupported",
            f"{factors.key} is torch's MultiheadAttention, which peft adapts in a way of its own; merge it with peft",
        )
    in_base = names.find(weight) or names.embedding_of(weight)
    if in_base is None:
        place = _place_in_stack(factors, names)
        if place is None:
            raise CheckpointError(
                "corrupt",
                f"tensor {weight}, which the adapter changes, is not in the base; name that it was trained on",
            )
        return place
    tensor = names.tensors[in_base]
    straight = (*factors.pair, *factors.a.shape[2:])
    allowed = {straight} if len(straight) > 2 else {straight, straight[::-1]}
    if tensor.shape not in allowed or (factors.table and tensor.shape != straight[::-1]):
        raise other_shape(tensor, straight, f"lora_B and lora_A of {module}")
    if factors.table or tensor.shape != straight:
        return Place(tensor, True, factors.key)
    if len(straight) > 2 or straight != straight[::-1]:
        return Place(tensor, False, factors.key)
    return Place(tensor, _square_is_turned(adapter, tensor, names, turned_elsewhere), factors.key)


def _square_is_turned(adapter: Adapter, tensor: Tensor, names: Names, turned_elsewhere: bool) -> bool:
    """Of a square weight its shape does not tell. fan_in_fan_out is that of another module, perhaps.

    Raises CheckpointError (unsupported).
    """
    known = storage.is_turned(names.model_type, tensor.name.removesuffix(".weight"))
    if known is not None:
        return known
    if adapter.settings.says_turned or turned_elsewhere:
        raise CheckpointError(
            "unsupported",
            f"tensor {tensor.name} of the base is square, and whether models of type {names.model_type!r} store it [in, out] is "
            "not known; merge it with peft",
        )
    return False


def _stacks(adapter: Adapter, factors: Factors, parameter: str, names: Names) -> Iterator[list[Place]]:
    """The places of all experts where the factors are those of this parameter; nothing where they are not."""
    key = f"{factors.module}.{parameter}"
    in_base = names.find(key)
    if in_base is not None:
        tensor = names.tensors[in_base]
        if len(tensor.shape) == 2 and tensor.shape == factors.pair:
            yield [Place(tensor, False, key)]
        elif len(tensor.shape) == 3 and factors.rank % tensor.shape[0] == 0:
            yield from _slices(adapter, factors, key, tensor, names)
        return
    for parts in storage.EXPERT_PARTS.get(parameter, ()):
        if names.find(f"{factors.module}.0.{parts[0].name}.weight") is not None:
            yield from _experts_apart(adapter, factors, key, parts, names)
            return


def _slices(adapter: Adapter, factors: Factors, key: str, tensor: Tensor, names: Names) -> Iterator[list[Place]]:
    experts, *shape = tensor.shape
    if factors.pair in (tuple(shape), tuple(shape[::-1])):
        turned = _expert_is_turned(adapter, factors, tuple(shape), names)
        yield [Place(tensor.slice(number), turned, key, None, number, experts) for number in range(experts)]


def _expert_is_turned(adapter: Adapter, factors: Factors, shape: tuple[int, ...], names: Names) -> bool:
    """Of one expert's matrix, which the factors fit. Raises CheckpointError (unsupported)."""
    if shape[0] == shape[1]:
        return adapter.settings.experts_are_turned(storage.experts_are_turned(names.model_type))
    return shape != factors.pair


def _experts_apart(
    adapter: Adapter, factors: Factors, key: str, parts: tuple[storage.ExpertPart, ...], names: Names
) -> Iterator[list[Place]]:
    """Of a base that stores each expert by itself."""
    places: list[Place] = []
    number = 0
    while (of_expert := _expert_tensors(factors.module, number, parts, names)) is not None:
        rows, columns = of_expert[0].shape if len(of_expert[0].shape) == 2 else (0, 0)
        together = (rows * len(parts), columns)
        if factors.pair not in (together, together[::-1]) or any(of.shape != (rows, columns) for of in of_expert):
            return
        turned = _expert_is_turned(adapter, factors, together, names)
        for part, tensor in zip(parts, of_expert, strict=True):
            places.append(Place(tensor, turned, key, (part.number * rows, (part.number + 1) * rows), number))
        number += 1
    if number and factors.rank % number == 0:
        yield [replace(place, experts=number) for place in places]


def _expert_tensors(
    module: str, number: int, parts: tuple[storage.ExpertPart, ...], names: Names
) -> list[Tensor] | None:
    in_base = [names.find(f"{module}.{number}.{part.name}.weight") for part in parts]
    present = [names.tensors[name] for name in in_base if name is not None]
    return present if len(present) == len(parts) else None


def _place_in_stack(factors: Factors, names: Names) -> Place | None:
    """Of an adapter of single experts, in a base that stores all of them in one tensor [experts, out, in]."""
    expert = storage.expert_of(factors.module)
    in_base = expert and names.find(f"{expert[0]}.{expert[2]}")
    if expert is None or in_base is None:
        return None
    _, number, _, part = expert
    stack = names.tensors[in_base]
    outputs, inputs = factors.pair
    if len(stack.shape) != 3 or number >= stack.shape[0] or stack.shape[1:] != (outputs * part.of, inputs):
        raise other_shape(stack, factors.pair, f"lora_B and lora_A of {factors.module}")
    return Place(_rows_of(stack.slice(number), part.number * outputs, outputs), False, factors.key)


def _rows_of(tensor: Tensor, first: int, count: int) -> Tensor:
    """Consecutive rows of a matrix as a tensor of their own."""
    entry = tensor.entry
    row_bytes = (entry.stop - entry.start) // entry.shape[0]
    start = entry.start + first * row_bytes
    rows = TensorEntry(entry.name, entry.dtype, (count, *entry.shape[1:]), start, start + count * row_bytes)
    return replace(tensor, entry=rows)


def check_type(tensor: Tensor) -> None:
    """Raises CheckpointError (unsupported)."""
    if tensor.dtype not in STORED_TYPES:
        raise CheckpointError(
            "unsupported",
            f"tensor {tensor.name} of the base is of type {tensor.dtype}; name the base whose weights are F16, BF16, F32 or F64",
        )
