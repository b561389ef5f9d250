"""A model that is looked at: where things are in it, and what it is run on."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import DataParallel, functional
from torch.nn.parallel import DistributedDataParallel

from ninscope.architectures.layout import WeightBlock
from ninscope.errors import CheckpointError, NinscopeError, RequestError
from ninscope.interaction.matrices import block_weights
from ninscope.neurons.observatory.examples import TOKENS_KIND, Examples
from ninscope.neurons.observatory.measure import HIDDEN, LABELS, NEXT_TOKENS, OUTPUT, TOKENS, Batch, Place
from ninscope.neurons.observatory.places import Held, Places, entered_layers, places_of
from ninscope.neurons.tasks.files import one_line
from ninscope.neurons.watching import evaluation_mode

_FEW = 16  # tokens that say of a causal model of the library what it does
See = Callable[[Place, Tensor, Batch], None]
Change = Callable[[Tensor], Tensor]


class NothingLeft(Exception):
    """Raised by whoever is shown values, to end a pass: no measure needs more."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside what torch.compile, DataParallel or DistributedDataParallel made of it, which shares its weights."""
    inner = model.module if isinstance(model, DataParallel | DistributedDataParallel) else None
    inner = getattr(model, "_orig_mod", None) if inner is None else inner
    return unwrapped(inner) if isinstance(inner, nn.Module) else model


def vocabulary_of(model: nn.Module) -> int | None:
    """How many tokens a model knows, as its configuration says; None where that says nothing."""
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    return size if isinstance(size, int) else None


@contextmanager
def _uncompiled() -> Iterator[None]:
    """What was compiled runs as it was written meanwhile: compiled code sees no hooks, or tries to compile what they do."""
    if "torch._dynamo" not in sys.modules:  # nothing can be compiled then, and to import it takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


