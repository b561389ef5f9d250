"""Where in a model hidden neurons, heads and the residual stream are: from the description of its architecture.

A node layer's activations are what the module reads whose weights leave that layer. So places need no list of families: the
network (`neuron_network`) says which matrix leaves which layer, and a module holds that matrix if it holds the same memory,
whatever the library calls the tensor on disk. Hidden neurons are what the MLP's output matrix reads, a head's output what the
attention's output matrix reads, and a block is the deepest module that holds all its matrices.

Experts that are stored in one tensor are no modules. They run one after the other (the library's "eager" way), and each is seen
by the slice of the tensor that it is multiplied with. A model of no known family has the layers that its modules with weights
read; the first of these reads the model's input, and is no neuron.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from ninscope.architectures.layout import RowLayout
from ninscope.checkpoints.in_memory import REVISION, in_memory_source, saved_tensors
from ninscope.checks import did_you_mean
from ninscope.errors import CheckpointError, RequestError
from ninscope.networks.neuron_network import NeuronNetwork, neuron_network
from ninscope.neurons.observatory.final_norm import final_norm_of
from ninscope.neurons.observatory.measure import (
    ATTENTION,
    CONTEXT,
    FEATURES,
    HIDDEN,
    OUTPUT,
    RESIDUAL,
    VALUES,
    WRITTEN,
    Place,
)
from ninscope.neurons.watching import activations_of
from ninscope.wording import first_names

See = Callable[[Place, Tensor], None]
_EXPERT = re.compile(r"\.e(\d+)\.m$")
_GENERIC = "generic"


@dataclass(frozen=True)
class Held:
    """A matrix of the network and who holds it. rows: the rows (outputs) of the module that are this block's.

    transposed: the module stores [in, out], as GPT-2's do.
    """

    source: str
    target: str
    module_name: str
    module: nn.Module
    rows: RowLayout
    size: int  # of the target layer
    transposed: bool

    @property
    def parameter(self) -> nn.Parameter:
        """As the module holds it."""
        return self.module.get_parameter("weight")

    def weight(self) -> Tensor:
        """float32 [targets, sources], a copy. Convolutions: [out, in * kernel]."""
        stored = self.parameter.detach()
        matrix = stored.flatten(1) if stored.ndim > 2 else stored.T if self.transposed else stored
        return matrix[self.row_numbers.to(matrix.device)].float()

    @property
    def row_numbers(self) -> Tensor:
        return torch.from_numpy(self.rows.rows(np.arange(self.size)))


@dataclass(frozen=True)
class _Spot:
    """How a place is read. module: whose pass shows it. inputs: what it is given, not what it gives. columns: of its output."""

    place: Place
    module: nn.Module
    inputs: bool
    columns: Tensor | None = None
    pattern: bool = False
    expert: int | None = None


@dataclass
class Places:
    """The places of a model, and its matrices. `places_of` makes it.

    network: the neuron interaction network, None where modules were named. held: the matrices that leave or enter its layers.
    """

    model: nn.Module
    spots: list[_Spot]
    network: NeuronNetwork | None
    held: list[Held] = field(default_factory=list)

    def of(self, *kinds: str) -> tuple[Place, ...]:
        """In the order of computation, as far as it is known."""
        return tuple(spot.place for spot in self.spots if spot.place.kind in kinds)

    @property
    def hidden_layers(self) -> tuple[str, ...]:
        return tuple(place.layer for place in self.of(HIDDEN))

    def leaving(self, layer: str) -> list[Held]:
        """The matrices that leave a layer."""
        return [held for held in self.held if held.source == layer]

    def entering(self, layer: str) -> list[Held]:
        """The matrices that enter a layer, or the gate and the up projection that its neurons are products of."""
        return [held for held in self.held if held.target in entered_layers(layer)]

    @contextmanager
    def shown(self, kinds: Sequence[str], see: See) -> Iterator[None]:
        """see(place, values) at every pass of the model meanwhile, as it computes them; shapes as `measure.py` says."""
        with ExitStack() as stack:
            if ATTENTION in kinds:
                stack.enter_context(_eager(self.model, "attn"))
            routed: dict[nn.Module, dict[int, Place]] = {}
            for spot in self.spots:
                if spot.place.kind not in kinds:
                    continue
                if spot.expert is not None:
                    routed.setdefault(spot.module, {})[spot.expert] = spot.place
                else:
                    handle = _hook(spot, see)
                    stack.callback(handle.remove)
            if routed:
                stack.enter_context(_eager(self.model, "experts"))
            for module, experts in routed.items():
                stack.enter_context(_experts_shown(module, self._down(module), experts, see))
            yield

    @contextmanager
    def changed(self, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
        """Hidden layers hold what a function makes of their activations [n, t, neurons] meanwhile.

        Raises RequestError: no such layer, or one of an expert's.
        """
        spots = {spot.place.layer: spot for spot in self.spots if spot.place.kind == HIDDEN}
        with ExitStack() as stack:
            for layer, change in changes.items():
                spot = spots.get(layer)
                if spot is None or spot.expert is not None or not spot.inputs:
                    why = "is none whose activations can be changed"
                    near = did_you_mean(layer, spots) if spot is None else ""
                    raise RequestError(f"layer {layer!r} {why}{near}")
                stack.callback(spot.module.register_forward_pre_hook(_changing(change)).remove)
            yield

    def unembedding(self) -> Tensor | None:
        """[vocabulary, width] float32, with the gain of the norm before it folded in, and the mean taken out if that norm does so.

        None for a model without a matrix from the stream to its outputs. A norm that is of another kind is left out.
        """
        head = _head_of(self.model)
        if head is None:
            return None
        weight = head.get_parameter("weight").detach().float()
        norm = final_norm_of(_norm_before(self.model, head), weight.shape[1])
        return weight if norm is None else norm.unembedding(weight)

    def saved_tensors(self) -> Mapping[str, Tensor]:
        """The model's tensors by the names under which it is saved."""
        return saved_tensors(self.model)

    def head(self) -> nn.Module | None:
        """The matrix that gives the outputs, nn.Linear; None where there is none."""
        return _head_of(self.model)

    def final_norm(self) -> nn.Module | None:
        """The normalisation between the stream and the head; None where none was found."""
        head = _head_of(self.model)
        return None if head is None else _norm_before(self.model, head)

    def _down(self, module: nn.Module) -> Tensor:
        return module.get_parameter(_down_name(module))


