"""Read and write sparse autoencoders: folders of SAELens 6, and the files of Gemma Scope. Needs no torch; no pickle is read.

A folder of SAELens holds cfg.json and sae_weights.safetensors. Its training states are other files (`TrainingSAE.save_model`):
what is read here is what `save_inference_model` or `SAE.save_model` wrote. Such saves of batchtopk and matryoshka_batchtopk have
the architecture jumprelu, one threshold for all features, and the decoder's norms folded into the encoder; those of topk are
folded too, and keep their k. `about["message"]` says which of this was found.

Numbers are computed in float32, whatever type is stored. SAELens itself computes in the type that cfg.json states.
"""

import json
import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from ninscope.checkpoints.formats.safetensors import open_tensors
from ninscope.checkpoints.formats.weight_file import TensorEntry, WeightFile
from ninscope.checkpoints.local import LocalFile
from ninscope.checkpoints.tensors import STORED_TYPES, as_float
from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.polysemanticity.gemma_scope import NPZ_NAME, load_gemma_scope
from ninscope.neurons.polysemanticity.sparse_autoencoders import (
    KINDS,
    NORMALISATIONS,
    SparseAutoencoder,
    check_shapes,
    check_width,
    checked_finite,
    decoder_norms,
)
from ninscope.wording import first_names

CONFIG_NAME, WEIGHTS_NAME = "cfg.json", "sae_weights.safetensors"
MAX_CONFIG_BYTES = 1_000_000
LAYOUT_VERSION = "6.0.0"  # of SAELens, whose layout is written
_DEEPEST, _MOST_FOUND = 3, 100  # folders below the one that was given, and how many of a depth are looked at
_IN_TRAINING = ("batchtopk", "matryoshka_batchtopk")


def load_sparse_autoencoder(path: str | Path, width: int | None = None) -> SparseAutoencoder:
    """The autoencoder in a folder of SAELens 6 or Gemma Scope (with cfg.json, or params.npz), or in an .npz file of Gemma Scope.

    width: number of neurons of the layer that it should fit; checked before any weight is read. about: format, architecture,
    stored_type, decoder_norms, message (what was done to the weights), metadata (of cfg.json: hook_name, model_name and others).

    Gemma Scope's autoencoders of embeddings are read as stored; SAELens divides W_enc by sqrt(width) and multiplies W_dec by it.

    Raises RequestError: there is no such file or folder, or the autoencoder has another width. CheckpointError: corrupt (a tensor
    is absent or has another shape, sizes disagree), nonfinite, unsupported (another architecture, a transcoder, activations scaled
    by a factor that is not in the file, a version before 6).
    """
    folder = Path(path).expanduser()
    if folder.suffix == ".npz" and folder.is_file():
        return load_gemma_scope(folder, width)
    if (folder / CONFIG_NAME).is_file():
        return _load_folder(folder, width)
    if (folder / NPZ_NAME).is_file():
        return load_gemma_scope(folder / NPZ_NAME, width)
    raise RequestError(f"{folder} {_why_not(folder)}")


