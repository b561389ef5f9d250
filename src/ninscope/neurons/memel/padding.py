"""What in a batch is padding: from a model's own arguments, for all layers of the forward pass that is going on."""

import inspect
from collections.abc import Mapping
from typing import Any, TypeGuard

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ninscope.errors import RequestError

# Arguments [samples, tokens] by the names that transformers and torch give them, and whether nonzero says that a token is padding.
_MASKS = {"attention_mask": False, "src_key_padding_mask": True, "key_padding_mask": True}
_DECODER_MASKS = {"decoder_attention_mask": False, "tgt_key_padding_mask": True}


def is_floating(value: object) -> TypeGuard[Tensor]:
    """Whether this can be activations: a tensor of floats with a batch dimension and at least one more."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1


class Padding:
    """Hooks before and after a model, and the masks that they know between.

    A model whose forward names no mask may hand a mask on all the same, as DistributedDataParallel and wrappers do. Then the
    outermost modules in it that do name a mask tell it, each from its own call on; the mask that the model itself is given by
    name holds where they are given none.
    """

    def __init__(self, model: nn.Module) -> None:
        self.names = _arguments(model)
        self.inner = {} if _names_mask(self.names) else _outermost(model)
        self.passing = self.mask_known = False
        self.has_decoder = False
        self.source = ""  # the module inside the model that the masks are from
        self.mask: Tensor | None = None
        self.decoder_mask: Tensor | None = None

    def hook(self, model: nn.Module) -> list[RemovableHandle]:
        """Register the hooks; returns what removes them."""
        return [
            model.register_forward_pre_hook(self.before, with_kwargs=True),
            model.register_forward_hook(self.after, always_call=True),
            *(
                model.get_submodule(name).register_forward_pre_hook(_MaskReader(self, name, names), with_kwargs=True)
                for name, names in self.inner.items()
            ),
        ]

    def before(self, model: nn.Module, arguments: tuple, named: dict) -> None:
        self.take(self.names, dict(zip(self.names, arguments, strict=False)) | named)
        self.passing, self.mask_known = True, self.mask is not None or self.decoder_mask is not None

    def after(self, model: nn.Module, arguments: tuple, output: object) -> None:
        self.mask = self.decoder_mask = None
        self.passing = self.mask_known = False

    def take(self, names: list[str], given: dict, source: str = "") -> None:
        self.source = source
        self.has_decoder = any(name in _DECODER_MASKS for name in names)
        self.mask, self.decoder_mask = _counting(given, _MASKS), _counting(given, _DECODER_MASKS)

    def of(self, layer: str, h: Tensor) -> Tensor | None:
        """True where activations of a layer count, bool [samples, tokens]; None: everywhere. Raises RequestError: activations that
        are not of these samples and tokens."""
        mask = self.decoder_mask if self.has_decoder and "decoder" in layer else self.mask
        if mask is None or (h.ndim == 2 and len(h) == len(mask)):  # one vector a sample, which is no padding
            return None
        if h.ndim > 2 and mask.shape == h.shape[:2]:
            return mask
        if self.source and not f"{layer}.".startswith(f"{self.source}."):
            return None  # of other tokens than those of the module that was given it, which has ended
        raise RequestError(
            f"{layer}: the attention mask is of shape {tuple(mask.shape)} and activations of {tuple(h.shape)}, whose first two "
            "dimensions are not samples and tokens; take other layers, or batches without a mask"
        )


def _counting(given: Mapping[str, Any], masks: Mapping[str, bool]) -> Tensor | None:
    """True where a token counts, by the first of these masks that is [samples, tokens]."""
    for name, marks_padding in masks.items():
        mask = given.get(name)
        if isinstance(mask, Tensor) and mask.ndim == 2:
            return mask == 0 if marks_padding else mask != 0
    return None


class _MaskReader:
    """Before a module inside the model: reads the mask that the module is given."""

    def __init__(self, padding: Padding, name: str, names: list[str]) -> None:
        self.padding, self.name, self.names = padding, name, names

    def __call__(self, module: nn.Module, arguments: tuple, named: dict) -> None:
        padding, given = self.padding, _with_token_masks(dict(zip(self.names, arguments, strict=False)) | named)
        tells = any(_counting(given, masks) is not None for masks in (_MASKS, _DECODER_MASKS))
        # A mask of keys says nothing of the output, whose tokens are the queries'.
        if padding.passing and given.get("key") is given.get("query") and (tells or not padding.mask_known):
            padding.take(self.names, given, self.name)


def _with_token_masks(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments without masks of other samples and tokens than the tensors beside them have: an inner module may call
    `attention_mask` what says which token sees which."""
    masks = {name for name in given if name in _MASKS or name in _DECODER_MASKS}
    sizes = [value.shape[:2] for name, value in given.items() if isinstance(value, Tensor) and name not in masks]
    return {name: value for name, value in given.items() if name not in masks or getattr(value, "shape", None) in sizes}


def _arguments(module: nn.Module) -> list[str]:
    try:
        return list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):  # compiled modules tell none
        return []


def _names_mask(names: list[str]) -> bool:
    return any(name in _MASKS or name in _DECODER_MASKS for name in names)


def _outermost(model: nn.Module) -> dict[str, list[str]]:
    """The outermost modules whose forward names a mask, with the names of its arguments."""
    outermost: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in outermost)
        if name and not inside and _names_mask(names := _arguments(module)):
            outermost[name] = names
    return outermost
