"""Sparse autoencoders: files of the real sae-lens against its own numbers, Gemma Scope's layout, files that do not fit."""

import io
import json
import re
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.polysemanticity import gemma_scope
from ninscope.neurons.polysemanticity.sparse_autoencoder_files import (
    load_sparse_autoencoder,
    save_sparse_autoencoder,
)
from ninscope.neurons.polysemanticity.sparse_autoencoders import SparseAutoencoder

FILES = Path(__file__).parents[1] / "data" / "sparse-autoencoders"
EXPECTED = load_file(FILES / "expected.safetensors")
READ = sorted(name.removesuffix("/features") for name in EXPECTED if name.endswith("/features"))
WEIGHTS = "sae_weights.safetensors"


# --- files of sae-lens --------------------------------------------------------------------------------------
def test_every_architecture_is_among_the_files():
    assert len(READ) == 12
    kinds = {json.loads((FILES / name / "cfg.json").read_text())["architecture"] for name in READ}
    assert kinds == {"standard", "jumprelu", "topk", "gated"}


@pytest.mark.parametrize("name", READ)
def test_features_and_reconstructions_are_those_of_sae_lens(name):
    autoencoder = load_sparse_autoencoder(FILES / name, width=6)
    activations = EXPECTED["activations"]
    features = autoencoder.encode(activations)
    np.testing.assert_allclose(features, EXPECTED[f"{name}/features"], atol=1e-6)
    np.testing.assert_array_equal(features > 0, EXPECTED[f"{name}/features"] > 0)
    np.testing.assert_allclose(
        autoencoder.decode(features, activations), EXPECTED[f"{name}/reconstruction"], atol=1e-6, rtol=1e-6
    )
    assert (autoencoder.width, autoencoder.features, autoencoder.directions.shape) == (6, 8, (8, 6))
    assert autoencoder.about["metadata"]["hook_name"] == "blocks.0.mlp.hook_post"
    assert autoencoder.about["stored_type"] == ("BF16" if name == "standard-bfloat16" else "F32")


@pytest.mark.parametrize("name", READ)
def test_what_is_written_is_read_again(name, tmp_path):
    first = load_sparse_autoencoder(FILES / name)
    again = load_sparse_autoencoder(save_sparse_autoencoder(first, tmp_path / "copy"))
    for key, tensor in first.tensors.items():
        np.testing.assert_array_equal(again.tensors[key], tensor)
    fields = ("kind", "k", "centred", "normalisation")
    assert [getattr(again, key) for key in fields] == [getattr(first, key) for key in fields]
    assert again.about["metadata"]["hook_name"] == "blocks.0.mlp.hook_post"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("standard", r"read as standard; its decoder's rows have lengths 0\.\d+ to \d.*, not folded"),
        ("topk", r"read as topk; its decoder's rows have length 1, so any norms are in the encoder"),
        ("topk-not-rescaled", r"read as topk; its decoder's rows have lengths .*, not folded into the encoder"),
        ("topk-training", r"read as topk; its decoder's rows had lengths .*, which were folded .* when it was read"),
        ("batchtopk", r"read as jumprelu with one threshold, 0\.\d+, for all features; trained as batchtopk;"),
        ("matryoshka", r"read as jumprelu with one threshold, .*; trained as matryoshka_batchtopk;"),
    ],
)
def test_what_was_folded_is_said(name, message):
    assert re.match(message, load_sparse_autoencoder(FILES / name).about["message"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("batchtopk-training", "architecture batchtopk is a training state; save it by save_inference_model"),
        ("transcoder", "architecture transcoder writes to another layer than it reads; give an autoencoder of one"),
    ],
)
def test_what_else_sae_lens_writes_is_refused(name, message):
    with pytest.raises(CheckpointError, match=message) as raised:
        load_sparse_autoencoder(FILES / name)
    assert raised.value.status == "unsupported"


