"""Every fault of a network that the local Hub knows: those that go away change nothing, those that stay cost one checkpoint."""

import random
import time
from email.utils import formatdate

import pytest
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from hub_server import Fault, first
from test_hub_source import MODEL, SHAPE, SMALL, WEIGHTS, branches, files_of, same_spectra, suite  # noqa: F401 (fixtures)

import ninscope
from ninscope.checkpoints.hub import file as hub_file
from ninscope.checkpoints.hub import http as hub_http
from ninscope.checkpoints.hub import retries
from ninscope.checkpoints.hub.traffic import counted
from ninscope.errors import CheckpointError, RequestError

FAULTS = {
    "429 with seconds": Fault(status=429, headers={"Retry-After": "7"}),
    "429 with a date": Fault(status=429, headers={"Retry-After": formatdate(usegmt=True)}),
    "429 with a limit's window": Fault(status=429, headers={"RateLimit": '"api";r=0;t=55'}),
    "429 with nothing": Fault(status=429, headers={"Retry-After": "soon"}),
    "408": Fault(status=408),
    "500": Fault(status=500),
    "502": Fault(status=502),
    "503": Fault(status=503),
    "504": Fault(status=504),
    "reset": Fault(reset=True),
    "reset within": Fault(reset=True, truncate=10),
    "truncated": Fault(truncate=10),
    "stall": Fault(stall=3.0),
    "stall within": Fault(stall=3.0, stall_at=10),
    "trickle": Fault(trickle=0.05),
}
OF_BYTES = {
    "short": Fault(short=10),
    "empty": Fault(short=0),
    "more": Fault(more=10),
    "another place": Fault(headers={"Content-Range": "bytes 1-2/3"}),
    "compressed": Fault(headers={"Content-Encoding": "gzip"}),
}
OF_RANGES = {
    "range ignored": Fault(ignore_range=True),
    "range refused": Fault(status=416),
    "another file": Fault(headers={"Content-Range": "bytes 0-255/256"}),
}
PLACES = {"listing": "/revision/step1", "config": "config.json", "weights": WEIGHTS}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(hub_http, "SILENCE_SECONDS", 0.6)
    monkeypatch.setattr(hub_http, "SLOWEST_BYTES_A_SECOND", 1e6)
    monkeypatch.setattr(hub_http, "JSON_SECONDS", 0.8)


@pytest.fixture
def hub(serve, suite):
    """A configuration of its own for step1: what is the same in every revision is fetched once."""
    own = (suite / "step1" / "config.json").read_bytes() + b"\n"
    return serve({MODEL: {**branches(suite), "step1": files_of(suite / "step1", **{"config.json": own})}})


@pytest.fixture
def pauses(monkeypatch):
    """Seconds that would have been waited."""
    found = []
    monkeypatch.setattr(retries, "pause", lambda seconds, given_up: found.append(seconds))
    return found


@pytest.fixture
def undisturbed(suite):
    return {name: ninscope.measure(str(suite / "step1"), **given) for name, given in GIVEN.items()}


GIVEN = {"exact": {}, "samples": SMALL}


def staying(fault, hub, revision="step1", suffix=""):
    """A hook that hits whatever is asked of one revision."""
    at = (f"/revision/{revision}", hub.refs[MODEL]["heads"][revision])
    return lambda request: fault if request.path.endswith(suffix) and any(part in request.path for part in at) else None


