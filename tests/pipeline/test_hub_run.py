"""Whole runs of a suite on a Hub: what --dry-run says they will fetch, what they say they fetched, and faults on the way."""

import os
import re
from pathlib import Path

import pytest
from driving import UNDRAWN, command, contents, process, write_dag
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from hub_server import SIGNATURE, Fault, HubServer
from huggingface_hub import constants
from suites import offsets_of, used_names, write_suite

import ninscope
from ninscope.checkpoints.hub import http as hub_http
from ninscope_pipeline.prepared_run import prepare
from ninscope_pipeline.request.dagfile import load_dag

pytestmark = pytest.mark.usefixtures("undrawn")

MODEL, WEIGHTS = "org/tiny", "model.safetensors"
SHAPE = {"blocks": 2, "width": 32, "heads": 4}
TOKEN = "hf_" + "SecretOfTheOwner" * 2
LATER = Fault(status=429, headers={"Retry-After": "0"})


@pytest.fixture
def suite(tmp_path):
    return write_suite(tmp_path / "tiny", [0, 1, 10], **SHAPE)


def branches(suite):
    return {folder.name: folder for folder in suite.iterdir()}


def dag(tmp_path, **changes):
    """Over the suite on the Hub: samples, and the whole networks too unless told otherwise."""
    return write_dag(tmp_path / "both.toml", Path(MODEL), **{"exact": True, **changes})


def fetched(finished) -> tuple[int, int]:
    """(bytes, requests) of the line that says so; there is one."""
    (line,) = [line for line in finished.out.splitlines() if line.startswith("fetched")]
    return tuple(map(int, re.fullmatch(r"fetched .* \((\d+) bytes\) in (\d+) requests?", line).groups()))


def would_fetch(finished) -> dict[str, int]:
    lines = [
        re.fullmatch(r"would fetch: .* \((\d+) bytes\) of weights for (.*)", line) for line in finished.out.splitlines()
    ]
    return {found[2]: int(found[1]) for found in lines if found}


def sent(hub) -> tuple[int, int]:
    """What the server counts; bodies that come with an error are not read."""
    return sum(request.bytes_sent for request in hub.requests if request.status < 300), len(hub.requests)


def of_tensors(hub, header_end) -> int:
    return sum(r.bytes_sent for r in hub.requests if r.path.endswith(WEIGHTS) and r.range and r.range[0] >= header_end)


class TestTraffic:
    @pytest.fixture
    def wide(self, tmp_path):
        """Wide enough for what lies between its tensors to be little."""
        return write_suite(tmp_path / "wide", [0, 1], blocks=2, width=128, heads=4)

    @pytest.mark.parametrize(
        "changes", [{"exact": False}, {"nodes_per_layer": "all", "samples": None, "exact": None}], ids=str
    )
    def test_what_dry_run_says_is_what_the_server_counts(self, serve, wide, tmp_path, changes):
        hub = serve({MODEL: branches(wide)})
        file, options = dag(tmp_path, **changes), ("--runs-dir", tmp_path / "runs")
        offsets = offsets_of((wide / "step0" / WEIGHTS).read_bytes())
        header_end = min(start for start, _ in offsets.values())
        said = would_fetch(command("run", file, *options, "--dry-run"))["tiny/tiny"]
        assert of_tensors(hub, header_end) == 0
        hub.requests.clear()
        done = command("run", file, *options)
        assert done.code == 0, done.err
        counted = of_tensors(hub, header_end)
        if changes["exact"] is False:
            assert counted == said
        else:
            assert said == 2 * sum(stop - start for start, stop in map(offsets.get, used_names(offsets)))
            assert said <= counted <= 1.02 * said
        assert fetched(done) == sent(hub)
        hub.requests.clear()
        again = command("run", file, *options)
        assert of_tensors(hub, header_end) == 0
        assert fetched(again) == sent(hub)
        assert would_fetch(command("run", file, *options, "--dry-run")) == {}

    @pytest.mark.parametrize("section", [{"weights": {"singular_values": True}}, {"controls": {}}], ids=str)
    def test_a_fixed_gauge_reads_once_more_in_every_stage(self, serve, wide, tmp_path, section):
        hub = serve({MODEL: branches(wide)})
        whole = {"nodes_per_layer": "all", "samples": None, "exact": None, "gauge": "fixed"}
        file, options = dag(tmp_path, **whole, **section), ("--runs-dir", tmp_path / "runs")
        offsets = offsets_of((wide / "step0" / WEIGHTS).read_bytes())
        header_end = min(start for start, _ in offsets.values())
        said = would_fetch(command("run", file, *options, "--dry-run"))["tiny/tiny"]
        hub.requests.clear()
        done = command("run", file, *options)
        assert done.code == 0, done.err
        assert said <= of_tensors(hub, header_end) <= 1.02 * said

    def test_logarithmic_radii_take_two_passes(self, serve, wide, tmp_path):
        hub = serve({MODEL: branches(wide)})
        file = dag(tmp_path, nodes_per_layer="all", samples=None, exact=None, radii={"log": 20})
        options = ("--runs-dir", tmp_path / "runs")
        said = would_fetch(command("run", file, *options, "--dry-run"))["tiny/tiny"]
        header_end = min(start for start, _ in offsets_of((wide / "step0" / WEIGHTS).read_bytes()).values())
        hub.requests.clear()
        assert command("run", file, *options).code == 0
        assert said <= of_tensors(hub, header_end) <= 1.02 * said

    @pytest.mark.slow
    def test_a_process_of_its_own_fetches_the_same(self, serve, suite, tmp_path):
        """As a user runs it: the client pointed at the Hub by its environment; and a fault that passes."""
        hub = serve({MODEL: branches(suite)})
        struck = set()

        def once_a_path(request):
            new = request.path not in struck
            struck.add(request.path)
            return LATER if new else None

        hub.faults = [once_a_path]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        there = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        done = process(
            "run",
            dag(tmp_path),
            "--runs-dir",
            tmp_path / "runs",
            "--workers",
            2,
            env=kept | there,
            cwd=tmp_path,
            program=UNDRAWN,
        )
        assert done.code == 0, done.err
        assert fetched(done) == sent(hub)
        local = command("run", write_dag(tmp_path / "local.toml", suite, exact=True), "--runs-dir", tmp_path / "runs")
        assert "fetched" not in local.out
        ours, theirs = (ninscope.open_run(tmp_path / "runs" / name) for name in ("both", "local"))
        for table in ("samples", "spectra", "emergence", "degrees"):
            assert ours.table(table).equals(theirs.table(table)), table

    def test_measure_says_it_too_but_not_in_json(self, serve, suite):
        hub = serve({MODEL: branches(suite)})
        assert fetched(command("measure", MODEL)) == sent(hub)
        assert "fetched" not in command("measure", MODEL, "--json").out
        assert "fetched" not in command("measure", suite).out


