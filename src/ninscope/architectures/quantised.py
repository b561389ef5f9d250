"""Weights that were packed into a few bits are not what their tensors hold: they are refused, never measured."""

from collections.abc import Iterable, Mapping

from ninscope.errors import CheckpointError

# How quantisation libraries call what stands beside packed weights: GPTQ, AWQ, compressed-tensors, bitsandbytes, fp8.
_MARKS = (
    ".qweight", ".qzeros", ".g_idx", ".weight_packed", ".SCB", ".absmax", ".weight_scale", ".weight_scale_inv",
)  # fmt: skip


def check_plain(config: Mapping, tensors: Iterable[str]) -> None:
    """Raises CheckpointError (unsupported), with the reason, where the configuration or a tensor's name tells of quantisation."""
    asked = config.get("quantization_config")
    if asked:
        method = asked.get("quant_method", asked.get("quant_type")) if isinstance(asked, Mapping) else None
        named = f" ({method})" if isinstance(method, str) and method.isprintable() else ""
        raise CheckpointError(
            "unsupported",
            f"config.json: its weights are quantised{named}, and packed numbers are no weights; name the unquantised checkpoint",
        )
    found = next((name for name in tensors if name.endswith(_MARKS)), None)
    if found is not None:
        raise CheckpointError(
            "unsupported",
            f"tensor {found} tells of quantised weights, and packed numbers are no weights; name the unquantised checkpoint",
        )
