"""Reading from a Hub that answers wrongly, and the command line on a repository."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from hub_server import Fault, first
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
    def test_a_damaged_revision_is_told_and_the_others_go_on(self, serve, suite, files, status, match):
        damaged = files_of(suite / "step1", **files)
        serve({MODEL: {"step0": suite / "step0", "step1": damaged, "step10": suite / "step10"}})
        rows = ninscope.measure_all(MODEL, **SMALL)
        assert [row.status for row in rows] == ["ok", status, "ok"]
        assert np.isfinite(rows[2].emergence)
        with pytest.raises(CheckpointError, match=match):
            ninscope.measure(MODEL, "step1", **SMALL)
        if not {WEIGHTS, "pytorch_model.bin"} & set(damaged):  # then the listing alone tells, and no weight is read
            with pytest.raises(CheckpointError, match=match):
                open_source(MODEL).identify("step1")

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


class TestFaults:
    def fault_in_rows(self, hub, fault):
        """Hits requests for weights that are not the header's two."""
        seen = []

        def hook(request):
            if request.path.endswith(WEIGHTS) and request.range:
                seen.append(request.range)
                if len(seen) > 2:
                    return fault
            return None

        hub.faults = [hook]

    @pytest.mark.parametrize("fault", [Fault(short=3), Fault(short=0), Fault(ignore_range=True)])
    def test_an_answer_of_another_length_is_noticed(self, hub, fault):
        """The client itself does not look: without a check, weights would silently be other weights."""
        self.fault_in_rows(hub, fault)
        with pytest.raises(
            CheckpointError, match=r"step1/model\.safetensors: asked for \d+ bytes at \d+, the server sent"
        ):
            ninscope.measure(MODEL, "step1", **SMALL)

    def test_a_short_header_is_noticed(self, hub):
        hub.faults = [lambda request: Fault(short=4) if request.path.endswith(WEIGHTS) else None]
        with pytest.raises(CheckpointError, match="asked for 256 bytes at 0, the server sent 4"):
            ninscope.measure(MODEL, "step1", **SMALL)

    def test_a_short_config_is_noticed(self, hub):
        hub.faults = [lambda request: Fault(short=4) if request.is_file or "config.json" in request.path else None]
        with pytest.raises(CheckpointError, match=r"step1/config\.json: asked for"):
            ninscope.measure(MODEL, "step1", **SMALL)

    @pytest.mark.parametrize("fault", [Fault(status=503), Fault(reset=True), Fault(truncate=5)])
    def test_what_passes_is_tried_again(self, hub, suite, fault):
        hub.faults = [first(3, fault, WEIGHTS)]
        measured = ninscope.measure(MODEL, "step1", **SMALL)
        same_spectra(measured, ninscope.measure(str(suite / "step1"), **SMALL))

    @pytest.mark.parametrize("status", [403, 404, 410, 500, 503])
    def test_what_does_not_pass_is_one_row_and_the_others_go_on(self, hub, status):
        commit = hub.refs[MODEL]["heads"]["step1"]
        hub.faults = [lambda request: Fault(status=status) if f"{commit}/{WEIGHTS}" in request.path else None]
        rows = ninscope.measure_all(MODEL, **SMALL)
        assert [row.status for row in rows] == ["ok", "missing", "ok"]
        assert "step1/model.safetensors" in rows[1].message
        assert rows[1].message.isprintable()

    def test_a_listing_that_fails(self, hub):
        hub.faults = [lambda request: Fault(status=500) if request.path.endswith("/step1") else None]
        rows = ninscope.measure_all(MODEL, **FEW)
        assert [row.status for row in rows] == ["ok", "missing", "ok"]
        assert "step1: org/tiny cannot be asked" in rows[1].message

    def test_a_list_of_branches_that_fails(self, hub):
        hub.faults = [lambda request: Fault(status=500) if "/refs" in request.path else None]
        with pytest.raises(RequestError, match="the Hub cannot be asked"):
            ninscope.measure_all(MODEL)


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


def test_the_command_on_a_repository(hub, suite, tmp_path):
    """From a process of its own, as a user runs it: nothing in it knows of these tests."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-m", "ninscope_pipeline.cli", "measure"]
    options = ["--nodes-per-layer", "24", "--samples", "2", "--json"]
    done = {
        source: subprocess.run(
            [*command, source, *options], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        for source in (MODEL, str(suite))
    }
    assert [(result.returncode, result.stderr) for result in done.values()] == [(0, "")] * 2
    ours, theirs = (json.loads(result.stdout) for result in done.values())
    assert ours["rows"] == theirs["rows"]
    assert [row["revision"] for row in ours["rows"]] == ["step0", "step1", "step10"]
    assert ours["source"] == MODEL
    size = (suite / "step1" / WEIGHTS).stat().st_size
    assert sum(stop - start for start, stop in ranges_of(hub, "step1")) <= size  # of so small a file nearly all
    assert not list((tmp_path / "home").rglob("*.safetensors"))
