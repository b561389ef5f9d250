"""What of a batch is padding: from a model's own arguments, for all layers of the forward pass that is going on."""

import inspect

from torch import Tensor, nn

from ninscope.errors import RequestError

# Arguments [samples, tokens] by the names that transformers and torch give them, and whether nonzero says that a token is padding.
_MASKS = {"attention_mask": False, "src_key_padding_mask": True, "key_padding_mask": True}
_DECODER_MASKS = {"decoder_attention_mask": False, "tgt_key_padding_mask": True}


def is_floating(value) -> bool:
    """Whether this can be activations: a tensor of floats with a batch dimension and at least one more."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1


class Padding:
    """Two hooks of a model, before and after it, and what they know between."""

    def __init__(self, model: nn.Module):
        self.names = list(inspect.signature(model.forward).parameters)
        self.has_decoder = any(name in _DECODER_MASKS for name in self.names)
        self.mask: Tensor | None = None
        self.of_decoder: Tensor | None = None

    def before(self, model: nn.Module, arguments: tuple, named: dict) -> None:
        given = dict(zip(self.names, arguments, strict=False)) | named
        self.mask, self.of_decoder = _counting(given, _MASKS), _counting(given, _DECODER_MASKS)

    def after(self, model: nn.Module, arguments: tuple, output) -> None:
        self.mask = self.of_decoder = None

    def of(self, layer: str, h: Tensor) -> Tensor | None:
        """True where activations of a layer count, bool [samples, tokens]; None: everywhere. Raises RequestError: activations that
        are not of these samples and tokens."""
        mask = self.of_decoder if self.has_decoder and "decoder" in layer else self.mask
        if mask is None or (h.ndim == 2 and len(h) == len(mask)):  # one vector a sample, which is no padding
            return None
        if h.ndim > 2 and mask.shape == h.shape[:2]:
            return mask
        raise RequestError(
            f"{layer}: the attention mask is of shape {tuple(mask.shape)} and activations of {tuple(h.shape)}, whose first two "
            "dimensions are not samples and tokens; take other layers, or batches without a mask"
        )


def _counting(given: dict, masks: dict[str, bool]) -> Tensor | None:
    for name, of_padding in masks.items():
        mask = given.get(name)
        if isinstance(mask, Tensor) and mask.ndim == 2:
            return mask == 0 if of_padding else mask != 0
    return None
