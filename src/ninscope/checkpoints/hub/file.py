"""A file at one commit of a Hub repository, read by byte ranges: near ones in one request, several requests at a time.

Every answer must be the range that was asked for, whole; a file read in one piece must have the hash that the Hub states.
"""

import re
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from operator import itemgetter
from typing import IO

import numpy as np
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # it lists no exports

from ninscope.checkpoints.hub.http import Refused, Response, ask, chunks_of, read_into, same_place
from ninscope.checkpoints.hub.range_digest import RangeDigest, RepeatedDigest
from ninscope.checkpoints.hub.retries import Passing, persistently
from ninscope.checkpoints.hub.stated_digest import NO_DIGEST, StatedDigest
from ninscope.checkpoints.hub.traffic import Traffic
from ninscope.checkpoints.spans import Span
from ninscope.errors import CheckpointError

HEAD_BYTES = 1 << 16  # what the first request brings: the header of some 500 tensors
EARLY_BYTES = 4_000_000  # of a header that is longer than the head
PIECE_BYTES = 8_000_000  # what one request asks for at most
# A request costs about a kilobyte of headers; larger gaps are read through where they are next to nothing.
SMALL_GAP_BYTES, LARGEST_GAP_BYTES, GAP_SHARE = 1024, 1 << 16, 0.01
_EXPIRED = (401, 403, 404, 410)  # what storage answers to a signed URL past its time
_RESOLVED_AGAIN = 2
_OTHER_BYTES = "its bytes are not those whose hash the Hub states"
IGNORED = 2  # ranges that a server may ignore before all of the file is taken from it