class TestPassing:
    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("name", FAULTS)
    def test_faults_change_nothing(self, hub, undisturbed, name, place):
        hub.faults = [first(2, FAULTS[name], PLACES[place])]
        measured = ninscope.measure(MODEL, "step1")
        same_spectra(measured, undisturbed["exact"])
        assert repr(measured.layers) == repr(undisturbed["exact"].layers)
        assert sum(request.path.endswith(PLACES[place]) for request in hub.requests) > 2

    @pytest.mark.parametrize("place", ["config", "weights"])
    @pytest.mark.parametrize("name", OF_BYTES)
    def test_wrong_bytes_change_nothing(self, hub, undisturbed, name, place):
        hub.faults = [first(2, OF_BYTES[name], PLACES[place])]
        same_spectra(ninscope.measure(MODEL, "step1"), undisturbed["exact"])

    @pytest.mark.parametrize("given", GIVEN)
    @pytest.mark.parametrize("name", [*FAULTS, *OF_BYTES, *OF_RANGES])
    def test_faults_in_the_midst_of_ranges(self, hub, undisturbed, name, given):
        fault, seen = (FAULTS | OF_BYTES | OF_RANGES)[name], []

        def hook(request):
            seen.append(request) if request.path.endswith(WEIGHTS) else None
            return fault if len(seen) in (3, 4) and seen[-1] is request else None

        hub.faults = [hook]
        same_spectra(ninscope.measure(MODEL, "step1", **GIVEN[given]), undisturbed[given])
        assert len(seen) > 4

    def test_flipped_bits_of_what_is_read_whole(self, hub, undisturbed, monkeypatch):
        """config.json by its git blob id, a file of weights that comes in one piece by its sha256."""
        monkeypatch.setattr(hub_file, "HEAD_BYTES", 1 << 20)
        hub.faults = [first(1, Fault(flip_bit=80_000), WEIGHTS), first(1, Fault(flip_bit=1), "config.json")]
        same_spectra(ninscope.measure(MODEL, "step1"), undisturbed["exact"])
        assert [sum(r.path.endswith(name) for r in hub.requests) for name in (WEIGHTS, "config.json")] == [2, 2]

    def test_an_answer_that_is_not_json(self, hub, undisturbed):
        hub.faults = [first(2, Fault(flip_bit=6), "/refs"), first(2, Fault(flip_bit=6), "/step1")]
        rows = ninscope.measure_all(MODEL)
        same_spectra(rows[1].spectrum, undisturbed["exact"])

    @pytest.mark.parametrize("name", FAULTS)
    def test_a_list_of_branches(self, hub, name):
        hub.faults = [first(2, FAULTS[name], "/refs")]
        assert [row.status for row in ninscope.measure_all(MODEL, **SMALL)] == ["ok"] * 3


class TestStaying:
    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("429 with seconds", "429 Too Many Requests"),
            ("503", "503 Service Unavailable"),
            ("reset", "reset by peer"),
            ("truncated", "without sending complete message body"),
            ("stall", "timed out"),
            ("trickle", "too slow"),
        ],
    )
    def test_what_cannot_be_had_is_missing(self, hub, name, reason, place):
        hub.faults = [staying(FAULTS[name], hub, suffix="/step1" if place == "listing" else PLACES[place])]
        rows = ninscope.measure_all(MODEL, **SMALL)
        assert [row.status for row in rows] == ["ok", "missing", "ok"]
        assert reason in rows[1].message
        assert rows[1].message.startswith("step1")
        assert rows[1].message.endswith("run again")
        tried = [request for request in hub.requests if request.status and hub.faults[0](request)]
        assert len(tried) == retries.ATTEMPTS

    @pytest.mark.parametrize(
        ("fault", "told"),
        [
            (OF_BYTES["short"], r"asked for \d+ bytes at \d+, the server sent 10; run again"),
            (OF_BYTES["more"], r"asked for \d+ bytes at \d+, the server sent \d+; run again"),
            (OF_BYTES["another place"], "the server sent another range; run again"),
            (OF_BYTES["compressed"], "the server sent them compressed; run again"),
            (OF_RANGES["range ignored"], "the server sent the whole file; run again"),
            (OF_RANGES["range refused"], "fewer bytes than the Hub states"),
            (OF_RANGES["another file"], "a part of a file of 256 bytes, where the Hub states"),
        ],
    )
    def test_wrong_bytes_are_corrupt(self, hub, fault, told):
        hub.faults = [staying(fault, hub, suffix=WEIGHTS)]
        assert [row.status for row in ninscope.measure_all(MODEL, **SMALL)] == ["ok", "corrupt", "ok"]
        with pytest.raises(CheckpointError, match=rf"step1/model\.safetensors: .*{told}"):
            ninscope.measure(MODEL, "step1", **SMALL)

    def test_a_flipped_bit_is_corrupt(self, hub):
        hub.faults = [staying(Fault(flip_bit=1), hub, suffix="config.json")]
        with pytest.raises(CheckpointError, match=r"step1/config\.json: .* whose hash the Hub states") as caught:
            ninscope.measure(MODEL, "step1", **SMALL)
        assert caught.value.status == "corrupt"

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
    def test_what_will_not_change_is_asked_once(self, hub, status):
        hub.faults = [staying(Fault(status=status), hub, suffix=WEIGHTS)]
        with pytest.raises(CheckpointError, match=r"step1/model\.safetensors: ") as caught:
            ninscope.measure(MODEL, "step1", **SMALL)
        assert caught.value.status == "missing"
        assert sum(request.path.endswith(WEIGHTS) for request in hub.requests) == 1

    @pytest.mark.parametrize("name", ["503", "stall", "reset"])
    def test_a_list_of_branches_is_a_request_that_failed(self, hub, name):
        hub.faults = [lambda request: FAULTS[name] if "/refs" in request.path else None]
        with pytest.raises(RequestError, match="org/tiny: no such folder, and the Hub cannot be asked"):
            ninscope.measure_all(MODEL)
        assert len(hub.requests) == retries.ATTEMPTS

    def test_an_answer_without_end_does_not_fill_memory(self, hub, monkeypatch):
        monkeypatch.setattr(hub_http, "MAX_JSON_BYTES", 100)
        with counted() as traffic, pytest.raises(RequestError, match="more than 100 bytes"):
            ninscope.measure_all(MODEL)
        assert traffic.fetched.requests == retries.ATTEMPTS

    def test_a_file_that_was_not_asked_for_is_not_read(self, hub):
        hub.faults = [lambda request: Fault(ignore_range=True)]
        with counted() as traffic, pytest.raises(CheckpointError):
            ninscope.measure(MODEL, "step1", **SMALL)
        listing = [request for request in hub.requests if not request.path.endswith(WEIGHTS)]
        assert traffic.fetched.bytes == sum(request.bytes_sent for request in listing)


