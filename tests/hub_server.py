"""A local server that speaks the part of the Hub's HTTP API that `huggingface_hub` uses to read models.

The package reads checkpoints with the real client, so its tests put a real server behind it rather than a
stub inside it: they see the requests that leave the process, the byte ranges these ask for and what happens
when the network misbehaves. Only files indexed at a push can be served, so no path leads outside of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

Files = Path | Mapping[str, bytes]
FaultHook = Callable[["Request"], "Fault | None"]
_Answer = tuple[int, Mapping[str, str], "bytes | _File"]  # status, headers, body
SIGNATURE = "Expires=1&Signature=not-to-be-seen"
LFS_SUFFIXES = (".safetensors", ".bin")


@dataclass
class Request:
    """One request as the server saw it; `status` and `bytes_sent` follow the answer while it is sent."""

    method: str
    path: str  # percent-decoded, without the query
    range: tuple[int, int] | None = None  # half-open, clipped to the file; None where none is honoured
    status: int = 0
    bytes_sent: int = 0  # of the body; counted just before each write, so never behind what a client has read
    is_file: bool = False  # the body is file content, not JSON
    query: str = ""
    authorization: str | None = None


@dataclass(frozen=True)
class Fault:
    """What to do instead of the right answer. Fields combine; those not set leave the answer as it is."""

    status: int | None = None  # answer with this status and an error body
    headers: Mapping[str, str] = field(default_factory=dict)  # added to the answer, e.g. Retry-After
    stall: float = 0.0  # seconds of silence ...
    stall_at: int | None = None  # ... after this many body bytes; None: before the first header
    truncate: int | None = None  # close after this many body bytes, with a Content-Length that says more
    short: int | None = None  # as many body bytes, with headers that agree: HTTP alone cannot tell
    reset: bool = False  # end with a TCP reset, after `truncate` bytes if set, else instead of an answer
    more: int = 0  # zero bytes after the right ones, with a Content-Length that counts them
    trickle: float = 0.0  # seconds of silence after every byte of the body
    flip_bit: int | None = None  # flip this bit, counted from the first body byte sent
    ignore_range: bool = False  # answer a range request with 200 and the whole file


def first(n: int, fault: Fault, suffix: str = "") -> FaultHook:
    """A hook that hits the first `n` requests for paths ending with `suffix`: the usual test of retries."""
    left = iter(range(n))
    return lambda request: fault if request.path.endswith(suffix) and next(left, None) is not None else None


def _read(source: Path | bytes, start: int, stop: int) -> Iterable[bytes]:
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        stream.seek(start)
        while start < stop and (chunk := stream.read(min(1 << 16, stop - start))):
            start += len(chunk)
            yield chunk


class _File:
    """A file of a commit, with the identities the Hub gives it: a git blob id and, for weights, a sha256."""

    def __init__(self, path: str, source: Path | bytes) -> None:
        self.path, self.source, self.lfs = path, source, None
        self.size = source.stat().st_size if isinstance(source, Path) else len(source)
        sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % self.size)
        for chunk in _read(source, 0, self.size):
            sha256.update(chunk)
            blob.update(chunk)
        self.oid = self.etag = blob.hexdigest()
        if path.endswith(LFS_SUFFIXES):  # git holds only a pointer, so the blob id is the pointer's
            self.etag = oid = sha256.hexdigest()
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {self.size}\n"
            self.oid = hashlib.sha1(b"blob %d\0%s" % (len(pointer), pointer.encode())).hexdigest()
            self.lfs = {"oid": oid, "sha256": oid, "size": self.size, "pointerSize": len(pointer)}


class _Snapshot:
    """The files of one commit. Its sha follows from their contents, so it is the same in every run."""

    def __init__(self, files: Files) -> None:
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p for p in files.rglob("*") if p.is_file()}
        self.files = {path: _File(path, files[path]) for path in sorted(files)}
        self.folders = {path[:i] for path in self.files for i, char in enumerate(path) if char == "/"}
        self.sha = self._oid("")

    def _oid(self, folder: str) -> str:
        lines = (f"{path}\0{file.etag}\n" for path, file in self.files.items() if path.startswith(folder))
        return hashlib.sha1("".join(lines).encode()).hexdigest()

    def entry(self, path: str, expand: bool) -> dict:
        last = {"lastCommit": {"id": self.sha, "title": "commit", "date": "2024-01-01T00:00:00.000Z"}} if expand else {}
        if path in self.folders:
            return {"type": "directory", "path": path, "oid": self._oid(path + "/"), "size": 0, **last}
        file = self.files[path]
        return {"type": "file", "path": path, "oid": file.oid, "size": file.size, "lfs": file.lfs, **last}

    def under(self, root: str, recursive: bool) -> list[str]:
        """What the tree endpoint lists at `root`: a folder's content, or a file itself."""
        if root in self.files:
            return [root]
        prefix = root and root + "/"
        below = [p for p in sorted({*self.files, *self.folders}) if p.startswith(prefix)]
        return [p for p in below if recursive or "/" not in p[len(prefix) :]]