class HubFile:
    """One file at one commit. url: where the Hub resolves it; digest: as `FileIdentity`; ahead: what the first request brings.

    Several threads may read at once. Once a read has failed for good every other fails the same way, without waiting.
    """

    reads_are_free = False

    def __init__(
        self, url: str, name: str, size: int, digest: str, pool: Executor, traffic: Traffic, ahead: int | None = None
    ):
        self.name, self.size = name, size
        self._url, self._digest, self._pool, self._traffic = url, digest, pool, traffic
        self._ahead = min(HEAD_BYTES if ahead is None else ahead, size)
        self._target = url  # where the bytes really are, once known
        self._head: memoryview | None = None
        self._heading = threading.Lock()
        self._range_digest: RangeDigest | RepeatedDigest | None = None
        self._early: list[tuple[int, memoryview]] = []  # what was read before a check began: the header
        self._verified = False
        self._in_parts = False  # whether some of what was read came as a range
        self._failure: CheckpointError | None = None
        self._given_up = threading.Event()
        self._ignored = 0  # ranges for which the server sent the whole file
        self._kept: IO[bytes] | None = None  # which is kept on disk, once that is all it does
        self._kept_is_checked = False
        self._keeping = threading.Lock()

    def read_ranges(self, ranges: Sequence[Span]) -> list[memoryview]:
        """The bytes of every range. Raises CheckpointError (missing, corrupt)."""
        return self.start_ranges(ranges)()

    def start_ranges(self, ranges: Sequence[Span]) -> Callable[[], list[memoryview]]:
        """Begin to read; what is returned waits for the bytes of every range. Both raise CheckpointError (missing, corrupt)."""
        head = self._held() if any(start < self._ahead and start < stop for start, stop in ranges) else None
        spans = self.spans(ranges)
        reads = [self._start(span) for span in spans]

        def finish() -> list[memoryview]:
            pieces = [read() for read in reads]
            return [self._cut(span, head, spans, pieces) for span in ranges]

        return finish

    def spans(self, ranges: Sequence[Span]) -> list[Span]:
        """What is fetched for these ranges beside the file's head: in order, those with little between them as one."""
        beyond = sorted((max(start, self._ahead), stop) for start, stop in ranges if stop > max(start, self._ahead))
        joined: list[Span] = []
        for start, stop in beyond:
            if joined and start - joined[-1][1] <= _gap(joined[-1], (start, stop)):
                joined[-1] = joined[-1][0], max(joined[-1][1], stop)
            else:
                joined.append((start, stop))
        return joined

    @property
    def is_verified(self) -> bool:
        """As `Checkable`."""
        return self._verified or (self._kept_is_checked and not self._in_parts)

    @property
    def held(self) -> list[Span]:
        """As `Checkable`."""
        return [(0, self._ahead), *((start, start + len(content)) for start, content in self._early)]

    def begin_check(self, repeated: bool) -> None:
        """As `Checkable`. Of a file whose hash the Hub does not state there is none, nor where much was read already."""
        early = sum(len(content) for _, content in self._early)
        if not self._digest.startswith(NO_DIGEST) and early <= EARLY_BYTES:
            self._verified = False  # what is read from now on is another reading
            self._range_digest = (RepeatedDigest if repeated else RangeDigest)(self._digest, self.size)
            for start, content in ((0, self._held()), *self._early):
                self._range_digest.note(start, content)

    def end_check(self, most: int) -> None:
        """As `Checkable`."""
        digest, self._range_digest = self._range_digest, None
        if digest is None:
            return
        confirmed = digest.confirmed(self._fetched, most)
        if confirmed is False:
            raise self._failed("corrupt", f"{_OTHER_BYTES}; run again", passing=True)
        self._verified = bool(confirmed)

    def _fetched(self, start: int, stop: int) -> memoryview:
        content = np.empty(stop - start, np.uint8).data
        self._fetch(start, content)
        return content

    def _held(self) -> memoryview:
        """The first bytes of the file, fetched once."""
        with self._heading:
            if self._head is None:
                content = np.empty(self._ahead, np.uint8).data
                self._fetch(0, content)
                self._head = content
            return self._head

    def _start(self, span: Span) -> Callable[[], memoryview]:
        start, stop = span
        content = np.empty(stop - start, np.uint8).data
        cuts = range(0, len(content), PIECE_BYTES)
        futures = [self._pool.submit(self._use, start + cut, content[cut : cut + PIECE_BYTES]) for cut in cuts]

        def finish() -> memoryview:
            for future in futures:
                future.result()
            return content

        return finish

    def _cut(
        self, span: Span, head: memoryview | None, spans: Sequence[Span], pieces: Sequence[memoryview]
    ) -> memoryview:
        """The bytes of a range, from the file's head and what was fetched beyond it."""
        start, stop = span
        within = memoryview(b"") if head is None else head[start:stop]
        if len(within) == max(stop - start, 0):
            return within
        beyond = max(start, self._ahead)
        number = bisect_right(spans, beyond, key=itemgetter(0)) - 1
        first = spans[number][0]
        rest = pieces[number][beyond - first : stop - first]
        return np.concatenate([np.asarray(within), np.asarray(rest)]).data if len(within) else rest

    def _use(self, start: int, content: memoryview) -> None:
        """Fetch what is used, and note it where the file is being checked. Raises CheckpointError."""
        self._fetch(start, content)
        if (digest := self._range_digest) is not None:
            digest.note(start, content)
        elif sum(len(piece) for _, piece in self._early) <= EARLY_BYTES:
            self._early.append((start, content))

    def _fetch(self, start: int, content: memoryview) -> None:
        """Fill `content` from the file's byte `start` on. Raises CheckpointError."""

        def once() -> None:
            if self._failure is not None:
                raise self._failure
            self._read(start, content)

        try:
            persistently(once, self._given_up)
        except Passing as fault:
            reason = fault.reason if fault.status == "corrupt" else f"cannot be fetched ({fault.reason})"
            raise self._failed(fault.status, f"{reason}; run again", passing=True) from None
        except Refused as fault:
            raise self._failed("missing", _told(fault)) from None

    def _failed(self, status: str, message: str, passing: bool = False) -> CheckpointError:
        self._failure = self._failure or CheckpointError(status, f"{self.name}: {message}", passing)
        self._given_up.set()
        return self._failure

    def _read(self, start: int, content: memoryview) -> None:
        """One attempt. Raises Passing, Refused."""
        if self._kept is not None:
            self._read_kept(start, content)
            return
        request = f"asked for {len(content)} bytes at {start}, the server sent"
        whole = len(content) == self.size
        headers = {} if whole else {"range": f"bytes={start}-{start + len(content) - 1}"}
        with closing(self._ask(headers)) as response:
            if headers and _is_whole(response, self.size):
                self._keep(response, f"{request} the whole file")
                self._read_kept(start, content)
                return
            length, wrong = _stated(response.status_code, response.headers, start, len(content), self.size)
            if wrong:
                raise Passing(f"{request} {wrong}", "corrupt")
            if length != len(content):
                raise Passing(f"{request} {length}", "corrupt")
            filled = read_into(response, content, self._traffic)
        if filled != len(content):
            raise Passing(f"{request} {filled}", "corrupt")
        self._in_parts |= not whole
        if whole and not self._digest.startswith(NO_DIGEST):
            digest = StatedDigest(self._digest, self.size)
            digest.update(content)
            if not digest.matches():
                raise Passing(_OTHER_BYTES, "corrupt")
            self._verified = True

    def _keep(self, response: Response, ignored: str) -> None:
        """Keep the whole file that a server sends in place of a range, where it does so again. Raises Passing, Refused."""
        with self._keeping:
            self._ignored += 1
            if self._kept is not None:
                return  # while this answer waited
            if self._ignored <= IGNORED:
                raise Passing(ignored, "corrupt")
            kept, digest = tempfile.TemporaryFile(), StatedDigest(self._digest, self.size)  # noqa: SIM115  as long as this object
            try:
                for chunk in chunks_of(response, self.size, self._traffic):
                    kept.write(chunk)
                    digest.update(chunk)
            except OSError as error:
                raise Refused(
                    f"the server sends no ranges, and there is no room for all of it: {error.strerror}"
                ) from None
            is_stated = not self._digest.startswith(NO_DIGEST)
            if kept.tell() != self.size or (is_stated and not digest.matches()):
                raise Passing(_OTHER_BYTES, "corrupt")
            self._kept_is_checked = is_stated
            self._kept = kept

    def _read_kept(self, start: int, content: memoryview) -> None:
        with self._keeping:
            if self._kept is None:
                raise ValueError("nothing is kept")
            self._kept.seek(start)
            self._kept.readinto(content)  # type: ignore[attr-defined]  # it is a file on disk

    def _ask(self, headers: Mapping[str, str]) -> Response:
        """The answer of wherever the bytes are. A place that the Hub once sent us to is asked directly while it lasts."""
        for left in reversed(range(_RESOLVED_AGAIN + 1)):
            target = self._target
            own = build_hf_headers() if same_place(target, self._url) else {}
            try:
                response = ask(target, {**own, **headers}, self._traffic)
            except Refused as fault:
                if target == self._url or fault.code not in _EXPIRED or not left:
                    raise
                self._target = self._url
                continue
            url = str(response.url)
            # A mere change to https is followed each time: a target remembered there would be asked without the token.
            if url != target and (same_place(url, self._url) or not _same_host(url, self._url)):
                self._target = url
            return response
        raise AssertionError("the last round returns or raises")