def entered_layers(layer: str) -> set[str]:
    """The node layers that weights enter on the way to a hidden one: itself, or the gate and the up projection."""
    stem = layer.removesuffix(".m")
    return {layer, f"{stem}.g", f"{stem}.u"} if layer.endswith(".m") else {layer}


def places_of(model: nn.Module, layers: Sequence[str] | None = None) -> Places:
    """Where things are in a model.

    layers: names of modules whose outputs are hidden neurons (an activation module's, say); None: from the architecture.
    Raises RequestError: a name that is no module, or a model in which there is nothing to look at.
    """
    if not isinstance(model, nn.Module):
        raise RequestError(f"the model is a {type(model).__name__}; a torch.nn.Module was expected")
    if layers is not None:
        return Places(model, [*_named(model, layers), *_ends(model)], None)
    try:
        if hasattr(model, "merge_and_unload"):
            raise CheckpointError("unsupported", "peft's layers stand around its modules")
        checkpoint = in_memory_source(model).open(REVISION)
        network = neuron_network(checkpoint)
    except CheckpointError as error:
        todo = "merge its adapter first (merge_and_unload), or " if hasattr(model, "merge_and_unload") else ""
        raise RequestError(
            f"{type(model).__name__}: where its neurons are is not known ({error}); {todo}name modules in layers"
        ) from None
    held = _held(model, network)
    spots = _generic_spots(model, held) if network.family == _GENERIC else _described_spots(model, network, held)
    return Places(model, [*spots, *_ends(model)], network, held)


# --- from the network to modules ----------------------------------------------------------------------------
def _held(model: nn.Module, network: NeuronNetwork) -> list[Held]:
    owners = {
        _memory(parameter): (name, module)
        for name, module in model.named_modules()
        for key, parameter in module.named_parameters(recurse=False)
        if key == "weight"
    }
    saved = saved_tensors(model)
    found = []
    for block in network.blocks:
        tensor = saved.get(network.matrices[block.tensor].tensor.name)
        name, module = owners.get(_memory(tensor), ("", None)) if isinstance(tensor, Tensor) else ("", None)
        if module is not None:
            transposed = type(module).__name__ == "Conv1D"
            size = network.sizes[block.target]
            found.append(Held(block.source, block.target, name, module, block.rows, size, transposed))
    return found


def _memory(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape)