class Subject:
    """A model with its examples; whoever runs it does so inside `at_rest`.

    name: for messages. model: a torch module, on the device that its first parameter is on; of a wrapper the one inside. layers:
    names of modules whose outputs are hidden neurons (default: from the architecture). seed: of everything random.

    Raises RequestError: as `places_of`, a model without weights, or tokens that it does not know.
    """

    def __init__(
        self, name: str, model: nn.Module, examples: Examples, seed: int = 0, layers: Sequence[str] | None = None
    ) -> None:
        model = unwrapped(model)
        self.name, self.model, self.examples, self.seed = name, model, examples, seed
        if any(tensor.is_meta for tensor in model.parameters()):
            raise RequestError(f"{name} is on the device meta, where it has no weights; load them first")
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise RequestError(f"{name} is an encoder with a decoder, which nothing here runs; give one of the two")
        self.places: Places = places_of(model, layers)
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        vocabulary = vocabulary_of(model)
        if examples.kind == TOKENS_KIND and vocabulary is not None and examples.values.max() >= vocabulary:
            raise RequestError(
                f"{name}: the text has token {examples.values.max()}, and its vocabulary ends at {vocabulary - 1}; choose the "
                "tokenizer that it was trained with"
            )

    def with_examples(self, examples: Examples) -> Subject:
        """The same model on other examples."""
        same = copy(self)
        same.examples = examples
        for cached in ("has", "_output_shape"):
            same.__dict__.pop(cached, None)
        return same

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Evaluation mode, without dropout, and nothing compiled; afterwards every module has its own mode again."""
        with evaluation_mode(self.model), _uncompiled():
            yield

    # --- running it --------------------------------------------------------------------------------------------
    @torch.no_grad()
    def forward(self, batch: Batch) -> object:
        """What the model gives for a batch."""
        ((argument, values),) = batch.inputs.items()
        if values.is_floating_point():
            values = values.to(self._dtype)
        try:
            if argument not in self._arguments:
                return self.model(values)
            without = {"use_cache": False} if "use_cache" in self._arguments else {}
            return self.model(**{argument: values}, **without)
        except Exception as error:  # whatever a model's own code raises
            if isinstance(error, NinscopeError | NothingLeft | torch.OutOfMemoryError | MemoryError):
                raise
            raise RequestError(
                f"{self.name} cannot be run on these examples ({one_line(error)}); give what it takes"
            ) from error

    def run(self, kinds: Iterable[str], see: See, batches: Iterable[Batch] | None = None) -> None:
        """Forward passes over all batches. see(place, values, batch): called for each place of these kinds, as it is computed."""
        current: list[Batch] = []

        def show(place: Place, values: Tensor) -> None:
            see(place, _by_window(values, current[0]), current[0])

        with self.places.shown(tuple(kinds), show):
            for batch in self.batches() if batches is None else batches:
                current[:] = [batch]
                self.forward(batch)

    def batches(self) -> Iterator[Batch]:
        return self.examples.batches(self.device)

    def outputs(self, batch: Batch) -> Tensor:
        """float32 [n, t, vocabulary], or [n, 1, classes]."""
        seen: list[Tensor] = []
        with self.places.shown((OUTPUT,), lambda place, values: seen.append(values)):
            self.forward(batch)
        return seen[0].float()

    # --- losses ------------------------------------------------------------------------------------------------
    def losses(self, batch: Batch, logits: Tensor | None = None) -> Tensor:
        """Cross-entropy in nats: of each next token, float32 [n, t - 1], or of each sample's label, [n, 1].

        logits: of this batch, if they are there already. Raises RequestError: there is nothing to be predicted.
        """
        logits = self.outputs(batch) if logits is None else logits.float()
        if NEXT_TOKENS in self.has:
            targets = batch.inputs["input_ids"][:, 1:]
            flat = functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="none")
            return flat.view(targets.shape)
        if batch.labels is not None and logits.shape[1] == 1:
            if logits.shape[2] < len(self.examples.classes):
                raise RequestError(
                    f"{self.name} has {logits.shape[2]} outputs, and labels name {len(self.examples.classes)} classes; number "
                    "the classes as it does"
                )
            return functional.cross_entropy(logits[:, 0], batch.labels, reduction="none")[:, None]
        raise RequestError(f"{self.name} predicts neither next tokens nor labels; there is no loss")

    def mean_loss(self, changes: Mapping[str, Change] | None = None, batches: Iterable[Batch] | None = None) -> float:
        """Nats a token, or a sample. changes: as of `changed`. Raises CheckpointError (nonfinite): the outputs are not finite."""
        total, count = 0.0, 0
        with self.changed(changes or {}):
            for batch in self.batches() if batches is None else batches:
                losses = self.losses(batch)
                total, count = total + losses.double().sum().item(), count + losses.numel()
        if not total == total or total in (float("inf"), float("-inf")):
            raise CheckpointError("nonfinite", f"{self.name}: its outputs are not finite")
        return total / count

    def changed(self, changes: Mapping[str, Change]) -> AbstractContextManager:
        """Hidden layers hold what a function makes of their activations [n, t, neurons], of the same shape, meanwhile.

        Raises RequestError: no such layer.
        """
        return self.places.changed(changes)

    # --- what there is -----------------------------------------------------------------------------------------
    def places_of(self, *kinds: str) -> tuple[Place, ...]:
        return self.places.of(*kinds)

    @cached_property
    def hidden_layers(self) -> tuple[str, ...]:
        return tuple(place.layer for place in self.places.of(HIDDEN))

    @cached_property
    def has(self) -> frozenset[str]:
        """What of NEEDS there is."""
        found = set()
        if self.examples.kind == TOKENS_KIND:
            found.add(TOKENS)
            if self._predicts_next():
                found.add(NEXT_TOKENS)
        if self.examples.labels is not None:
            found.add(LABELS)
        return frozenset(found)

    def leaving(self, layer: str) -> Tensor:
        """Weights that leave a hidden layer, float32 [targets, neurons], a copy. Raises RequestError: there are none."""
        return torch.cat(self._weights(layer, self.places.leaving(layer), lambda block: block.source == layer))

    def entering(self, layer: str) -> list[Tensor]:
        """Weights that enter it, float32 [neurons, sources]: one, or gate and up. Raises RequestError: there are none."""
        targets = entered_layers(layer)
        return self._weights(layer, self.places.entering(layer), lambda block: block.target in targets)

    def _weights(self, layer: str, held: list[Held], is_one: Callable[[WeightBlock], bool]) -> list[Tensor]:
        """Those that modules hold; of experts, which have no modules, slices of the tensor that all of them share."""
        if held:
            return [one.weight() for one in held]
        network = self.places.network
        blocks = [] if network is None else [block for block in network.blocks if is_one(block)]
        if network is None or not blocks:
            raise RequestError(f"{self.name}: which weights {layer} has is not known")
        found = (block_weights(network.matrices[one.tensor], one, network.sizes[one.target]) for one in blocks)
        return [torch.from_numpy(np.asarray(weights[:, :, 0], np.float32)) for weights in found]

    @property
    def predicts(self) -> str | None:
        """What `losses` are of: "next tokens", "labels", or None for nothing."""
        if NEXT_TOKENS in self.has:
            return NEXT_TOKENS
        return LABELS if LABELS in self.has and self._output_shape[1] == 1 else None

    @cached_property
    def _output_shape(self) -> tuple[int, ...]:
        with self.at_rest():
            return tuple(self.outputs(next(self.batches())).shape)

    def head(self) -> Tensor | None:
        """The matrix that reads FEATURES and gives the outputs, float32 [classes or vocabulary, width]; None without one."""
        head = self.places.head()
        return None if head is None else head.get_parameter("weight").detach().float()

    def unembedding(self) -> Tensor | None:
        """[vocabulary, width] float32, as `Places.unembedding`."""
        return self.places.unembedding()

    def matrices(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight matrix of the network by the name that its blocks give it, as the model holds it; of a model that was
        read by module names, every parameter of two dimensions or more."""
        if self.places.network is None:
            yield from ((name, p.detach()) for name, p in self.model.named_parameters() if p.ndim > 1)
            return
        names = {one.tensor: None for one in self.places.network.blocks}
        saved = self.places.saved_tensors()
        for name in names:
            matrix = self.places.network.matrices[name]
            stored = saved[matrix.tensor.name]
            yield name, stored.detach()

    @property
    def _dtype(self) -> torch.dtype:
        floats = (p.dtype for p in self.model.parameters() if p.is_floating_point())
        return next(floats, torch.float32)

    @cached_property
    def _arguments(self) -> frozenset[str]:
        return frozenset(inspect.signature(self.model.forward).parameters)

    def _predicts_next(self) -> bool:
        """Whether outputs are of every position, over the whole vocabulary, and a token changes no output before it.

        Of the library's models those of a causal class alone: an encoder with small weights hardly looks ahead.
        """
        known = _is_causal(self.model)
        if known is False:
            return False
        batch = next(self.batches())
        one = {name: values[:1] for name, values in batch.inputs.items()}
        ids = one["input_ids"][:, : _FEW if known else None].clone()
        vocabulary = vocabulary_of(self.model)
        with self.at_rest():
            first = self.outputs(Batch(0, 0, {"input_ids": ids.clone()}))
            if first.ndim != 3 or first.shape[1] != ids.shape[1] or ids.shape[1] < 2:
                return False
            if first.shape[2] < (vocabulary or int(self.examples.values.max()) + 1):
                return False
            ids[0, -1] = 0 if int(ids[0, -1]) else 1
            second = self.outputs(Batch(0, 0, {"input_ids": ids}))
        off = (first - second).abs()[0].amax(-1)
        if not bool(torch.isfinite(off).all()):
            return known is True
        return bool(off[:-1].max() <= (1e-3 if known else 1e-5) * off[-1])


def _is_causal(model: nn.Module) -> bool | None:
    """What the class of a model of transformers says; None of what is none."""
    from transformers import PreTrainedModel
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    if not isinstance(model, PreTrainedModel):
        return None
    named = [name for names in NAMES.values() for name in ([names] if isinstance(names, str) else names)]
    return type(model).__name__ in named


def _by_window(values: Tensor, batch: Batch) -> Tensor:
    """[n, t, features] of what a module was given as [n * t, features], as OPT's are."""
    if batch.tokens is None or values.ndim != 3 or values.shape[:2] != (batch.tokens.numel(), 1):
        return values
    return values.view(*batch.tokens.shape, values.shape[-1])
