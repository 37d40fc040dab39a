"""The one seam to docker-py: thread pools with a client for each thread, deadlines, and its errors turned into ours.

A thread that waits for the engine can't be interrupted. So each call has two limits: the client's own time-out, which
frees the thread, and a deadline on the event loop, which frees the caller.
"""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import docker
import docker.errors
import docker.utils
import requests
import urllib3.exceptions

from ds01_spawner.core.errors import EngineRefused, EngineUnavailable

T = TypeVar("T")
BAD_REQUEST = 400
SERVER_ERROR = 500
#: Seconds that a new client may take to agree on an API version.
HANDSHAKE = 10

_NO_ANSWER = (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError,
              http.client.HTTPException, OSError)  # fmt: skip
#: What code that reads an answer raises when the answer isn't what the API promises.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError)


def _other_version(error: docker.errors.APIError) -> bool:
    """True where the engine refuses our API version: another engine answers than the one that agreed on it."""
    return error.status_code == BAD_REQUEST and str(error.explanation).startswith("client version ")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Errors of docker-py and of what lies below it as EngineRefused (4xx) or EngineUnavailable (all else)."""
    try:
        yield
    except docker.errors.NullResource:
        raise EngineRefused(f"{what}: no id or name was given", BAD_REQUEST) from None
    except docker.errors.APIError as error:
        status = error.status_code or SERVER_ERROR
        text = f"{what}: {error.explanation or error}"
        if BAD_REQUEST <= status < SERVER_ERROR and not _other_version(error):
            raise EngineRefused(text, status) from error
        raise EngineUnavailable(f"{text} (HTTP {status})") from error
    except _NO_ANSWER as error:
        raise EngineUnavailable(f"{what}: the container engine gives no answer ({error})") from error
    except _UNREADABLE as error:
        raise EngineUnavailable(f"{what}: the container engine's answer can't be read ({error!r})") from error


class Clients:
    """Makes clients of one engine. The API version is agreed on once, and anew after the engine was away."""

    def __init__(self, base_url: str | None) -> None:
        # Without an address, Docker's own variables count: DOCKER_HOST, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH.
        self._settings: dict[str, Any] = {"base_url": base_url} if base_url else dict(docker.utils.kwargs_from_env())
        self._version: str | None = None
        self.generation = 0

    def make(self, timeout: float) -> docker.APIClient:
        """A new client with this time-out in seconds. Raises docker-py's errors."""
        # Two threads may both ask for the version: a lock here would let one hanging engine block all threads in turn.
        version = self._version or self._ask_version()
        client = docker.APIClient(
            version=version,
            timeout=timeout,  # type: ignore[arg-type] # a float is as good
            **self._settings,
        )
        if client.base_url.startswith("http+docker://"):
            client.trust_env = False  # a proxy or netrc of the environment means nothing to a local socket
        return client

    def forget_version(self) -> None:
        """The engine was away and may be another version when it is back."""
        self._version = None
        self.generation += 1

    def _ask_version(self) -> str:
        probe = docker.APIClient(version="auto", timeout=HANDSHAKE, **self._settings)
        self._version = str(probe.api_version)
        probe.close()
        return self._version


class Pool:
    """Threads for one kind of call; `timeout` in seconds is the client's for each request."""

    def __init__(self, clients: Clients, name: str, threads: int, timeout: float) -> None:
        self.timeout = timeout
        self._clients = clients
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"ds01-engine-{name}")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open: set[docker.APIClient] = set()

    async def call(self, what: str, work: Callable[[docker.APIClient], T], *, deadline: float | None = None) -> T:
        """`work` in one of the threads. Raises EngineRefused, EngineUnavailable (also after `deadline` seconds)."""
        limit = self.timeout if deadline is None else deadline
        try:
            async with asyncio.timeout(limit):
                return await asyncio.wrap_future(self.submit(what, work))
        except TimeoutError:
            raise EngineUnavailable(f"{what}: no answer of the container engine within {limit:g} s") from None

    def submit(self, what: str, work: Callable[[docker.APIClient], T]) -> Future[T]:
        """The same without a deadline of the event loop's."""
        try:
            return self._executor.submit(self._run, what, work)
        except RuntimeError:
            raise EngineUnavailable(f"{what}: the engine adapter is closed") from None

    def close(self) -> None:
        """Start nothing more and close the idle connections; calls under way end by themselves."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for client in self._open:
                client.close()
            self._open.clear()

    def _run(self, what: str, work: Callable[[docker.APIClient], T]) -> T:
        with translated(what):
            try:
                return work(self._client())
            except requests.RequestException as error:
                away = isinstance(error, requests.ConnectionError)
                if away or (isinstance(error, docker.errors.APIError) and _other_version(error)):
                    self._clients.forget_version()
                raise

    def _client(self) -> docker.APIClient:
        """This thread's own client: a requests session is not made to be shared."""
        known: docker.APIClient | None = getattr(self._local, "client", None)
        if known is not None and self._local.generation == self._clients.generation:
            return known
        if known is not None:
            known.close()
        generation = self._clients.generation
        client = self._clients.make(self.timeout)
        with self._lock:
            self._open.discard(known)
            self._open.add(client)
        self._local.client, self._local.generation = client, generation
        return client