def _same_host(url: str, other: str) -> bool:
    return url.split("://")[1].split("/")[0] == other.split("://")[1].split("/")[0]


def _gap(before: Span, after: Span) -> float:
    """How many bytes between two spans are read through."""
    share = GAP_SHARE * (before[1] - before[0] + after[1] - after[0])
    return max(SMALL_GAP_BYTES, min(share, LARGEST_GAP_BYTES))


def _is_whole(response: Response, size: int) -> bool:
    """Whether an answer to a request for a range is all of the file, as a server sends it that knows no ranges."""
    plain = response.headers.get("content-encoding", "identity") == "identity"
    return response.status_code == 200 and plain and response.headers.get("content-length") == str(size)


def _stated(code: int, headers: Mapping[str, str], start: int, length: int, size: int) -> tuple[int, str]:
    """(how many bytes an answer says it has, what is wrong with it otherwise)"""
    if headers.get("content-encoding", "identity") != "identity":
        return 0, "them compressed"
    stated = headers.get("content-length")
    if code == 206:
        sent = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", headers.get("content-range", ""))
        if not sent or int(sent[1]) != start:
            return 0, "another range"
        if sent[3] not in ("*", str(size)):
            return 0, f"a part of a file of {sent[3]} bytes, where the Hub states {size}"
        length = int(sent[2]) + 1 - start
    elif length != size:
        return 0, "the whole file"
    return int(stated) if stated is not None and stated.isdecimal() and len(stated) < 18 else length, ""


def _told(fault: Refused) -> str:
    if isinstance(fault.error, GatedRepoError):
        return "the repository is gated; log in (hf auth login, or HF_TOKEN) and accept its terms"
    if fault.code == 401:
        return "access is denied; log in (hf auth login, or HF_TOKEN) with an account that may read it"
    if isinstance(fault.error, EntryNotFoundError):
        return "no longer in the repository"
    return f"cannot be fetched ({fault.reason}); run again"
