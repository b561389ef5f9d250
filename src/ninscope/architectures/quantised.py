"""Weights that were packed into a few bits are not what their tensors hold: they are refused, never measured.

The tensors decide where they are known: a configuration may still state the quantisation that a model was loaded with, or trained
for, beside weights that are plain floats again.
"""

from collections.abc import Mapping

from ninscope.checkpoints.tensors import STORED_TYPES, Tensor
from ninscope.errors import CheckpointError

# What quantisation libraries call packed weights, or tensors beside them: MXFP4, GPTQ, AWQ, compressed-tensors, bitsandbytes, fp8.
_MARKS = (
    "_proj_blocks", ".qweight", ".qzeros", ".g_idx", ".weight_packed", ".SCB", ".absmax", ".weight_scale", ".weight_scale_inv",
)  # fmt: skip
_ADVICE = "packed numbers cannot be measured, use the unquantised checkpoint"
_MXFP4_ADVICE = "packed numbers cannot be measured; load it with transformers' Mxfp4Config(dequantize=True) and save it"


_TABLES = ("I64", "BOOL")  # positions and masks; nothing is packed into these


def check_plain(config: Mapping, tensors: Mapping[str, Tensor] | None) -> str:
    """What is to be said of plain weights whose configuration states a quantisation, one clause; empty where it states none.

    tensors: the checkpoint's; where they are not known (None) the configuration is believed.
    Raises CheckpointError (unsupported) where weights are quantised.
    """
    mark = next((name for name in tensors or () if name.endswith(_MARKS)), None)
    settings = config.get("quantization_config")
    if settings:
        method = settings.get("quant_method", settings.get("quant_type")) if isinstance(settings, Mapping) else None
        named = f" ({method})" if isinstance(method, str) and method.isprintable() else ""
        packed = mark or next((name for name, tensor in (tensors or {}).items() if _is_packed(tensor)), None)
        if packed is None and tensors:
            return f"config.json states a quantisation{named}, but every tensor holds plain floats"
        shown = f", and tensor {packed} shows it" if packed is not None else ""
        raise CheckpointError("unsupported", f"config.json: its weights are quantised{named}{shown}; {_advice(packed)}")
    if mark is not None:
        raise CheckpointError("unsupported", f"tensor {mark} shows that the weights are quantised; {_advice(mark)}")
    return ""


def _advice(packed: str | None) -> str:
    return _MXFP4_ADVICE if packed is not None and packed.endswith(("_proj_blocks", "_proj_scales")) else _ADVICE


def _is_packed(tensor: Tensor) -> bool:
    """Whether it may hold packed weights: a matrix of something other than floats."""
    return len(tensor.shape) > 1 and tensor.dtype not in (*STORED_TYPES, *_TABLES)
