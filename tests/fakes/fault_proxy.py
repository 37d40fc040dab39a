"""A proxy before a real engine's socket that misbehaves on command: the faults that a healthy engine never shows.

    proxy = FaultProxy("unix:///run/…/docker.sock")
    proxy.fault("GET", r"/containers/.*/json", Answer(500))      # until `clear()`
    proxy.fault("POST", r"/start", Drop(after=True), times=1)    # done by the engine, but nobody learns it

The engine sees each connection once; what has no fault passes through unchanged.
"""

from __future__ import annotations

import contextlib
import re
import socket
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """Answer this instead of asking the engine. `raw` replaces the whole answer, headers too."""

    status: int = 500
    body: bytes = b'{"message":"injected"}'
    raw: bytes = b""

    def bytes(self) -> bytes:
        head = f"HTTP/1.1 {self.status} Injected\r\nContent-Type: application/json\r\nConnection: close\r\n"
        return self.raw or head.encode() + f"Content-Length: {len(self.body)}\r\n\r\n".encode() + self.body


@dataclass(frozen=True)
class Drop:
    """Close the connection without an answer; `after` the engine did what was asked, or instead."""

    after: bool = False


@dataclass(frozen=True)
class Hold:
    """Give no answer until `release` is set; then ask the engine, or close where the proxy is closed."""

    release: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Duplicate:
    """Ask the engine twice, as a client that retries would; the second answer counts."""


Fault = Answer | Drop | Hold | Duplicate


@dataclass
class _Rule:
    method: str
    path: re.Pattern[str]
    fault: Fault
    left: int | None


class FaultProxy:
    """Listens on a socket of its own, `url`, and passes on to `upstream`, both `unix://` addresses."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream.removeprefix("unix://")
        self._folder = tempfile.TemporaryDirectory(prefix="ds01-proxy-")
        self.path = str(Path(self._folder.name) / "engine.sock")
        self.url = f"unix://{self.path}"
        self.requests: list[str] = []
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listen()

    def _listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(64)
        self._spawn(self._accept)

    def fault(self, method: str, path: str, fault: Fault, *, times: int | None = None) -> None:
        """From now on requests with this method whose path has this pattern meet `fault`, the next `times` or all."""
        with self._lock:
            self._rules.append(_Rule(method, re.compile(path), fault, times))

    def clear(self) -> None:
        """No faults any more; what is held goes on."""
        with self._lock:
            rules, self._rules = self._rules, []
        for rule in rules:
            if isinstance(rule.fault, Hold):
                rule.fault.release.set()

    def cut(self) -> None:
        """Break every open connection and refuse new ones, as an engine that died."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        Path(self.path).unlink()
        with self._lock:
            connections = set(self._open)
        for connection in connections:
            _shut(connection)

    def mend(self) -> None:
        """Listen again after `cut`."""
        self._listen()

    def close(self) -> None:
        """End; nothing is left."""
        self._closing.set()
        self.clear()
        if Path(self.path).exists():
            self.cut()
        for thread in self._threads:
            thread.join(5)
        self._folder.cleanup()

    def _spawn(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        listener = self._listener
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._spawn(self._serve, connection)

    def _serve(self, client: socket.socket) -> None:
        with client:
            self._track(client)
            try:
                if request := _read_request(client):
                    self._answer(client, request)
            except OSError:
                pass  # either side went away, which is what this proxy is for
            finally:
                self._open.discard(client)

    def _track(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)

    def _answer(self, client: socket.socket, request: bytes) -> None:
        method, path = request.split(b" ", 2)[:2]
        with self._lock:
            self.requests.append(f"{method.decode()} {path.decode()}")
        fault = self._fault_for(method.decode(), path.decode())
        if isinstance(fault, Answer):
            client.sendall(fault.bytes())
            return
        if isinstance(fault, Drop) and not fault.after:
            return
        if isinstance(fault, Hold):
            fault.reached.set()
            fault.release.wait()
            if self._closing.is_set():
                return
        if isinstance(fault, Drop | Duplicate):
            self._pass_on(None, request)
        if not isinstance(fault, Drop):
            self._pass_on(client, request)

    def _fault_for(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for rule in self._rules:
                if rule.method == method and rule.path.search(path) and rule.left != 0:
                    rule.left = None if rule.left is None else rule.left - 1
                    return rule.fault
        return None

    def _pass_on(self, client: socket.socket | None, request: bytes) -> None:
        """Ask the engine on a connection of its own; its answer goes to `client`, or nowhere."""
        with socket.socket(socket.AF_UNIX) as upstream:
            upstream.connect(self._upstream)
            self._track(upstream)
            upstream.sendall(request)
            try:
                while chunk := upstream.recv(1 << 16):
                    if client is not None:
                        client.sendall(chunk)
            finally:
                self._open.discard(upstream)


def _read_request(client: socket.socket) -> bytes:
    """One request with `Connection: close`, so that its answer ends with the connection; nothing after a hang-up."""
    data = b""
    while HEAD_END not in data:
        chunk = client.recv(1 << 16)
        if not chunk:
            return b""
        data += chunk
    head, _, body = data.partition(HEAD_END)
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    length = next((int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        body += client.recv(1 << 16)
    return b"\r\n".join([*lines, b"Connection: close"]) + HEAD_END + body


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already
        connection.shutdown(socket.SHUT_RDWR)
