"""Weights that were packed into a few bits are not what their tensors hold: they are refused, never measured."""

from collections.abc import Iterable, Mapping

from ninscope.errors import CheckpointError

# What quantisation libraries call the tensors beside packed weights: GPTQ, AWQ, compressed-tensors, bitsandbytes, fp8.
_MARKS = (
    ".qweight", ".qzeros", ".g_idx", ".weight_packed", ".SCB", ".absmax", ".weight_scale", ".weight_scale_inv",
)  # fmt: skip
_ADVICE = "packed numbers cannot be measured, use the unquantised checkpoint"


def check_plain(config: Mapping, tensors: Iterable[str]) -> None:
    """Raises CheckpointError (unsupported) where the configuration, or a tensor's name, shows that weights are quantised."""
    settings = config.get("quantization_config")
    if settings:
        method = settings.get("quant_method", settings.get("quant_type")) if isinstance(settings, Mapping) else None
        named = f" ({method})" if isinstance(method, str) and method.isprintable() else ""
        raise CheckpointError("unsupported", f"config.json: its weights are quantised{named}; {_ADVICE}")
    mark = next((name for name in tensors if name.endswith(_MARKS)), None)
    if mark is not None:
        raise CheckpointError("unsupported", f"tensor {mark} shows that the weights are quantised; {_ADVICE}")