def _described_spots(model: nn.Module, network: NeuronNetwork, held: Sequence[Held]) -> list[_Spot]:
    modules = dict(model.named_modules())
    by_block: dict[str, list[Held]] = {}
    blocks = {layer.name: layer.block for layer in network.layers}
    for one in held:
        by_block.setdefault(blocks[one.source], []).append(one)
    spots: list[_Spot] = []
    last: tuple[nn.Module, str] | None = None
    for block, matrices in by_block.items():
        stems = list(dict.fromkeys(one.source.rpartition(".")[0] for one in matrices if one.source.endswith(".c")))
        hidden = [one for one in matrices if one.source.endswith(".m")]
        experts = _expert_spots(modules, network, block, matrices)
        attention = [_attention_spots(model, modules, block, stem, matrices) for stem in stems]
        if not (stems or hidden or experts):
            continue
        # Not by all its matrices: Gemma 4 keeps one for all blocks outside of them.
        ends = [one.module_name for one in matrices if one.source.endswith((".c", ".m")) or one.target.endswith(".q")]
        # Experts that lie in one tensor are no matrices of a module, and yet the block is what holds them too.
        ends += [name for name, module in modules.items() if any(spot.module is module for spot in experts)]
        whole = _common(ends, modules)
        entry = next((one.source for one in matrices if one.source.endswith(".x")), None)
        if whole is not model and entry is not None:
            spots.append(_Spot(Place(RESIDUAL, entry, block), whole, inputs=True))
            target = next((one.target for one in hidden if one.target.endswith(".x")), "")
            # What leaves the block may be no hidden layer of a module: experts, or Gemma 4's inputs for each layer.
            inside = (one for one in network.blocks if blocks.get(one.source) == block)
            target = target or next((one.target for one in inside if one.target.endswith(".x")), "")
            last = (whole, target) if target else last
        spots += [spot for part in attention for spot in part]
        for layer, module in dict.fromkeys((one.source, one.module) for one in hidden):
            spots += [
                _Spot(Place(HIDDEN, layer, block), module, inputs=True),
                _Spot(Place(WRITTEN, layer, block), module, inputs=False),
            ]
        spots += experts
    if last is not None:
        spots.append(_Spot(Place(RESIDUAL, last[1], blocks.get(last[1], "output")), last[0], inputs=False))
    return spots


def _attention_spots(
    model: nn.Module, modules: Mapping[str, nn.Module], block: str, stem: str, matrices: Sequence[Held]
) -> list[_Spot]:
    layer = f"{stem}.c"
    output = next(one for one in matrices if one.source == layer)
    values = next((one for one in matrices if one.target == f"{stem}.v"), None)
    spots = []
    if values is not None:
        whole = _common([output.module_name, values.module_name], modules)
        size = _width_read(output)
        heads = _heads(model, whole, size)
        value_heads = max(values.size // (size // heads), 1)
        spots.append(_Spot(Place(VALUES, f"{stem}.v", block, value_heads), values.module, False, values.row_numbers))
        spots.append(_Spot(Place(CONTEXT, layer, block, heads), output.module, inputs=True))
        if whole is not output.module:
            spots.append(_Spot(Place(ATTENTION, layer, block, heads), whole, inputs=False, pattern=True))
    spots.append(_Spot(Place(WRITTEN, layer, block), output.module, inputs=False))
    return spots


def _width_read(held: Held) -> int:
    shape = held.parameter.shape
    return shape[0] if held.transposed else shape[1]


def _heads(model: nn.Module, attention: nn.Module, size: int) -> int:
    """How many heads lie side by side in `size` neurons: what the module says, then what the configuration does."""
    parts = list(attention.modules())
    for name in ("num_heads", "num_attention_heads", "n_head", "n_heads"):
        for part in (*parts, getattr(model, "config", None)):
            number = getattr(part, name, None)
            if isinstance(number, int) and number > 0 and size % number == 0:
                return number
    for name in ("head_dim", "attention_head_size", "head_size"):
        for part in parts:
            number = getattr(part, name, None)
            if isinstance(number, int) and number > 0 and size % number == 0:
                return size // number
    return 1


def _expert_spots(
    modules: Mapping[str, nn.Module], network: NeuronNetwork, block: str, matrices: Sequence[Held]
) -> list[_Spot]:
    """Experts that lie in one tensor: the module with such tensors inside what holds the block's other matrices."""
    layers = {layer.name for layer in network.source_layers if layer.block == block and _EXPERT.search(layer.name)}
    layers -= {one.source for one in matrices}
    if not layers:
        return []
    names = [one.module_name for one in matrices]
    whole = _common_name(names)
    inside = [
        module
        for name, module in modules.items()
        if name.startswith(f"{whole}.") and _down_name(module) and module.get_parameter(_down_name(module)).ndim == 3
    ]
    if len(inside) != 1:
        return []
    numbered = {int(match[1]): name for name in layers if (match := _EXPERT.search(name))}
    return [
        _Spot(Place(HIDDEN, layer, block, routed=True), inside[0], inputs=True, expert=number)
        for number, layer in sorted(numbered.items())
    ]


def _down_name(module: nn.Module) -> str:
    own = dict(module.named_parameters(recurse=False))
    return next((name for name in ("down_proj", "w2") if name in own), "")


def _common_name(names: Sequence[str]) -> str:
    parts = [name.split(".") for name in names]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)


