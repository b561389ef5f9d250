"""The local Hub on the wire, and every fault that it can be told to have."""

import hashlib
import http.client
import time

import pytest
from hub_fixture import FILE, MODEL, RESOLVE, WEIGHTS, connect, raw
from hub_server import Fault, HubServer, first
from huggingface_hub.errors import (
    HfHubHTTPError,
)


class TestWire:
    """What goes over the connection, for tests that count bytes and for those that break it."""

    @pytest.mark.parametrize(
        ("asked", "start", "stop"),
        [("bytes=0-0", 0, 1), ("bytes=5-", 5, None), ("bytes=-3", -3, None), ("bytes=2-99999999", 2, None)],
    )
    def test_ranges(self, hub, asked, start, stop):
        status, headers, body = raw(hub, Range=asked)
        content = WEIGHTS["main"]
        assert (status, body) == (206, content[start:stop])
        first_byte, after = hub.requests[-1].range
        assert headers["Content-Range"] == f"bytes {first_byte}-{after - 1}/{len(content)}"
        assert content[first_byte:after] == body

    def test_ranges_that_cannot_be_served(self, hub):
        status, headers, _ = raw(hub, Range=f"bytes={len(WEIGHTS['main'])}-")
        assert (status, headers["Content-Range"]) == (416, f"bytes */{len(WEIGHTS['main'])}")
        assert hub.bytes_served() == 0
        assert raw(hub, Range="bytes=0-1,4-5")[0] == raw(hub, Range="lines=0-1")[0] == 200

    def test_head(self, hub):
        digest = f'"{hashlib.sha256(WEIGHTS["main"]).hexdigest()}"'
        status, headers, body = raw(hub, method="HEAD", Range="bytes=0-3")
        assert (status, body, hub.bytes_served()) == (200, b"", 0)
        assert headers["ETag"] == headers["X-Linked-Etag"] == digest
        assert headers["Content-Length"] == headers["X-Linked-Size"] == str(len(WEIGHTS["main"]))
        assert headers["X-Repo-Commit"] == hub.refs[MODEL]["heads"]["main"]
        assert headers["Accept-Ranges"] == "bytes"
        assert "X-Linked-Size" not in raw(hub, "/org/model/resolve/main/config.json", method="HEAD")[1]

    def test_connections_are_kept_and_closed_on_leaving(self, repositories):
        with HubServer(repositories) as hub:
            connection = connect(hub)

            def read():
                connection.request("GET", RESOLVE)
                return connection.getresponse().read()

            assert [read() for _ in range(3)] == [WEIGHTS["main"]] * 3
            assert len(hub.connections) == 1
        with pytest.raises(ConnectionError):
            read()
        connection.close()
        with pytest.raises(ConnectionRefusedError):
            connect(hub).connect()


class TestFaults:
    def fault(self, hub, **fields):
        hub.faults[:] = [lambda request: Fault(**fields)]

    def test_status_and_headers(self, hub):
        self.fault(hub, status=429, headers={"Retry-After": "7"})
        status, headers, _ = raw(hub, Range="bytes=0-3")
        assert (status, headers["Retry-After"]) == (429, "7")
        assert hub.bytes_served() == 0
        assert hub.requests[-1].status == 429

    def test_reset_instead_of_an_answer(self, hub):
        self.fault(hub, reset=True)
        with pytest.raises(ConnectionResetError):
            raw(hub)
        assert hub.bytes_served() == 0

    def test_reset_within_the_body(self, hub):
        self.fault(hub, reset=True, truncate=10)
        with pytest.raises(ConnectionResetError):
            raw(hub)
        assert hub.bytes_served() == 10

    def test_truncated_body(self, hub):
        self.fault(hub, truncate=10)
        with pytest.raises(http.client.IncompleteRead) as caught:
            raw(hub, Range="bytes=100-199")
        assert caught.value.partial == WEIGHTS["main"][100:110]
        assert hub.bytes_served() == 10

    def test_short_body_looks_whole(self, hub):
        self.fault(hub, short=10)
        status, headers, body = raw(hub, Range="bytes=100-199")
        assert (status, body) == (206, WEIGHTS["main"][100:110])
        assert headers["Content-Range"].startswith("bytes 100-109/")

    def test_stalls(self, hub):
        for fields in ({"stall": 0.2}, {"stall": 0.2, "stall_at": 3}):
            self.fault(hub, **fields)
            began = time.monotonic()
            assert raw(hub, Range="bytes=0-9")[2] == WEIGHTS["main"][:10]
            assert time.monotonic() - began >= 0.2

    def test_a_client_that_gives_up_is_not_served(self, hub):
        self.fault(hub, stall=0.3)
        with pytest.raises(TimeoutError):
            raw(hub, timeout=0.1)
        time.sleep(0.4)
        assert hub.bytes_served() == 0

    def test_a_stall_ends_with_the_server(self, repositories):
        began = time.monotonic()
        with HubServer(repositories) as hub:
            self.fault(hub, stall=60)
            with pytest.raises(TimeoutError):
                raw(hub, timeout=0.1)
        assert time.monotonic() - began < 5

    def test_flipped_bit(self, hub):
        self.fault(hub, flip_bit=8 * 2 + 3)
        body = raw(hub, Range="bytes=100-199")[2]
        damage = int.from_bytes(body, "little") ^ int.from_bytes(WEIGHTS["main"][100:200], "little")
        assert damage == 1 << 19

    def test_ignored_range(self, hub):
        self.fault(hub, ignore_range=True)
        status, headers, body = raw(hub, Range="bytes=100-199")
        assert (status, body) == (200, WEIGHTS["main"])
        assert "Content-Range" not in headers
        assert hub.requests[-1].range is None

    def test_first_hits_as_often_as_told(self, hub):
        hub.faults = [first(2, Fault(status=500), "model.safetensors"), first(1, Fault(status=502))]
        assert [raw(hub)[0] for _ in range(4)] == [500, 500, 502, 200]

    def test_the_client_retries_until_the_fault_has_passed(self, hub, fs, monkeypatch):
        with fs.open(FILE, cache_type="none") as file:
            waits = []
            monkeypatch.setattr(time, "sleep", waits.append)
            hub.faults = [first(2, Fault(status=503), "model.safetensors"), first(1, Fault(truncate=3))]
            assert file.read(8) == WEIGHTS["main"][:8]
            assert waits == [1, 2, 4]
            assert hub.bytes_served() == 3 + 8
            hub.faults = [lambda request: Fault(status=503)]
            with pytest.raises(HfHubHTTPError):
                file.read(8)