# --- folders that are not as they should be -----------------------------------------------------------------
def changed(tmp_path, name, tensors=None, **settings):
    """A copy of a folder with other settings, or tensors; None takes one out."""
    folder = tmp_path / name
    shutil.copytree(FILES / name, folder)
    config = json.loads((folder / "cfg.json").read_text()) | settings
    (folder / "cfg.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    if tensors:
        kept = load_file(folder / WEIGHTS) | tensors
        save_file({key: tensor for key, tensor in kept.items() if tensor is not None}, folder / WEIGHTS)
    return folder


SETTINGS = [
    ({"architecture": "temporal"}, "unsupported", "architecture 'temporal' is unknown; one of standard, jumprelu"),
    ({"architecture": None}, "unsupported", "architecture None is unknown"),
    ({"architecture": ["standard"]}, "unsupported", "is unknown"),
    ({"normalize_activations": "expected_average_only_in"}, "unsupported", "of which the file has no numbers; fold"),
    ({"normalize_activations": {}}, "unsupported", "normalize_activations is {}"),
    ({"reshape_activations": "other"}, "unsupported", "reshape_activations is 'other'"),
    ({"apply_b_dec_to_input": "yes"}, "unsupported", "apply_b_dec_to_input is 'yes'; true or false"),
    ({"metadata": {"sae_lens_version": "5.10.1"}}, "unsupported", "no metadata.sae_lens_version of 6 or later"),
    ({"metadata": None}, "unsupported", "no metadata.sae_lens_version of 6 or later"),
    ({"d_in": 7}, "corrupt", r"W_enc has shape \[6, 8\]; cfg.json states d_in and d_sae \[7, 8\]"),
    ({"d_sae": True}, "corrupt", "cfg.json states d_in and d_sae"),
]


@pytest.mark.parametrize(("settings", "status", "message"), SETTINGS)
def test_settings_that_are_not_understood_are_refused(tmp_path, settings, status, message):
    with pytest.raises(CheckpointError, match=message) as raised:
        load_sparse_autoencoder(changed(tmp_path, "standard", **settings))
    assert raised.value.status == status


@pytest.mark.parametrize("k", [0, None, 2.5, True, 9])
def test_a_k_that_no_topk_can_have(tmp_path, k):
    with pytest.raises(CheckpointError, match=r"k is .*; a positive number|k is 9, more than its 8 features"):
        load_sparse_autoencoder(changed(tmp_path, "topk", k=k))


def with_one_nan():
    tensor = load_file(FILES / "standard" / WEIGHTS)["W_dec"]
    tensor[3, 2] = np.nan
    return tensor


TENSORS = [
    ("standard", {"W_dec": None}, "corrupt", "W_dec is absent; a standard autoencoder has"),
    ("standard", {"W_enc": None}, "corrupt", "W_enc is absent"),
    ("jumprelu", {"threshold": None}, "corrupt", "threshold is absent; a jumprelu autoencoder has"),
    ("gated", {"r_mag": None}, "corrupt", "r_mag is absent; a gated autoencoder has"),
    ("standard", {"W_dec": np.ones((8, 4), np.float32)}, "corrupt", r"W_dec has shape \[8, 4\]; \[8, 6\] was expected"),
    ("standard", {"b_enc": np.ones((8, 1), np.float32)}, "corrupt", r"b_enc has shape \[8, 1\]; \[8\] was expected"),
    ("standard", {"W_enc": np.ones((0, 8), np.float32)}, "corrupt", r"W_enc has shape \[0, 8\]"),
    ("standard", {"scale": np.ones(8, np.float32)}, "corrupt", "scale is there; a standard autoencoder has"),
    ("standard", {"b_dec": np.ones(6, np.int32)}, "unsupported", "b_dec is of type I32; F16, BF16, F32 or F64"),
    ("standard", {"W_dec": with_one_nan()}, "nonfinite", "W_dec holds NaN or infinity"),
    ("standard", {"b_enc": np.full(8, 1e300)}, "nonfinite", "b_enc holds NaN or infinity"),
]


@pytest.mark.parametrize(("name", "tensors", "status", "message"), TENSORS)
def test_tensors_that_do_not_fit_are_refused(tmp_path, name, tensors, status, message):
    with pytest.raises(CheckpointError, match=message) as raised:
        load_sparse_autoencoder(changed(tmp_path, name, tensors))
    assert raised.value.status == status
    assert f"{name}/{WEIGHTS}" in str(raised.value)


def test_an_autoencoder_of_another_width_is_refused_before_weights_are_read(tmp_path):
    folder = changed(tmp_path, "standard", {"W_dec": with_one_nan()})
    with pytest.raises(RequestError, match="standard: the autoencoder reads 6 neurons and the layer has 384; choose"):
        load_sparse_autoencoder(folder, width=384)


def test_files_that_are_absent_or_cut_short(tmp_path):
    with pytest.raises(RequestError, match=r"nowhere is not there; give a folder of SAELens 6 .* fetch it first"):
        load_sparse_autoencoder(tmp_path / "nowhere")
    with pytest.raises(RequestError, match=r"holds neither cfg.json nor params.npz; give a folder of SAELens 6"):
        load_sparse_autoencoder(tmp_path)
    folder = changed(tmp_path, "standard")
    with pytest.raises(RequestError, match=rf"{WEIGHTS} is a file; give the folder that it is in"):
        load_sparse_autoencoder(folder / WEIGHTS)
    with pytest.raises(RequestError, match=r"neither cfg.json nor params.npz; choose a folder inside it: standard$"):
        load_sparse_autoencoder(folder.parent)
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-5])
    with pytest.raises(CheckpointError, match=f"standard/{WEIGHTS}: truncated"):
        load_sparse_autoencoder(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=f"standard/{WEIGHTS} is not there; fetch it beside cfg.json"):
        load_sparse_autoencoder(folder)