def _common(names: Sequence[str], modules: Mapping[str, nn.Module]) -> nn.Module:
    """The deepest module that holds all of these."""
    return modules[_common_name(names)]


def _generic_spots(model: nn.Module, held: Sequence[Held]) -> list[_Spot]:
    """What modules with weights read, but the model's first, which reads its input, and embeddings, which read numbers."""
    first = next((module for module in model.modules() if isinstance(module, nn.Linear | _ConvNd)), None)
    reading = {one.source: one.module for one in held if isinstance(one.module, nn.Linear | _ConvNd)}
    return [
        _Spot(Place(HIDDEN, layer, layer.removesuffix(".in")), module, inputs=True)
        for layer, module in reading.items()
        if module is not first
    ]


def _named(model: nn.Module, layers: Sequence[str]) -> list[_Spot]:
    modules = dict(model.named_modules())
    names = [layers] if isinstance(layers, str) else list(layers)
    if not names or len(set(names)) < len(names):
        raise RequestError(f"layers is {names}; names of modules were expected, each once")
    for name in names:
        if name not in modules or not name:
            near = did_you_mean(name, modules) or f"; it has {first_names([known for known in modules if known])}"
            raise RequestError(f"layer {name!r} is no module of the model{near}")
    return [_Spot(Place(HIDDEN, name, name), modules[name], inputs=False) for name in names]


def _ends(model: nn.Module) -> list[_Spot]:
    spots = []
    head = _head_of(model)
    if head is not None:
        spots.append(_Spot(Place(FEATURES, "features"), head, inputs=True))
    spots.append(_Spot(Place(OUTPUT, "output"), model, inputs=False))
    return spots


def _head_of(model: nn.Module) -> nn.Module | None:
    """The matrix that gives the outputs: what the library calls so, else the last Linear layer outside the base model."""
    embeddings = getattr(model, "get_output_embeddings", lambda: None)()
    if isinstance(embeddings, nn.Linear):
        return embeddings
    base = getattr(model, "base_model", None)
    inside = set(base.modules()) if isinstance(base, nn.Module) and base is not model else set()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module not in inside]
    return linear[-1] if linear else None


def _norm_before(model: nn.Module, head: nn.Module) -> nn.Module | None:
    """The last normalisation that is registered outside every block and before the head."""
    base = getattr(model, "base_model", None)
    if not isinstance(base, nn.Module) or base is model:
        return None
    decoder = getattr(base, "decoder", base)
    own = [child for child in decoder.children() if "norm" in type(child).__name__.lower()]
    return own[-1] if own else None


# --- hooks --------------------------------------------------------------------------------------------------
def _hook(spot: _Spot, see: See) -> Any:
    if spot.inputs:

        def entering(module: nn.Module, args: tuple, kwargs: dict) -> None:
            given = next((value for value in (*args, kwargs.get("hidden_states")) if isinstance(value, Tensor)), None)
            if given is not None:
                see(spot.place, _rows(given.detach(), module, spot.place.kind))

        return spot.module.register_forward_pre_hook(entering, with_kwargs=True)

    chosen = None if spot.columns is None else _Columns(spot.columns)

    def leaving(module: nn.Module, args: tuple, output: Any) -> None:
        given = (
            _pattern(output)
            if spot.pattern
            else _outputs(output)
            if spot.place.kind == OUTPUT
            else activations_of(output)
        )
        if given is None:
            return
        given = given.detach()
        if chosen is not None:
            given = chosen.of(given)
        see(spot.place, given if spot.pattern else _rows(given, module, spot.place.kind))

    return spot.module.register_forward_hook(leaving)


