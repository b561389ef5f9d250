"""Every fault of a network that the local Hub knows, at every place where it may hit: those that go away change no byte of what is
read, those that stay cost one checkpoint. Few of them go through a whole measurement: the reader knows of faults, nobody else.
"""

import io
import random
import threading
import time
from email.utils import formatdate

import pytest
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from hub_server import Fault, first
from suites import used_names
from test_hub_source import (  # noqa: F401 (fixtures)
    MODEL,
    SMALL,
    WEIGHTS,
    branches,
    files_of,
    same_spectra,
    suite,
    weights_of,
)

import ninscope
from ninscope.checkpoints.hub import file as hub_file
from ninscope.checkpoints.hub import http as hub_http
from ninscope.checkpoints.hub import retries
from ninscope.checkpoints.hub.traffic import counted
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError, RequestError

SILENT = {
    "stall": Fault(stall=3.0),
    "stall within": Fault(stall=3.0, stall_at=10),
    "trickle": Fault(trickle=0.05),
}
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
    **SILENT,
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
ALL = FAULTS | OF_BYTES | OF_RANGES
REAL_PAUSE = retries.pause
PLACES = {"listing": "/revision/step1", "config": "config.json", "weights": WEIGHTS}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(hub_http, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(hub_http, "SLOWEST_BYTES_A_SECOND", 1e6)
    monkeypatch.setattr(hub_http, "JSON_SECONDS", 0.2)


@pytest.fixture
def hub(serve, suite):
    """A configuration of its own for step1: what is the same in every revision is fetched once."""
    own = (suite / "step1" / "config.json").read_bytes() + b"\n"
    return serve({MODEL: {**branches(suite), "step1": files_of(suite / "step1", **{"config.json": own})}})


@pytest.fixture
def pauses(monkeypatch):
    """Seconds that would have been waited."""
    waited = []
    monkeypatch.setattr(retries, "pause", lambda seconds, given_up: waited.append(seconds))
    return waited


@pytest.fixture(scope="module")
def undisturbed(suite):
    return weights_of(open_source(suite).open("step1"))


def staying(fault, hub, revision="step1", suffix=""):
    """A hook that hits whatever is asked of one revision."""
    at = (f"/revision/{revision}", hub.refs[MODEL]["heads"][revision])
    return lambda request: fault if request.path.endswith(suffix) and any(part in request.path for part in at) else None


def within(fault, numbers):
    """A hook that hits the requests for weights of these numbers; 1 and 2 are those for the header."""
    seen = []

    def hook(request):
        seen.append(request) if request.path.endswith(WEIGHTS) else None
        return fault if len(seen) in numbers and seen[-1] is request else None

    return hook, seen


class TestPassing:
    @pytest.mark.parametrize("name", FAULTS)
    def test_faults_change_nothing(self, hub, undisturbed, name):
        """At the list of branches, the listing of a revision, its configuration and the header of its weights."""
        places = ("/refs", *PLACES.values())
        times = 1 if name in SILENT else 2
        hub.faults = [first(times, FAULTS[name], place) for place in places]
        source = open_source(MODEL)
        assert source.revisions() == ["step0", "step1", "step10"]
        assert weights_of(source.open("step1")) == undisturbed
        for place in places:
            assert sum(request.path.endswith(place) for request in hub.requests) > times

    @pytest.mark.parametrize("name", OF_BYTES)
    def test_wrong_bytes_change_nothing(self, hub, undisturbed, name):
        hub.faults = [first(2, OF_BYTES[name], place) for place in ("config.json", WEIGHTS)]
        assert weights_of(open_source(MODEL).open("step1")) == undisturbed

    @pytest.mark.parametrize("name", ALL)
    def test_faults_in_the_midst_of_ranges(self, hub, undisturbed, name):
        hook, seen = within(ALL[name], (3,) if name in SILENT else (3, 4))
        hub.faults = [hook]
        assert weights_of(open_source(MODEL).open("step1")) == undisturbed
        assert len(seen) > 4

    @pytest.mark.parametrize("given", [{}, SMALL], ids=["exact", "samples"])
    @pytest.mark.parametrize("name", ["503", "truncated", "short"])
    def test_a_measurement_is_what_it_would_have_been(self, hub, suite, name, given):
        hook, seen = within(ALL[name], (3, 4))
        hub.faults = [first(1, FAULTS["503"], "/refs"), first(1, FAULTS["reset"], "/step1"), hook]
        measured, expected = (ninscope.measure(source, "step1", **given) for source in (MODEL, str(suite)))
        same_spectra(measured, expected)
        assert repr(measured.layers) == repr(expected.layers)
        assert len(seen) > 4

    def test_flipped_bits_of_what_is_read_whole(self, hub, undisturbed, monkeypatch):
        """config.json by its git blob id, a file of weights that comes in one piece by its sha256."""
        monkeypatch.setattr(hub_file, "HEAD_BYTES", 1 << 20)
        hub.faults = [first(1, Fault(flip_bit=80_000), WEIGHTS), first(1, Fault(flip_bit=1), "config.json")]
        assert weights_of(open_source(MODEL).open("step1")) == undisturbed
        assert [sum(r.path.endswith(name) for r in hub.requests) for name in (WEIGHTS, "config.json")] == [2, 2]

    def test_an_answer_that_is_not_json(self, hub, undisturbed):
        hub.faults = [first(2, Fault(flip_bit=6), "/refs"), first(2, Fault(flip_bit=6), "/step1")]
        source = open_source(MODEL)
        assert len(source.revisions()) == 3
        assert weights_of(source.open("step1")) == undisturbed


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
    def test_what_cannot_be_had_is_missing(self, hub, monkeypatch, name, reason, place):
        if name in SILENT:
            monkeypatch.setattr(retries, "ATTEMPTS", 2)  # each takes as long as the client is patient
        hub.faults = [staying(FAULTS[name], hub, suffix="/step1" if place == "listing" else PLACES[place])]
        with pytest.raises(CheckpointError, match=rf"^step1.*{reason}.*run again$") as caught:
            open_source(MODEL).open("step1")
        assert caught.value.status == "missing"
        assert caught.value.passing
        tried = [request for request in hub.requests if request.status and hub.faults[0](request)]
        assert len(tried) == retries.ATTEMPTS
        open_source(MODEL).open("step10")

    @pytest.mark.parametrize(
        ("fault", "place", "status"),
        [
            (FAULTS["503"], "listing", "missing"),
            (FAULTS["reset"], "config", "missing"),
            (Fault(status=403), "weights", "missing"),
            (FAULTS["truncated"], "weights", "missing"),
            (OF_BYTES["short"], "weights", "corrupt"),
        ],
    )
    def test_it_is_one_row_and_the_others_go_on(self, hub, fault, place, status):
        hub.faults = [staying(fault, hub, suffix="/step1" if place == "listing" else PLACES[place])]
        rows = ninscope.measure_all(MODEL, **SMALL)
        assert [row.status for row in rows] == ["ok", status, "ok"]
        assert rows[1].message.startswith("step1" if place == "listing" else f"step1/{PLACES[place]}")
        assert rows[1].message.isprintable()

    @pytest.mark.parametrize(
        ("fault", "told"),
        [
            (OF_BYTES["short"], r"asked for \d+ bytes at \d+, the server sent 10; run again"),
            (OF_BYTES["empty"], r"asked for \d+ bytes at \d+, the server sent another range; run again"),
            (OF_BYTES["more"], r"asked for \d+ bytes at \d+, the server sent \d+; run again"),
            (OF_BYTES["another place"], "the server sent another range; run again"),
            (OF_BYTES["compressed"], "the server sent them compressed; run again"),
            (OF_RANGES["range refused"], "fewer bytes than the Hub states"),
            (OF_RANGES["another file"], "a part of a file of 256 bytes, where the Hub states"),
        ],
    )
    def test_wrong_bytes_are_corrupt(self, hub, fault, told):
        """The client itself does not look: without a check, weights would silently be other weights."""
        checkpoint = open_source(MODEL).open("step1")
        hub.faults = [staying(fault, hub, suffix=WEIGHTS)]
        with pytest.raises(CheckpointError, match=rf"step1/model\.safetensors: .*{told}") as caught:
            open_source(MODEL).open("step1")
        assert caught.value.status == "corrupt"
        with pytest.raises(
            CheckpointError, match=r"step1/model\.safetensors: .*(the server sent|fewer bytes)"
        ) as caught:
            weights_of(checkpoint)
        assert caught.value.status == "corrupt"
        open_source(MODEL).open("step10")

    def test_a_short_configuration_is_corrupt(self, hub):
        hub.faults = [staying(Fault(short=4), hub, suffix="config.json")]
        with pytest.raises(CheckpointError, match=r"step1/config\.json: asked for \d+ bytes at 0, the server sent 4"):
            open_source(MODEL).identify("step1")

    def test_a_flipped_bit_is_corrupt(self, hub):
        hub.faults = [staying(Fault(flip_bit=1), hub, suffix="config.json")]
        with pytest.raises(CheckpointError, match=r"step1/config\.json: .* whose hash the Hub states") as caught:
            open_source(MODEL).identify("step1")
        assert caught.value.status == "corrupt"

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
    def test_what_will_not_change_is_asked_once(self, hub, status):
        hub.faults = [staying(Fault(status=status), hub, suffix=WEIGHTS)]
        with pytest.raises(CheckpointError, match=r"step1/model\.safetensors: ") as caught:
            open_source(MODEL).open("step1")
        assert caught.value.status == "missing"
        assert sum(request.path.endswith(WEIGHTS) for request in hub.requests) == 1

    @pytest.mark.parametrize("name", ["503", "stall", "reset"])
    def test_a_list_of_branches_is_a_request_that_failed(self, hub, monkeypatch, name):
        if name in SILENT:
            monkeypatch.setattr(retries, "ATTEMPTS", 2)
        hub.faults = [lambda request: FAULTS[name] if "/refs" in request.path else None]
        with pytest.raises(RequestError, match="org/tiny: no such folder, and the Hub cannot be asked"):
            open_source(MODEL).revisions()
        assert len(hub.requests) == retries.ATTEMPTS

    def test_an_answer_without_end_does_not_fill_memory(self, hub, monkeypatch):
        monkeypatch.setattr(hub_http, "MAX_JSON_BYTES", 100)
        with counted() as traffic, pytest.raises(RequestError, match="more than 100 bytes"):
            open_source(MODEL).revisions()
        assert traffic.fetched.requests == retries.ATTEMPTS

    def test_a_server_that_knows_no_ranges_is_read_once(self, hub, undisturbed, suite):
        hub.faults = [lambda request: Fault(ignore_range=True)]
        with counted() as traffic:
            assert weights_of(open_source(MODEL).open("step1")) == undisturbed
        listing = [request for request in hub.requests if not request.path.endswith(WEIGHTS)]
        size = (suite / "step1" / WEIGHTS).stat().st_size
        assert traffic.fetched.bytes == sum(request.bytes_sent for request in listing) + size
        assert sum(request.path.endswith(WEIGHTS) for request in hub.requests) == hub_file.IGNORED + 1

    def test_whose_bytes_are_checked(self, hub):
        hub.faults = [lambda request: Fault(ignore_range=True, flip_bit=80_000) if WEIGHTS in request.path else None]
        with pytest.raises(CheckpointError, match=r"step1/model\.safetensors: .* whose hash the Hub states") as no:
            open_source(MODEL).open("step1")
        assert no.value.status == "corrupt"

    def test_and_for_whose_files_there_is_no_room(self, hub, monkeypatch):
        class Full(io.BytesIO):
            def write(self, _):
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(hub_file.tempfile, "TemporaryFile", Full)
        hub.faults = [lambda request: Fault(ignore_range=True)]
        with pytest.raises(
            CheckpointError, match=r"sends no ranges, and there is no room for all of it: No space"
        ) as no:
            open_source(MODEL).open("step1")
        assert no.value.status == "missing"


class TestWaits:
    def test_grow_and_are_bounded(self, hub, pauses, monkeypatch):
        drawn = []
        monkeypatch.setattr(random, "uniform", lambda low, high: drawn.append((low, high)) or high)
        hub.faults = [staying(FAULTS["503"], hub, suffix="config.json")]
        with pytest.raises(CheckpointError):
            open_source(MODEL).open("step1")
        assert pauses == [1, 2, 4, 8, 16, 30]
        assert {low for low, _ in drawn} == {0}  # all of it is jitter

    def test_are_what_the_server_asks_for(self, hub, pauses, undisturbed):
        later = formatdate(time.time() + 20, usegmt=True)
        asked = [{"Retry-After": "7"}, {"Retry-After": later}, {"RateLimit": '"api";r=0;t=55'}, {"Retry-After": "0"}]
        left = iter(Fault(status=429, headers=headers) for headers in asked)
        hub.faults = [lambda request: next(left, None) if request.path.endswith("config.json") else None]
        assert weights_of(open_source(MODEL).open("step1")) == undisturbed
        for waited, least in zip(pauses, (7, 18, 55, 0), strict=True):
            assert least <= waited <= least + 4

    def test_of_an_hour_are_not_waited(self, hub, pauses):
        hub.faults = [staying(Fault(status=429, headers={"Retry-After": "3600"}), hub, suffix="config.json")]
        with pytest.raises(CheckpointError, match="429"):
            open_source(MODEL).open("step1")
        assert pauses == []

    def test_are_really_waited(self, hub, monkeypatch):
        """In real time, which no other test spends."""
        monkeypatch.setattr(retries, "pause", REAL_PAUSE)
        monkeypatch.setattr(random, "uniform", lambda low, high: 0.1)
        hub.faults = [first(2, FAULTS["503"], "/refs")]
        began = time.monotonic()
        open_source(MODEL).revisions()
        assert time.monotonic() - began >= 0.2
        given_up = threading.Event()
        given_up.set()
        REAL_PAUSE(60, given_up)
        assert time.monotonic() - began < 30

    def test_end_when_the_file_is_given_up(self, hub, monkeypatch):
        """Ranges beside the one that failed are not tried to the end, each by itself."""
        monkeypatch.setattr(hub_file, "SMALL_GAP_BYTES", 0)
        monkeypatch.setattr(hub_file, "GAP_SHARE", 0.0)
        checkpoint = open_source(MODEL).open("step1")
        tensor = checkpoint.tensors[used_names(checkpoint.tensors)[0]]
        ranges = [(start, start + 16) for start in range(tensor.entry.start, tensor.entry.stop, 32)]
        assert len(ranges) > 40
        hook, seen = within(FAULTS["503"], range(2, 10_000))
        hub.faults = [first(1, Fault(status=403), WEIGHTS), hook]
        with pytest.raises(CheckpointError):
            tensor.file.read_ranges(ranges)
        time.sleep(0.2)
        assert len(seen) < len(ranges) + 3 * retries.ATTEMPTS