class TestWaits:
    def test_grow_and_are_bounded(self, hub, pauses, monkeypatch):
        drawn = []
        monkeypatch.setattr(random, "uniform", lambda low, high: drawn.append((low, high)) or high)
        hub.faults = [staying(FAULTS["503"], hub, suffix="config.json")]
        with pytest.raises(CheckpointError):
            ninscope.measure(MODEL, "step1")
        assert pauses == [1, 2, 4, 8, 16, 30]
        assert {low for low, _ in drawn} == {0}  # all of it is jitter

    def test_are_what_the_server_asks_for(self, hub, pauses, undisturbed):
        later = formatdate(time.time() + 20, usegmt=True)
        asked = [{"Retry-After": "7"}, {"Retry-After": later}, {"RateLimit": '"api";r=0;t=55'}, {"Retry-After": "0"}]
        left = iter(Fault(status=429, headers=headers) for headers in asked)
        hub.faults = [lambda request: next(left, None) if request.path.endswith("config.json") else None]
        same_spectra(ninscope.measure(MODEL, "step1"), undisturbed["exact"])
        for waited, least in zip(pauses, (7, 18, 55, 0), strict=True):
            assert least <= waited <= least + 4

    def test_of_an_hour_are_not_waited(self, hub, pauses):
        hub.faults = [staying(Fault(status=429, headers={"Retry-After": "3600"}), hub, suffix="config.json")]
        with pytest.raises(CheckpointError, match="429"):
            ninscope.measure(MODEL, "step1")
        assert pauses == []

    def test_end_when_the_file_is_given_up(self, hub, monkeypatch):
        """Ranges beside the one that failed are not tried to the end, each by itself."""
        monkeypatch.setattr(hub_file, "SMALL_GAP_BYTES", 0)
        monkeypatch.setattr(hub_file, "GAP_SHARE", 0.0)
        seen = []

        def hook(request):
            if request.path.endswith(WEIGHTS):
                seen.append(request)
            return Fault(status=403 if len(seen) == 3 else 503) if len(seen) > 2 and seen[-1] is request else None

        hub.faults = [hook]
        with pytest.raises(CheckpointError):
            ninscope.measure(MODEL, "step1")
        time.sleep(0.2)
        assert len(seen) < 3 * retries.ATTEMPTS