class _Columns:
    """Some columns of an output. Where they lie in equal runs at equal distances, as the values of fused attentions do, a view
    of them is copied, several times as fast as columns picked one by one."""

    def __init__(self, columns: Tensor) -> None:
        self._columns = columns
        breaks = (columns.diff() != 1).nonzero().flatten() + 1
        starts = torch.cat([columns[:1], columns[breaks]])
        self._first, self._runs = int(starts[0]), len(starts)
        self._run = len(columns) // self._runs
        self._step = int(starts[1] - starts[0]) if self._runs > 1 else self._run
        regular = starts[0] + self._step * torch.arange(self._runs)[:, None] + torch.arange(self._run)
        self._regular = self._run <= self._step and torch.equal(regular.flatten(), columns)

    def of(self, values: Tensor) -> Tensor:
        """values: [..., columns of the output]."""
        if not self._regular:
            return values.index_select(-1, self._columns.to(values.device))
        if self._runs == 1:
            return values.narrow(-1, self._first, self._run)
        last = values.stride(-1)
        shape = (*values.shape[:-1], self._runs, self._run)
        strides = (*values.stride()[:-1], self._step * last, last)
        runs = values.as_strided(shape, strides, values.storage_offset() + self._first * last)
        return runs.flatten(-2)


def _outputs(output: Any) -> Tensor | None:
    logits = getattr(output, "logits", None)
    return logits if isinstance(logits, Tensor) else activations_of(output)


def _pattern(output: Any) -> Tensor | None:
    """The attention pattern among what an attention module returns."""
    parts = output if isinstance(output, tuple | list) else ()
    return next((part for part in parts[1:] if isinstance(part, Tensor) and part.ndim == 4), None)


def _rows(values: Tensor, module: nn.Module, kind: str) -> Tensor:
    """[n, t, features], a view where there can be one."""
    channels = isinstance(module, _ConvNd) or (
        values.ndim == 4 and not isinstance(module, nn.Linear) and kind == HIDDEN
    )
    if values.ndim > 3 and channels:
        return values.flatten(2).transpose(1, 2)
    if values.ndim == 2:
        return values.unsqueeze(1)
    return values.flatten(1, -2) if values.ndim > 3 else values


def _changing(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, tuple], tuple]:
    def replace(module: nn.Module, args: tuple) -> tuple:
        given = args[0]
        rows = _rows(given, module, HIDDEN)
        made = change(rows).to(given.dtype)
        if isinstance(module, _ConvNd):
            made = made.transpose(1, 2)
        return (made.reshape(given.shape), *args[1:])

    return replace


@contextmanager
def _eager(model: nn.Module, part: str) -> Iterator[None]:
    """The library's plain way of attention ("attn") or experts meanwhile, which alone shows patterns, and experts one by one."""
    key = f"_{part}_implementation"
    setter = getattr(model, f"set_{part}_implementation", None)
    before = getattr(getattr(model, "config", None), key, None)
    if setter is None or before in (None, "eager"):
        yield
        return
    setter("eager")
    try:
        yield
    finally:
        setter(before)


class _DownProjections(TorchFunctionMode):
    """Shows what is multiplied with a slice of a tensor of experts."""

    def __init__(self, weights: Tensor, see: Callable[[int, Tensor], None]) -> None:
        super().__init__()
        self.start, self.see = weights.data_ptr(), see
        self.step = weights.stride(0) * weights.element_size()
        self.stop = self.start + self.step * len(weights)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (torch.nn.functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm):
            values, weight = args[0], args[1]
            place = weight.data_ptr()
            if self.start <= place < self.stop:
                self.see((place - self.start) // self.step, values.detach())
        elif func in (torch.bmm, Tensor.bmm) and args[1].data_ptr() == self.start:
            for number, values in enumerate(
                args[0].detach()
            ):  # all tokens for each; those not sent to it were made zero
                self.see(number, values[values.any(-1)])
        return func(*args, **(kwargs or {}))


@contextmanager
def _experts_shown(module: nn.Module, down: Tensor, experts: Mapping[int, Place], see: See) -> Iterator[None]:
    modes: list[_DownProjections] = []

    def show(number: int, values: Tensor) -> None:
        if number in experts and values.numel():
            see(experts[number], values.reshape(1, -1, values.shape[-1]))

    def begin(*_: Any) -> None:
        modes.append(_DownProjections(down, show))
        modes[-1].__enter__()

    def end(*_: Any) -> None:
        modes.pop().__exit__(None, None, None)

    handles = [module.register_forward_pre_hook(begin), module.register_forward_hook(end, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
