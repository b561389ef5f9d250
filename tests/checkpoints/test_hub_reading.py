"""Reading from a Hub that answers wrongly, and the command line on a repository."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from hub_server import Fault
from huggingface_hub import constants
from suites import (
    neox_tensors,
    to_bf16,
    write_bf16,
    write_checkpoint,
)
from test_hub_source import (  # noqa: F401 (fixtures among them)
    FEW,
    MODEL,
    SHAPE,
    SMALL,
    WEIGHTS,
    branches,
    files_of,
    hub,
    ranges_of,
    same_spectra,
    suite,
)

import ninscope
from ninscope.architectures import architecture_of
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError, RequestError
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.sampled import sampled_network


class TestWrong:
    def test_a_repository_that_does_not_exist(self, hub):
        for measure in (ninscope.measure, ninscope.measure_all):
            with pytest.raises(
                RequestError, match="org/other: no such folder, and no such model repository on the Hub"
            ):
                measure("org/other")

    @pytest.mark.parametrize(
        "name", ["org/a--b", "org/a..b", "org/a.git", "org/a-", "org/a.", "örg/a", "org/" + "a" * 96]
    )
    def test_what_cannot_be_a_repository(self, hub, name):
        with pytest.raises(RequestError, match="no such folder"):
            ninscope.measure_all(name)

    def test_a_hub_that_cannot_be_reached(self):
        with pytest.raises(RequestError, match="no such folder, and the Hub cannot be asked"):
            ninscope.measure_all(MODEL)
        with pytest.raises(CheckpointError, match=r"org/tiny cannot be asked .*; run again") as caught:
            ninscope.measure(MODEL, "step1")
        assert caught.value.status == "missing"

    def test_a_hub_that_may_not_be_reached(self, hub, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(RequestError, match=r"cannot be asked .*offline"):
            ninscope.measure_all(MODEL)

    def test_an_answer_that_is_not_the_hubs(self, hub):
        """A proxy's login page is sent with status 200 and is no JSON."""
        hub.faults = [lambda request: Fault(flip_bit=6) if "/refs" in request.path else None]
        with pytest.raises(RequestError, match="the Hub cannot be asked"):
            ninscope.measure_all(MODEL)
        hub.faults = [lambda request: Fault(flip_bit=6) if "/revision/" in request.path else None]
        with pytest.raises(CheckpointError, match="cannot be asked") as caught:
            ninscope.measure(MODEL, "step1", **FEW)
        assert caught.value.status == "missing"

    def test_a_revision_that_does_not_exist(self, hub):
        with pytest.raises(CheckpointError, match="step9: no such revision in org/tiny") as caught:
            ninscope.measure(MODEL, "step9")
        assert caught.value.status == "missing"
        (row,) = ninscope.measure_all(MODEL, "step9")
        assert (row.status, row.step, row.spectrum) == ("missing", 9, None)

    def test_a_repository_that_does_not_exist_with_a_revision_named(self, hub):
        """The request is as wrong as without one; an exit code of 1 would say that other checkpoints are fine."""
        with pytest.raises(RequestError, match=r"org/other: no such folder, and no such model repository"):
            ninscope.measure("org/other", "step1")
        with pytest.raises(RequestError, match=r"org/other: no such folder, and no such model repository"):
            ninscope.measure_all("org/other", "step1")

    @pytest.mark.parametrize(
        ("files", "status", "match"),
        [
            ({"config.json": None}, "missing", r"step1: config\.json is absent"),
            ({"config.json": b"{"}, "corrupt", r"step1/config\.json: not JSON"),
            ({"config.json": b""}, "corrupt", r"step1/config\.json: not JSON"),
            ({"config.json": b"[]"}, "corrupt", r"step1/config\.json: not a JSON object"),
            ({"config.json": b"{}"}, "unsupported", "model_type None is not supported"),
            ({WEIGHTS: None}, "missing", r"step1: no model\.safetensors and no"),
            ({WEIGHTS: None, "flax_model.msgpack": b"x"}, "missing", "weights are absent or in another format"),
            ({WEIGHTS: None, "pytorch_model.bin": b"x"}, "unsupported", r"step1/pytorch_model\.bin: not a zip file"),
            ({WEIGHTS: b""}, "corrupt", r"step1/model\.safetensors: 0 bytes are too few"),
            ({WEIGHTS: b"garbage, not weights"}, "corrupt", r"step1/model\.safetensors: not a safetensors file"),
            (
                {WEIGHTS: None, "model.safetensors.index.json": b'{"weight_map": {"x": "../config.json"}}'},
                "corrupt",
                "not a file name inside the checkpoint; refused",
            ),
            (
                {WEIGHTS: None, "model.safetensors.index.json": b'{"weight_map": {"x": "a.safetensors"}}'},
                "missing",
                r"shard a\.safetensors is absent",
            ),
        ],
    )
    def test_a_damaged_revision_is_told(self, serve, suite, files, status, match):
        damaged = files_of(suite / "step1", **files)
        serve({MODEL: {"step0": suite / "step0", "step1": damaged, "step10": suite / "step10"}})
        source = open_source(MODEL)
        with pytest.raises(CheckpointError, match=match) as caught:
            architecture_of(source.open("step1").config)
        assert caught.value.status == status
        if not {WEIGHTS, "pytorch_model.bin"} & set(damaged):  # then the listing alone tells, and no weight is read
            with pytest.raises(CheckpointError, match=match):
                source.identify("step1")

    def test_the_others_go_on(self, serve, suite):
        damaged = files_of(suite / "step1", **{WEIGHTS: b"garbage, not weights"})
        serve({MODEL: {"step0": suite / "step0", "step1": damaged, "step10": suite / "step10"}})
        rows = ninscope.measure_all(MODEL, **SMALL)
        assert [row.status for row in rows] == ["ok", "corrupt", "ok"]
        assert np.isfinite(rows[2].emergence)

    @pytest.mark.parametrize("cut", [1, 200])
    def test_a_truncated_upload(self, serve, suite, cut):
        raw = (suite / "step1" / WEIGHTS).read_bytes()
        serve({MODEL: {"step1": files_of(suite / "step1", **{WEIGHTS: raw[:-cut]})}})
        with pytest.raises(CheckpointError, match=rf"truncated: .* {len(raw)} bytes, the file has {len(raw) - cut}"):
            ninscope.measure(MODEL, **SMALL)

    def test_weights_that_are_not_finite(self, serve, suite, tmp_path):
        tensors = neox_tensors(seed=1, **SHAPE)
        name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
        tensors[name][77, 5] = np.inf
        serve({MODEL: {"step1": write_checkpoint(tmp_path / "bad", tensors)}})
        with pytest.raises(
            CheckpointError, match=f"tensor {name} holds NaN or infinity, first at row 77, column 5"
        ) as no:
            ninscope.measure(MODEL, nodes_per_layer=128)
        assert no.value.status == "nonfinite"


