"""Private and gated repositories by the client's own token, and the storage that the Hub sends its readers on to."""

import io
import logging
from collections.abc import Iterator

import pytest
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from hub_server import SIGNATURE, Fault, HubServer, first
from huggingface_hub import constants
from test_hub_source import MODEL, SMALL, WEIGHTS, branches, same_spectra, suite, weights_of  # noqa: F401 (fixtures)

import ninscope
from ninscope.checkpoints.hub import file as hub_file
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError, RequestError

TOKEN = "hf_" + "SecretOfTheOwner" * 2
SECRET = SIGNATURE.rsplit("=", 1)[1]


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What is logged meanwhile: by ninscope all, and by others what they would show."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    # Loggers of huggingface_hub pass nothing on to the root.
    listened_to = [logging.getLogger(), logging.getLogger("huggingface_hub")]
    ours = logging.getLogger("ninscope")
    level = ours.level
    for logger in listened_to:
        logger.addHandler(handler)
    ours.setLevel(logging.DEBUG)
    yield text
    ours.setLevel(level)
    for logger in listened_to:
        logger.removeHandler(handler)


@pytest.fixture
def storage(suite):
    """Another host that holds the files."""
    with HubServer({MODEL: branches(suite)}) as server:
        yield server


def of_weights(server):
    return [request for request in server.requests if request.path.endswith(WEIGHTS)]


class TestToken:
    @pytest.mark.parametrize("kind", ["tokens", "gated"])
    def test_opens_what_is_not_public(self, serve, suite, token, kind):
        hub = serve({MODEL: branches(suite)}, **{kind: {MODEL: TOKEN}})
        ours, theirs = (ninscope.measure_all(source, **SMALL) for source in (MODEL, str(suite)))
        for left, right in zip(ours, theirs, strict=True):
            same_spectra(left.spectrum, right.spectrum)
        assert {request.authorization for request in hub.requests} == {f"Bearer {TOKEN}"}

    def test_without_it_a_private_repository_is_as_good_as_none(self, serve, suite):
        hub = serve({MODEL: branches(suite)}, tokens={MODEL: TOKEN})
        for revision in (None, "step1"):
            with pytest.raises(
                RequestError, match=r"org/tiny: no such folder, .* no access to it: hf auth login, or HF_TOKEN"
            ):
                ninscope.measure_all(MODEL, revision)
        assert len(hub.requests) == 2  # not tried again

    def test_without_it_a_gated_repository_says_what_to_do(self, serve, suite):
        serve({MODEL: branches(suite)}, gated={MODEL: TOKEN})
        rows = ninscope.measure_all(MODEL, **SMALL)
        assert [row.status for row in rows] == ["missing"] * 3
        assert "the repository is gated; log in (hf auth login, or HF_TOKEN) and accept its terms" in rows[1].message

    def test_is_not_sent_to_another_host(self, serve, suite, token, storage):
        hub = serve({MODEL: branches(suite)}, redirect_lfs=storage, tokens={MODEL: TOKEN})
        assert [row.status for row in ninscope.measure_all(MODEL, **SMALL)] == ["ok"] * 3
        assert {request.authorization for request in hub.requests} == {f"Bearer {TOKEN}"}
        assert {request.authorization for request in storage.requests} == {None}
        assert len(storage.requests) > 3

    @pytest.mark.parametrize("status", [400, 403, 429, 500])
    @pytest.mark.parametrize("place", ["/refs", "/revision/step1", WEIGHTS])
    def test_is_in_no_message_even_where_the_server_repeats_it(self, serve, suite, token, logged, status, place):
        hub = serve({MODEL: branches(suite)})
        told = f"bad credentials {TOKEN} at https://someone:pass@far.away/x?{SIGNATURE}"
        fault = Fault(status=status, headers={"X-Error-Message": told})
        hub.faults = [lambda request: fault if place in request.path else None]
        source = open_source(MODEL)
        with pytest.raises((CheckpointError, RequestError)) as caught:
            source.revisions() if place == "/refs" else source.open("step1")
        text = f"{caught.value} {logged.getvalue()}"
        assert str(status) in text
        assert "bad credentials *** at https://far.away/x" in text
        assert not [secret for secret in (TOKEN, SECRET, "someone", "pass@") if secret in text]


class TestStorage:
    @pytest.fixture
    def hub(self, serve, suite, storage, monkeypatch):
        monkeypatch.setattr(hub_file, "SMALL_GAP_BYTES", 0)
        monkeypatch.setattr(hub_file, "GAP_SHARE", 0.0)
        return serve({MODEL: branches(suite)}, redirect_lfs=storage)

    def check_weights(self, suite):
        assert weights_of(open_source(MODEL).open("step1")) == weights_of(open_source(suite).open("step1"))

    def test_is_asked_for_once_a_file(self, hub, storage, suite):
        self.check_weights(suite)
        assert len(of_weights(hub)) == 1
        assert len(of_weights(storage)) > 8
        assert {request.query for request in storage.requests} == {SIGNATURE}

    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    def test_is_asked_for_again_when_a_signed_url_has_expired(self, hub, storage, suite, status):
        seen = []

        def hook(request):
            seen.append(request)
            return Fault(status=status) if len(seen) == 4 else None

        storage.faults = [hook]
        self.check_weights(suite)
        assert 2 <= len(of_weights(hub)) < 10

    def test_that_refuses_for_good_costs_one_checkpoint(self, hub, storage):
        commit = hub.refs[MODEL]["heads"]["step1"]
        storage.faults = [lambda request: Fault(status=403) if commit in request.path else None]
        rows = ninscope.measure_all(MODEL, **SMALL)
        assert [row.status for row in rows] == ["ok", "missing", "ok"]
        assert "403 Forbidden" in rows[1].message
        assert SECRET not in rows[1].message
        assert sum(commit in request.path for request in of_weights(hub)) <= 3

    @pytest.mark.parametrize("fault", [Fault(status=503), Fault(reset=True), Fault(short=5), Fault(truncate=5)])
    def test_that_fails_for_a_while(self, hub, storage, suite, fault):
        storage.faults = [first(5, fault)]
        self.check_weights(suite)

    def test_redirects_without_end(self, hub):
        there = {"Location": f"{hub.endpoint}/{MODEL}/resolve/main/{WEIGHTS}"}
        hub.faults = [lambda request: Fault(status=302, headers=there) if request.path.endswith(WEIGHTS) else None]
        with pytest.raises(CheckpointError, match="more than 5 redirects"):
            open_source(MODEL).open("step1")

    @pytest.mark.parametrize("there", [{}, {"Location": "file:///etc/passwd"}, {"Location": "http://[broken"}])
    def test_redirects_that_lead_nowhere(self, hub, there):
        hub.faults = [lambda request: Fault(status=302, headers=there) if request.path.endswith(WEIGHTS) else None]
        with pytest.raises(CheckpointError, match=r"step1/model\.safetensors: cannot be fetched") as caught:
            open_source(MODEL).open("step1")
        assert caught.value.status == "missing"