@pytest.mark.parametrize("text", ["", "[]", "{" * 100_000, '{"a": ' * 50_000, "x" * 1_000_001], ids=len)
def test_a_config_that_is_none(tmp_path, text):
    (tmp_path / "cfg.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"cfg.json: a JSON object of at most 1000000 bytes was expected"):
        load_sparse_autoencoder(tmp_path)


# --- Gemma Scope --------------------------------------------------------------------------------------------
def gemma(rng, width=6, features=8):
    arrays = {"W_enc": rng.standard_normal((width, features)), "W_dec": rng.standard_normal((features, width))}
    arrays |= {"b_enc": rng.standard_normal(features), "b_dec": rng.standard_normal(width)}
    arrays["threshold"] = np.abs(rng.standard_normal(features))
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_gemma_scopes_layout(rng, tmp_path, save, order):
    """params.npz as its authors describe it: a = (x W_enc + b_enc), f = a where a > threshold, x' = f W_dec + b_dec."""
    arrays = gemma(rng)
    folder = tmp_path / "average_l0_71"
    folder.mkdir()
    save(folder / "params.npz", **{name: np.asarray(array, order=order) for name, array in arrays.items()})
    x = rng.standard_normal((5, 6))
    p = x @ arrays["W_enc"] + arrays["b_enc"]
    f = np.maximum(p, 0) * (p > arrays["threshold"])
    for path in (folder, folder / "params.npz"):
        autoencoder = load_sparse_autoencoder(path, width=6)
        np.testing.assert_allclose(autoencoder.encode(x), f, atol=1e-5)
        np.testing.assert_allclose(autoencoder.decode(f), f @ arrays["W_dec"] + arrays["b_dec"], atol=1e-5)
    assert (autoencoder.kind, autoencoder.centred, autoencoder.about["format"]) == ("jumprelu", False, "Gemma Scope")
    assert "as stored (0." in autoencoder.about["message"] or "as stored (1." in autoencoder.about["message"]
    with pytest.raises(RequestError, match=r"params.npz: the autoencoder reads 6 neurons and the layer has 2304"):
        load_sparse_autoencoder(folder, width=2304)


BAD_ARRAYS = [
    ({"threshold": None}, "corrupt", "threshold is absent; W_enc, W_dec, b_enc, b_dec, threshold were expected"),
    ({"other": np.ones(3, np.float32)}, "corrupt", "'other.npy' is in it; W_enc, W_dec"),
    ({"b_dec": np.ones(7, np.float32)}, "corrupt", r"b_dec has shape \[7\]; \[6\] was expected"),
    ({"W_enc": np.ones(6, np.float32)}, "corrupt", r"W_enc has shape \[6\]; \[width, features\] was expected"),
    ({"b_enc": np.ones(8, np.int64)}, "unsupported", "b_enc is of type int64; float16, float32 or float64"),
    ({"b_enc": np.array([{}] * 8, object)}, "unsupported", "b_enc is of type object; float16"),
    ({"b_enc": np.full(8, np.inf, np.float32)}, "nonfinite", "b_enc holds NaN or infinity"),
]


@pytest.mark.parametrize(("changes", "status", "message"), BAD_ARRAYS)
def test_arrays_that_do_not_fit_are_refused(rng, tmp_path, changes, status, message):
    arrays = {name: array for name, array in (gemma(rng) | changes).items() if array is not None}
    np.savez(tmp_path / "params.npz", **arrays)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_sparse_autoencoder(tmp_path)
    assert raised.value.status == status


def npy(array, shape=None):
    """The bytes of an .npy file; shape: what its header states instead of the array's."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": shape or array.shape}
    )
    return buffer.getvalue() + array.astype("<f4").tobytes()


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(f"{name}.npy", content)


def test_zip_files_that_state_what_they_do_not_hold(rng, tmp_path, monkeypatch):
    path = tmp_path / "params.npz"
    arrays = gemma(rng)
    good = {name: npy(array) for name, array in arrays.items()}

    def refused(message, members):
        zipped(path, members.items() if isinstance(members, dict) else members)
        with pytest.raises(CheckpointError, match=message) as raised:
            load_sparse_autoencoder(path)
        assert raised.value.status == "corrupt"

    huge = npy(arrays["b_enc"], shape=(2**40, 2**20))
    refused(r"b_enc of shape \[1099511627776, 1048576\] takes \d+ bytes and has 32", good | {"b_enc": huge})
    refused("b_enc: not an array of numpy", good | {"b_enc": b"no array"})
    with pytest.warns(UserWarning, match="Duplicate"):
        refused("'b_enc.npy' stands in it twice", [*good.items(), ("b_enc", good["b_enc"])])
    monkeypatch.setattr(gemma_scope, "MAX_TENSOR_BYTES", 100)
    refused(r"W_enc would take \d+ bytes, more than 100", good)


def test_zip_files_that_are_damaged(rng, tmp_path):
    path = tmp_path / "params.npz"
    np.savez(path, **gemma(rng))
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    with pytest.raises(CheckpointError, match="not a whole zip file"):
        load_sparse_autoencoder(path)
    middle = content.index(b"NUMPY") + 200
    path.write_bytes(content[:middle] + struct.pack("<f", 3.0) + content[middle + 4 :])
    with pytest.raises(CheckpointError, match=r"not a whole zip file \(Bad CRC-32"):
        load_sparse_autoencoder(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_compressions_that_numpy_does_not_write_are_refused(rng, tmp_path, compression):
    with zipfile.ZipFile(tmp_path / "params.npz", "w", compression) as archive:
        for name, array in gemma(rng).items():
            archive.writestr(f"{name}.npy", npy(array))
    with pytest.raises(
        CheckpointError, match=r"W_enc is compressed as numpy does not; write it by numpy\.savez"
    ) as raised:
        load_sparse_autoencoder(tmp_path)
    assert raised.value.status == "unsupported"


def test_a_small_file_cannot_ask_for_much_memory(rng, tmp_path, monkeypatch):
    """A header that states a length of its own, and zeros, of which a deflated file holds a thousand times its size."""
    path = tmp_path / "params.npz"
    good = {name: npy(array) for name, array in gemma(rng).items()}
    header = b"\x93NUMPY\x02\x00" + struct.pack("<I", 20_000_000) + b" " * 20_000_000

    def peak_of(message, members):
        zipped(path, members.items())
        tracemalloc.start()
        with pytest.raises(CheckpointError, match=message) as raised:
            load_sparse_autoencoder(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert raised.value.status == "corrupt"
        return peak

    assert peak_of("b_enc: not an array of numpy", good | {"b_enc": header}) < 2_000_000
    zeros = {"W_enc": (6, 500_000), "W_dec": (500_000, 6), "b_enc": (500_000,), "threshold": (500_000,)}
    bomb = good | {name: npy(np.zeros(shape, np.float32)) for name, shape in zeros.items()}
    monkeypatch.setattr(gemma_scope, "MAX_UNCOMPRESSED", 2**20)
    assert peak_of(r"its \d+ bytes would become 28\d+, as no weights do: it is made to be large", bomb) < 2_000_000


# --- the autoencoder itself ---------------------------------------------------------------------------------
def autoencoder(**changes):
    plain = {"encoder": np.eye(3, 4), "decoder": np.eye(4, 3), "b_dec": np.zeros(3), "b_enc": np.zeros(4)}
    return SparseAutoencoder(**(plain | changes))


def test_of_equal_ones_a_topk_keeps_those_of_lower_number():
    chosen = autoencoder(kind="topk", k=2, encoder=np.ones((3, 4)), b_enc=np.array([0.0, 1, 0, 1]))
    assert chosen.encode([[1.0, 1, 1]]).tolist() == [[0, 4, 0, 4]]
    chosen = autoencoder(kind="topk", k=3, encoder=np.ones((3, 4)), b_enc=np.zeros(4))
    assert chosen.encode([1.0, 1, 1]).tolist() == [3, 3, 3, 0]


def test_quality_by_hand():
    """Features 0 and 1 give the first two neurons; the third is lost, and so is what is negative."""
    plain = autoencoder(encoder=np.eye(3, 4) * [[1], [1], [0]])
    x = np.array([[1.0, 0, 0], [0, 2, 0], [3, 4, 2], [0, 0, 2]])
    found = plain.quality(x)
    spread = ((x - x.mean(0)) ** 2).sum()
    assert found.explained_variance == pytest.approx(1 - 8 / spread)
    assert (found.samples, found.active_features, found.dead_features) == (4, 1.0, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "relu"}, "kind is 'relu'; one of standard, jumprelu, topk, gated"),
        ({"normalisation": "some"}, "normalisation is 'some'; one of none, layer_norm"),
        ({"encoder": np.ones(3)}, r"W_enc has shape \[3\]; \[width, features\] was expected"),
        ({"b_enc": None}, "b_enc is absent"),
        ({"threshold": np.ones(4)}, "threshold is there; a standard autoencoder has"),
        ({"decoder": np.full((4, 3), np.nan)}, "W_dec holds NaN or infinity"),
        ({"kind": "topk", "k": 5}, "k is 5; a number of features from 1 to 4"),
        ({"kind": "gated", "b_enc": None}, "r_mag is absent; a gated autoencoder has"),
    ],
)
def test_an_autoencoder_that_cannot_be(changes, message):
    with pytest.raises(RequestError, match=message):
        autoencoder(**changes)


def test_activations_that_do_not_fit():
    plain = autoencoder()
    with pytest.raises(RequestError, match=r"activations have shape \[2, 384\], the autoencoder reads 3 neurons"):
        plain.encode(np.ones((2, 384)))
    with pytest.raises(RequestError, match="activations hold NaN or infinity"):
        plain.encode([[1, np.nan, 0]])
    with pytest.raises(RequestError, match=r"features have shape \[2, 3\]; \[\.\.\., 4\] was expected"):
        plain.decode(np.ones((2, 3)))
    with pytest.raises(RequestError, match=r"activations have shape \[1, 3\]; \[samples, width\], two or more"):
        plain.quality(np.ones((1, 3)))
    with pytest.raises(RequestError, match=r"normalises activations \(layer_norm\); give those that were encoded"):
        autoencoder(normalisation="layer_norm").decode(np.ones((2, 4)))


def test_tensors_that_record_gradients_are_read(rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    given, numbers = autoencoder(), rng.standard_normal((3, autoencoder().width)).astype(np.float32)
    tensor = torch.tensor(numbers, requires_grad=True)
    features = given.encode(numbers)
    np.testing.assert_array_equal(given.encode(tensor), features)
    np.testing.assert_array_equal(given.decode(torch.tensor(features)), given.decode(features))
    assert given.quality(tensor) == given.quality(numbers)


def test_an_autoencoder_is_shown_in_one_line():
    assert re.fullmatch(r"<SparseAutoencoder: standard, \d+ features of \d+ neurons; .*>", repr(autoencoder()))


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(RequestError, match="is a file, or lies in one; give a folder to write to"):
            save_sparse_autoencoder(autoencoder(), path)


def test_all_files_that_are_written_can_be_read_by_whom_the_user_lets(tmp_path):
    folder = save_sparse_autoencoder(load_sparse_autoencoder(FILES / "standard"), tmp_path / "saved")
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in (tmp_path / "plain", *folder.iterdir())}
    assert len(modes) == 1


def test_metadata_that_json_cannot_hold_are_not_written(tmp_path):
    for metadata, message in (({"a": {1}}, "cannot be written as JSON: .*set is not JSON"), ([1], "is a list; a table of names"),
                              ({"a": float("nan")}, "cannot be written as JSON")):  # fmt: skip
        with pytest.raises(RequestError, match=rf'about\["metadata"\] {message}'):
            save_sparse_autoencoder(autoencoder(about={"metadata": metadata}), tmp_path / "none")
    assert not (tmp_path / "none").exists()