def save_sparse_autoencoder(autoencoder: SparseAutoencoder, folder: str | Path) -> Path:
    """Write cfg.json and sae_weights.safetensors (float32) as SAELens 6 does; both it and `load_sparse_autoencoder` read them.

    metadata of cfg.json is about["metadata"]. Returns the folder. Files of these names are replaced. Raises RequestError: the
    metadata are no table that JSON can hold, the folder is a file or lies in one.
    """
    folder = Path(folder).expanduser()
    metadata = autoencoder.about.get("metadata", {})
    if not isinstance(metadata, Mapping):
        raise RequestError(
            f'about["metadata"] is a {type(metadata).__name__}; a table of names and values was expected'
        )
    config: dict[str, Any] = {
        "architecture": autoencoder.kind,
        "d_in": autoencoder.width,
        "d_sae": autoencoder.features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": autoencoder.centred,
        "normalize_activations": autoencoder.normalisation,
        "reshape_activations": "none",
        "metadata": dict(metadata) | {"sae_lens_version": LAYOUT_VERSION},
    }
    if autoencoder.kind == "topk":
        config |= {"k": autoencoder.k, "rescale_acts_by_decoder_norm": False}
    try:
        written = json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise RequestError(
            f'about["metadata"] cannot be written as JSON: {error}; leave out what it cannot hold'
        ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise RequestError(f"{folder} is a file, or lies in one; give a folder to write to") from None
    (folder / CONFIG_NAME).write_text(written, encoding="utf-8")
    (folder / WEIGHTS_NAME).write_bytes(save(autoencoder.tensors))  # save_file makes files that nobody else may read
    return folder


def _why_not(folder: Path) -> str:
    """Why there is no autoencoder at a path, and what to give instead: in words."""
    what = f"a folder of SAELens 6 with {CONFIG_NAME}, or {NPZ_NAME} of Gemma Scope"
    if folder.is_file():
        return f"is a file; give the folder that it is in: {what}"
    if not folder.is_dir():
        return f"is not there; give {what} (nothing is downloaded: fetch it first)"
    below = _autoencoders_below(folder)
    if below:
        return f"holds neither {CONFIG_NAME} nor {NPZ_NAME}; choose a folder inside it: {first_names(below)}"
    return f"holds neither {CONFIG_NAME} nor {NPZ_NAME}; give {what}"


def _autoencoders_below(folder: Path) -> list[str]:
    """Folders with autoencoders, relative to a folder that holds several, as the repositories of SAELens and Gemma Scope do."""
    found: list[str] = []
    for depth in range(1, _DEEPEST + 1):
        for name in (CONFIG_NAME, NPZ_NAME):
            files = islice(folder.glob("/".join(["*"] * depth + [name])), _MOST_FOUND)
            found += [str(file.parent.relative_to(folder)) for file in files]
    return sorted(found)


def _load_folder(folder: Path, width: int | None) -> SparseAutoencoder:
    config = _read_config(folder)
    name = f"{folder.name}/{WEIGHTS_NAME}"
    kind = _checked_kind(config, folder.name)
    if not (folder / WEIGHTS_NAME).is_file():
        raise CheckpointError("missing", f"{name} is not there; fetch it beside {CONFIG_NAME}")
    entries, file = open_tensors(LocalFile(folder / WEIGHTS_NAME, name))
    _check_entries(entries, config, kind, name)
    check_width(entries["W_enc"].shape[0], width, folder.name)
    tensors = {key: _read(entry, file, name) for key, entry in entries.items()}
    stored_norms, types = decoder_norms(tensors["W_dec"]), sorted({entry.dtype for entry in entries.values()})
    folded_here = kind == "topk" and config.get("rescale_acts_by_decoder_norm", False) and stored_norms != "all 1"
    if folded_here:
        tensors = _folded(tensors)
    metadata = config.get("metadata", {})
    about = {
        "format": f"SAELens {metadata['sae_lens_version']}",
        "architecture": config["architecture"],
        "stored_type": ", ".join(types),
        "decoder_norms": decoder_norms(tensors["W_dec"]),
        "message": _message(kind, tensors, metadata, stored_norms, folded_here),
        "metadata": metadata,
    }
    return SparseAutoencoder.of_tensors(
        tensors,
        kind,
        k=config.get("k") if kind == "topk" else None,
        centred=config.get("apply_b_dec_to_input", True),
        normalisation=config.get("normalize_activations", "none"),
        about=about,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    """cfg.json, which has metadata of a version 6 or later. Raises CheckpointError."""
    name = f"{folder.name}/{CONFIG_NAME}"
    try:
        with open(folder / CONFIG_NAME, "rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
        config = json.loads(raw) if len(raw) <= MAX_CONFIG_BYTES else None
    except OSError as error:
        raise CheckpointError("missing", f"{name}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise CheckpointError("corrupt", f"{name}: a JSON object of at most {MAX_CONFIG_BYTES} bytes was expected")
    metadata = config.get("metadata")
    version = metadata.get("sae_lens_version") if isinstance(metadata, dict) else None
    major = re.match(r"(\d{1,4})\.", version) if isinstance(version, str) else None
    if major is None or int(major[1]) < 6:
        raise CheckpointError(
            "unsupported",
            f"{name}: no metadata.sae_lens_version of 6 or later; load it by sae-lens 6 (SAE.load_from_disk) and save_model it",
        )
    return config


def _checked_kind(config: Mapping[str, Any], name: str) -> str:
    """The kind of a cfg.json whose settings are all understood. Raises CheckpointError."""

    def unsupported(problem: str) -> CheckpointError:
        return CheckpointError("unsupported", f"{name}/{CONFIG_NAME}: {problem}")

    kind = config.get("architecture")
    if kind in _IN_TRAINING:
        raise unsupported(f"architecture {kind} is a training state; save it by save_inference_model")
    if isinstance(kind, str) and "transcoder" in kind:
        raise unsupported(
            f"architecture {kind} writes to another layer than it reads; give an autoencoder of one layer"
        )
    if kind not in KINDS:
        raise unsupported(f"architecture {kind!r} is unknown; one of {', '.join(KINDS)} can be read")
    normalisation = config.get("normalize_activations", "none")
    if normalisation not in NORMALISATIONS:
        raise unsupported(
            f"normalize_activations is {normalisation!r}, of which the file has no numbers; fold them into the weights "
            "in sae-lens (fold_activation_norm_scaling_factor, fold_activation_whitening) and save again"
        )
    if config.get("reshape_activations", "none") not in ("none", "hook_z"):
        raise unsupported(f"reshape_activations is {config['reshape_activations']!r}; none or hook_z was expected")
    for key in ("apply_b_dec_to_input", "rescale_acts_by_decoder_norm"):
        if not isinstance(config.get(key, False), bool):
            raise unsupported(f"{key} is {config[key]!r}; true or false was expected")
    if kind == "topk" and (type(config.get("k")) is not int or config["k"] < 1):
        raise unsupported(f"k is {config.get('k')!r}; a positive number of features was expected")
    return kind


def _check_entries(entries: Mapping[str, TensorEntry], config: Mapping[str, Any], kind: str, name: str) -> None:
    """Types and shapes, before any number is read. Raises CheckpointError."""
    for key, entry in entries.items():
        if entry.dtype not in STORED_TYPES:
            raise CheckpointError(
                "unsupported", f"{name}: {key} is of type {entry.dtype}; F16, BF16, F32 or F64 can be read"
            )
    stated = [config.get("d_in"), config.get("d_sae")]
    encoder = entries.get("W_enc")
    if encoder is None or 0 in encoder.shape or list(encoder.shape) != stated:
        found = "is absent" if encoder is None else f"has shape {list(encoder.shape)}"
        raise CheckpointError("corrupt", f"{name}: W_enc {found}; {CONFIG_NAME} states d_in and d_sae {stated}")
    try:
        check_shapes({key: entry.shape for key, entry in entries.items()}, kind)
    except RequestError as error:
        raise CheckpointError("corrupt", f"{name}: {error}") from None
    if kind == "topk" and config["k"] > encoder.shape[1]:
        raise CheckpointError("corrupt", f"{name}: k is {config['k']}, more than its {encoder.shape[1]} features")


def _read(entry: TensorEntry, file: WeightFile, name: str) -> np.ndarray:
    """One tensor, float32. Raises CheckpointError (nonfinite)."""
    (content,) = file.read_ranges([(entry.start, entry.stop)])
    stored = np.frombuffer(content, STORED_TYPES[entry.dtype]).reshape(entry.shape)
    return checked_finite(as_float(stored, entry.dtype), f"{name}: {entry.name}")


def _folded(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A topk autoencoder whose largest features are chosen by p times the decoder's norm, as one with a decoder of norm 1."""
    norms = np.linalg.norm(tensors["W_dec"].astype(np.float64), axis=1)
    folded = {
        "W_enc": tensors["W_enc"] * norms,
        "b_enc": tensors["b_enc"] * norms,
        "W_dec": tensors["W_dec"] / np.where(norms > 0, norms, 1)[:, None],
    }
    return {key: folded.get(key, tensor).astype(np.float32) for key, tensor in tensors.items()}


def _message(
    kind: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any], stored_norms: str, folded_here: bool
) -> str:
    """What was done to the weights, in one line."""
    trained = metadata.get("training_architecture")
    words = f"read as {kind}"
    if trained in _IN_TRAINING and kind == "jumprelu":
        thresholds = np.unique(tensors["threshold"])
        one = (
            f"one threshold, {thresholds[0]:.4g}, for all features" if len(thresholds) == 1 else "a threshold a feature"
        )
        words += f" with {one}; trained as {trained}"
    if folded_here:
        return f"{words}; its decoder's rows had lengths {stored_norms}, which were folded into the encoder when it was read"
    if stored_norms == "all 1":
        return f"{words}; its decoder's rows have length 1, so any norms are in the encoder"
    return f"{words}; its decoder's rows have lengths {stored_norms}, not folded into the encoder"