class TestFaults:
    def run(self, tmp_path, name):
        return command("run", dag(tmp_path), "--runs-dir", tmp_path / name)

    def test_those_that_go_away_change_no_byte(self, serve, suite, tmp_path, monkeypatch):
        monkeypatch.setattr(hub_http, "SILENCE_SECONDS", 0.5)
        hub = serve({MODEL: branches(suite)})
        assert self.run(tmp_path, "undisturbed").code == 0
        faults = [
            LATER, Fault(status=503), Fault(reset=True), Fault(stall=2.0), Fault(truncate=9), Fault(short=9),
            Fault(ignore_range=True), Fault(status=500),
        ]  # fmt: skip
        asked = []

        def hook(request):
            asked.append(request)
            return faults[len(asked) // 3 % len(faults)] if len(asked) % 3 == 0 else None

        hub.faults = [hook]
        done = self.run(tmp_path, "disturbed")
        assert done.code == 0, done.err
        assert len(asked) > 3 * len(faults)
        before, after = (contents(tmp_path / name / "both" / "tables") for name in ("undisturbed", "disturbed"))
        assert before == after
        before, after = (contents(tmp_path / name / "both" / "store.zarr") for name in ("undisturbed", "disturbed"))
        assert before == after

    @pytest.mark.parametrize(
        ("late", "fault", "status", "reason"),
        [
            (False, Fault(status=503), "missing", "503 Service Unavailable"),
            (False, Fault(short=9), "corrupt", "the server sent 9"),
            (True, Fault(status=404), "missing", "404 Not Found"),
            (True, Fault(truncate=9), "missing", "without sending complete message body"),
            (True, Fault(more=9), "corrupt", "the server sent"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_those_that_stay_cost_one_checkpoint(self, serve, suite, tmp_path, late, fault, status, reason):
        hub = serve({MODEL: branches(suite)})
        commit = hub.refs[MODEL]["heads"]["step1"]
        header_end = 0
        if late:  # located well, and lost while it is read
            header_end = min(start for start, _ in offsets_of((suite / "step1" / WEIGHTS).read_bytes()).values())
        hub.faults = [
            lambda request: (
                fault
                if f"{commit}/{WEIGHTS}" in request.path and request.range and request.range[0] >= header_end
                else None
            )
        ]
        done = self.run(tmp_path, "runs")
        assert done.code == 1
        table = ninscope.open_run(tmp_path / "runs" / "both").table("checkpoints")
        assert table["status"].tolist() == ["ok", status, "ok"]
        assert reason in table["message"][1]
        assert f"tiny/tiny step1: {status}: " in done.err
        hub.faults = []
        located = prepare(load_dag(dag(tmp_path)), tmp_path / "runs").located
        assert {checkpoint.outcome.status for checkpoint in located} == {"ok"}


def test_a_token_is_nowhere_in_a_run(serve, suite, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with HubServer({MODEL: branches(suite)}) as storage:
        hub = serve({MODEL: branches(suite)}, redirect_lfs=storage, tokens={MODEL: TOKEN})
        commit = hub.refs[MODEL]["heads"]["step1"]
        storage.faults = [lambda request: Fault(status=403) if commit in request.path else None]
        told = Fault(status=400, headers={"X-Error-Message": f"{TOKEN} is no good"})
        hub.faults = [lambda request: told if request.path.endswith("/revision/step10") else None]
        done = command("run", dag(tmp_path), "--runs-dir", tmp_path / "runs")
        assert done.code == 1
        table = ninscope.open_run(tmp_path / "runs" / "both").table("checkpoints")
        assert table["status"].tolist() == ["ok", "missing", "missing"]
        assert {request.authorization for request in storage.requests} == {None}
    written = [path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(written) > 10
    for secret in (TOKEN, SIGNATURE):
        assert secret not in done.out + done.err + "".join(table["message"].fillna(""))
        assert not any(secret.encode() in content for content in written)