def test_bf16_bits_are_the_weights_that_arrive(serve, tmp_path):
    """Of the network itself, edge by edge: the values, not only what is computed from them."""
    tensors = neox_tensors(seed=1, **SHAPE, dtype=np.float32)
    folder = write_bf16(tmp_path / "step1", tensors)
    serve({MODEL: {"step1": folder}})
    checkpoint = open_source(MODEL).open("step1")
    network = sampled_network(neuron_network(checkpoint), 32, 1, 0, 1e6)
    name = "gpt_neox.layers.0.attention.dense.weight"
    whole = network.matrix[4 * 32 : 5 * 32, 5 * 32 : 6 * 32].toarray()  # c -> a of block 0
    np.testing.assert_array_equal(whole.view(np.uint32) >> 16, to_bf16(tensors[name].T))


@pytest.mark.slow
def test_the_command_on_a_repository(hub, suite, tmp_path):
    """From a process of its own, as a user runs it: nothing in it knows of these tests."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-m", "ninscope_pipeline.cli", "measure", MODEL]
    options = ["--nodes-per-layer", "24", "--samples", "2", "--json"]
    done = subprocess.run(
        [*command, *options], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    ours = json.loads(done.stdout)
    theirs = ninscope.measure_all(str(suite), nodes_per_layer=24, samples=2)
    for mine, local in zip(ours["rows"], theirs, strict=True):
        assert (mine["alpha0"], mine["width"]) == (local.spectrum.alpha0, local.spectrum.width)
        assert mine["emergence"] == (None if np.isnan(local.emergence) else local.emergence)
    assert [row["revision"] for row in ours["rows"]] == ["step0", "step1", "step10"]
    assert ours["source"] == MODEL
    size = (suite / "step1" / WEIGHTS).stat().st_size
    assert sum(stop - start for start, stop in ranges_of(hub, "step1")) <= size  # of so small a file nearly all
    assert not list((tmp_path / "home").rglob("*.safetensors"))
