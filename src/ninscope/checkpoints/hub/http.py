"""One request to the Hub, or on to the storage it names, by the session of the real client: its proxies, its endpoint.

An answer is never trusted to be as long as it should be, to end, or to be what it says. What may pass is raised as Passing,
what will not as Refused. Reasons go into messages and tables: they hold no query of a URL (which may be signed) and no token.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

from huggingface_hub import constants, get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]  # it lists no exports
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from ninscope.checkpoints.hub.retries import Passing
from ninscope.checkpoints.hub.traffic import Traffic
from ninscope.errors import one_line

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0
SLOWEST_BYTES_A_SECOND = 20_000  # an attempt that takes longer than this and a silence is given up
JSON_SECONDS = 120.0
MAX_REDIRECTS = 5
MAX_JSON_BYTES = 64_000_000  # of a listing of some 200,000 files
_PASSING = (408, 425, 429)  # and every 5xx
_NEVER = ("UnsupportedProtocol", "InvalidURL")  # what HF_ENDPOINT may make of a URL
_QUERY = re.compile(r"(https?://[^\s?#'\"<>]*)[?#][^\s'\"<>]*")
_USER = re.compile(r"(https?://)[^/@\s]*@")


class Response(Protocol):
    """What is used of the client's responses, whichever library it makes its requests with."""

    status_code: int
    next_request: Any

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def reason_phrase(self) -> str: ...

    @property
    def request(self) -> Any: ...

    @property
    def url(self) -> Any: ...

    def iter_raw(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class Refused(Exception):
    """An answer that will not change. code: the HTTP status; error: the client's own exception for it, where it has one."""

    def __init__(self, reason: str, code: int = 0, error: Exception | None = None):
        super().__init__(reason)
        self.reason, self.code, self.error = reason, code, error


def ask(url: str, headers: Mapping[str, str], traffic: Traffic) -> Response:
    """The answer (200 or 206) to a GET, its body still to be read and it to be closed. Raises Passing, Refused.

    Redirects are followed; the client leaves the Authorization header behind where they lead to another host.
    """
    session = get_session()
    timeout = (CONNECT_SECONDS, SILENCE_SECONDS, SILENCE_SECONDS, None)  # connect, read, write, a free connection
    try:
        request = session.build_request("GET", url, headers={**headers, "accept-encoding": "identity"}, timeout=timeout)
        for _ in range(MAX_REDIRECTS + 1):
            traffic.add(requests=1)
            response = session.send(request, stream=True, follow_redirects=False)
            if response.status_code in (200, 206):
                return response
            response.close()
            if response.next_request is None:
                raise _fault(response)
            request = response.next_request
    except OfflineModeIsEnabled:
        raise Refused("the client is set to offline mode, HF_HUB_OFFLINE") from None
    except ValueError as error:
        raise Refused(_plain(str(error)) or "no URL") from None
    except (HTTPError, OSError) as error:
        reason = _plain(str(error)) or type(error).__name__
        if type(error).__name__ in _NEVER:
            raise Refused(reason) from None
        raise Passing(reason) from None
    raise Refused(f"more than {MAX_REDIRECTS} redirects")


def read_into(response: Response, content: memoryview, traffic: Traffic) -> int:
    """Read a body of at most len(content) bytes; returns how many there were. Raises Passing, where there are more too."""
    filled = 0
    for chunk in chunks_of(response, len(content), traffic):
        content[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return filled


def chunks_of(response: Response, most: int, traffic: Traffic) -> Iterator[bytes]:
    """A body of at most so many bytes, as it comes. Raises Passing, where there are more too."""
    return _chunks(response, most, SILENCE_SECONDS + most / SLOWEST_BYTES_A_SECOND, traffic)


def ask_json(url: str, traffic: Traffic) -> Any:
    """The JSON value that the Hub answers. Raises Passing, where it is none too, and Refused."""
    with closing(ask(url, build_hf_headers(), traffic)) as response:
        raw = b"".join(_chunks(response, MAX_JSON_BYTES, JSON_SECONDS, traffic))
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise Passing("its answer is not JSON") from None


def _chunks(response: Response, most: int, seconds: float, traffic: Traffic) -> Iterator[bytes]:
    """A body as it comes: at most so many bytes, in at most so many seconds. Raises Passing."""
    end = time.monotonic() + seconds
    total = 0
    try:
        for chunk in response.iter_raw():
            traffic.add(bytes=len(chunk))
            total += len(chunk)
            if total > most:
                raise Passing(f"the server sent more than {most} bytes", "corrupt")
            yield chunk
            if time.monotonic() > end:
                raise Passing(f"too slow: {total} bytes in {seconds:.0f} seconds")
    except (HTTPError, OSError) as error:
        raise Passing(_plain(str(error)) or type(error).__name__) from None


def silence(seconds: float) -> str:
    """Why the Hub does not answer a HEAD within so many seconds, in a few words; empty where it answers. No token is sent.

    Finding the host's address may take longer than that.
    """
    try:
        response = get_session().head(constants.ENDPOINT, timeout=seconds)
    except OfflineModeIsEnabled:
        return "the client is set to offline mode, HF_HUB_OFFLINE"
    except (HTTPError, OSError, ValueError) as error:
        return _plain(str(error)) or type(error).__name__
    return _plain(f"{response.status_code} {response.reason_phrase}") if response.status_code >= 500 else ""


def same_place(url: str, other: str) -> bool:
    """Whether two URLs are of one host, port and scheme: what is sent to the first may be sent to the second."""
    return urlsplit(url)[:2] == urlsplit(other)[:2]


def _fault(response: Response) -> Passing | Refused:
    code, headers = response.status_code, response.headers
    reason = _plain(
        ": ".join(part for part in (f"{code} {response.reason_phrase}", headers.get("x-error-message")) if part)
    )
    if code in _PASSING or code >= 500:
        return Passing(reason, after=_asked_to_wait(headers))
    if code == 416:
        return Passing(f"the server has fewer bytes than the Hub states ({reason})", "corrupt")
    try:  # the Hub's headers tell which error it is; a body, of any length, is not read for it
        stated = {name: value for name, value in headers.items() if name.startswith("x-")}
        response_class: Any = type(response)
        hf_raise_for_status(response_class(code, headers=stated, request=response.request))
    except HfHubHTTPError as error:
        return Refused(reason, code, error)
    return Passing(reason)  # neither content nor an error


def _asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds, by Retry-After (a number, or a date) or the Hub's own RateLimit header."""
    wait = headers.get("retry-after", "").strip()
    if wait.isdecimal():
        return float(wait[:9])
    if wait:
        try:
            now = parsedate_to_datetime(headers["date"]).timestamp() if "date" in headers else time.time()
            return max(parsedate_to_datetime(wait).timestamp() - now, 0.0)
        except (ValueError, TypeError, OverflowError):
            return None
    spent = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})", headers.get("ratelimit", ""))
    return float(spent[1]) if spent else None


def _plain(text: str) -> str:
    """The first line of a reason, without what must not be seen."""
    text = _USER.sub(r"\1", _QUERY.sub(r"\1", text[:10_000]))
    if token := get_token():
        text = text.replace(token, "***")
    return one_line((text.splitlines() or [""])[0])[:160]