class HubServer(ThreadingHTTPServer):
    """A Hub on a free port of 127.0.0.1: a context manager, with `endpoint` to give to the client.

    `repositories` maps repository -> branch -> files. With `redirect_lfs`, weights redirect to another path
    of this server, or of another that has the same repositories, as on the Hub to its storage, with a signed
    query: each range of them then costs two requests. `latency`: seconds before each answer. `tokens`: what
    private repositories ask for; `gated`: what must be shown for files alone.
    """

    daemon_threads = True
    request_queue_size = 128  # clients open many connections at once

    def __init__(
        self,
        repositories: Mapping[str, Mapping[str, Files]],
        redirect_lfs: bool | HubServer = False,
        latency: float = 0.0,
        tokens: Mapping[str, str] | None = None,
        gated: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.connections: list[socket.socket] = []
        self.stopping = threading.Event()  # so that a stalled answer does not outlive the test
        self.serve(repositories, redirect_lfs, latency, tokens, gated)

    def serve(
        self,
        repositories: Mapping[str, Mapping[str, Files]],
        redirect_lfs: bool | HubServer = False,
        latency: float = 0.0,
        tokens: Mapping[str, str] | None = None,
        gated: Mapping[str, str] | None = None,
    ) -> HubServer:
        """Forget all that was served and seen before, and serve this, at the same endpoint: one server for many tests."""
        self.stopping.set()
        self.stopping = threading.Event()
        self.requests: list[Request] = []
        self.faults: list[FaultHook] = []  # asked in order before each answer; the first fault is applied
        self.commits: dict[str, dict[str, _Snapshot]] = {repo: {} for repo in repositories}
        self.refs = {repo: {"heads": dict[str, str](), "tags": dict[str, str]()} for repo in repositories}
        for repo, branches in repositories.items():
            for branch, files in branches.items():
                self.push(repo, branch, files)
        self.storage = self if redirect_lfs is True else redirect_lfs or None
        self.latency, self.tokens, self.gated = latency, tokens or {}, gated or {}
        return self

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        for connection in self.connections:  # those kept alive would otherwise still be answered
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def push(self, repo: str, ref: str, files: Files, kind: str = "heads") -> str:
        """Move a branch (or tag) to a new commit and return its sha; earlier commits stay readable."""
        snapshot = _Snapshot(files)
        self.commits[repo][snapshot.sha] = snapshot
        self.refs[repo][kind][ref] = snapshot.sha
        return snapshot.sha

    def bytes_served(self, suffix: str = "") -> int:
        """Body bytes of file contents sent so far, for the files whose path ends with `suffix`."""
        return sum(r.bytes_sent for r in list(self.requests) if r.is_file and r.path.endswith(suffix))

    def get_request(self) -> tuple[socket.socket, object]:
        self.connections.append((accepted := super().get_request())[0])
        return accepted

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients that hang up are part of the tests
            super().handle_error(request, client_address)


@cache
def shared_server() -> HubServer:
    """The server of every test of this process that needs no other; its threads end with the process."""
    return HubServer({}).__enter__()


def _error(status: int, message: str, code: str = "", sha: str = "") -> _Answer:
    """An error as the client reads it: X-Error-Code decides which exception it raises."""
    headers = {"X-Error-Message": message, "X-Error-Code": code, "X-Repo-Commit": sha}
    return status, {key: value for key, value in headers.items() if value}, b'{"error": "see the headers"}'


def _json(value: object) -> _Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _listed_refs(refs: Mapping[str, Mapping[str, str]]) -> dict:
    listed: dict = {"converts": [], "pullRequests": []}
    for key, kind in (("branches", "heads"), ("tags", "tags")):
        listed[key] = [
            {"name": ref, "ref": f"refs/{kind}/{ref}", "targetCommit": sha} for ref, sha in refs[kind].items()
        ]
    return listed


def _described(repo: str, snapshot: _Snapshot, verb: str, path: str, form: dict[str, list[str]]) -> dict | list | None:
    """What the API tells of a commit, of a folder in it, or of some paths; None where there is no such thing."""
    if verb == "revision":
        blobs = {p: {"size": f.size, "blobId": f.oid, "lfs": f.lfs} for p, f in snapshot.files.items()}
        siblings = [{"rfilename": p, **(blobs[p] if "blobs" in form else {})} for p in blobs]
        about = {"sha": snapshot.sha, "siblings": siblings}
        return {"id": repo, **{key: about[key] for key in form.get("expand", about) if key in about}}
    if verb == "tree":
        listed = snapshot.under(path, form.get("recursive") == ["true"])
    elif verb == "paths-info":
        listed = [p for p in form.get("paths", []) if p in snapshot.files or p in snapshot.folders]
    else:
        return None
    expand = form.get("expand") == ["true"]
    return [snapshot.entry(p, expand) for p in listed] if listed or verb == "paths-info" or not path else None


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are separate writes: the body would wait for an ACK

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        form = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.seen = Request(self.command, unquote(url.path), query=url.query)
        self.seen.authorization = self.headers.get("Authorization")
        self.server.requests.append(self.seen)
        self.server.stopping.wait(self.server.latency)
        parts = [unquote(part) for part in url.path.split("/")[1:]]
        answer = self._route(parts, parse_qs(form or url.query))
        self.seen.status = answer[0]
        faults = (hook(self.seen) for hook in list(self.server.faults))
        self._send(*answer, next((fault for fault in faults if fault), Fault()))

    do_HEAD = do_POST = do_GET

    def _route(self, parts: list[str], form: dict[str, list[str]]) -> _Answer:
        api, stored = parts[:2] == ["api", "models"], parts[0] == "cdn"
        if not api and "resolve" not in parts:
            return _error(404, "Not found")
        parts = parts[2:] if api else parts[1:] if stored else parts
        repo, parts = "/".join(parts[:2]), parts[2:]
        if (refused := self._refused(repo, api, stored)) is not None:
            return refused
        verb, revision, *names = [*parts, *["revision", "main"][len(parts) :]]
        path = "/".join(names)
        refs = self.server.refs[repo]
        if api and verb == "refs":
            return _json(_listed_refs(refs))
        snapshot = self.server.commits[repo].get({**refs["tags"], **refs["heads"]}.get(revision, revision))
        if snapshot is None:
            return _error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if not api and verb == "resolve" and path in snapshot.files:
            return self._resolve(repo, snapshot, snapshot.files[path], stored)
        answer = _described(repo, snapshot, verb, path, form) if api else None
        return _error(404, "Entry not found", "EntryNotFound", snapshot.sha) if answer is None else _json(answer)

    def _refused(self, repo: str, api: bool, stored: bool) -> _Answer | None:
        """The error for whoever asks for what is not there, or not theirs; None where it may be seen."""
        if repo not in self.server.commits:
            return _error(404, "Repository not found", "RepoNotFound")
        if not stored and not self._shows(self.server.tokens.get(repo)):
            return _error(401, "Invalid username or password.", "RepoNotFound")
        if not stored and not api and not self._shows(self.server.gated.get(repo)):
            return _error(403, f"Access to model {repo} is restricted.", "GatedRepo")
        return None

    def _shows(self, token: str | None) -> bool:
        return token is None or self.seen.authorization == f"Bearer {token}"

    def _resolve(self, repo: str, snapshot: _Snapshot, file: _File, stored: bool) -> _Answer:
        headers = {"X-Repo-Commit": snapshot.sha, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if file.lfs:
            headers |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.etag}"'}
            if self.server.storage is not None and not stored:
                there = quote(f"/cdn/{repo}/resolve/{snapshot.sha}/{file.path}")
                return 302, {**headers, "Location": f"{self.server.storage.endpoint}{there}?{SIGNATURE}"}, b""
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked is None or asked[0] == "bytes=-" or self.command != "GET":
            return 200, headers, file  # several ranges at once too: the standard allows to ignore them
        start = int(asked[1]) if asked[1] else max(0, file.size - int(asked[2]))
        stop = min(int(asked[2]) + 1, file.size) if asked[1] and asked[2] else file.size
        if start >= stop:
            return 416, {"Content-Range": f"bytes */{file.size}"}, b""
        self.seen.range = start, stop
        return 206, headers, file

    def _send(self, status: int, headers: Mapping[str, str], body: bytes | _File, fault: Fault) -> None:
        if fault.status is not None:
            status, headers, body = _error(fault.status, "injected")
        elif fault.ignore_range and status == 206:
            status, self.seen.range = 200, None
        source, size = (body.source, body.size) if isinstance(body, _File) else (body, len(body))
        start, stop = self.seen.range if status == 206 else (0, size)
        stop = min(stop, start + (size if fault.short is None else fault.short))
        self.seen.status, self.seen.is_file = status, source is not body and self.command != "HEAD"
        self._stall(fault.stall if fault.stall_at is None else 0)
        if not fault.reset or fault.truncate is not None:
            self.send_response(status)
            part = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"} if status == 206 else {}
            for item in {**headers, **part, "Content-Length": str(stop - start + fault.more), **fault.headers}.items():
                self.send_header(*item)
            self.end_headers()
            end = min(stop, start + (size if fault.truncate is None else fault.truncate))
            self._send_body(_read(source, start, start if self.command == "HEAD" else end), fault)
        self.close_connection |= fault.reset or fault.truncate is not None
        if fault.reset:  # closed with no lingering and no shutdown first, a socket sends RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()  # it holds the socket open
            self.connection.close()

    def _send_body(self, chunks: Iterable[bytes], fault: Fault) -> None:
        if fault.trickle:
            chunks = [bytes([byte]) for chunk in chunks for byte in chunk]
        elif fault.stall_at is not None or fault.flip_bit is not None or fault.more:
            whole = bytearray().join(chunks) + bytes(fault.more)
            if fault.flip_bit is not None and fault.flip_bit < 8 * len(whole):
                whole[fault.flip_bit // 8] ^= 1 << fault.flip_bit % 8
            cut = len(whole) if fault.stall_at is None else fault.stall_at
            chunks = [whole[:cut], whole[cut:]]
        for number, chunk in enumerate(chunks):
            self._stall(fault.trickle or (fault.stall if number and fault.stall_at is not None else 0))
            self.seen.bytes_sent += len(chunk)
            self.wfile.write(chunk)

    def _stall(self, seconds: float) -> None:
        self.server.stopping.wait(seconds)
        if seconds and select.select([self.connection], [], [], 0)[0]:
            raise ConnectionAbortedError  # the client hung up: bytes written now would count as served
