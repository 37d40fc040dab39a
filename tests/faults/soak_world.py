"""What a soak is made of: a real hub, users that never rest, and random faults."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import requests

from tests.faults.driver import client
from tests.faults.watcher import AWAY, Watcher
from tests.running_hub import ROOT, RunningHub

USERS = ("ana", "ben", "carla")
#: Whose starts are cancelled.
CANCELLED = "dan"
LIMITS = """
version: 1
defaults: {max_mig_instances: 2, max_containers_per_user: 2, max_cpus: 1, memory: "64m", shm_size: "16m"}
"""
#: A web server that answers at once stands for JupyterLab: its start would be most of the time, and no part of a lease.
IMAGE = "ds01-test/soak"
SERVER = ("/bin/sh", "-c", "trap 'exit 0' TERM; busybox httpd -f -p 8888 -h /home & wait")
#: Pending starts and stops are answered for at once, so that everything overlaps.
EXTRA = f"""
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0, "slow_stop_timeout": 0}}
c.DS01Spawner.stop_grace = 2
c.DS01Hub.environments = {{"base": "{IMAGE}:latest"}}
# A killed engine leaves dead endpoints, and may give their address again: such a start can't be reached and must end.
c.DS01Hub.ready_timeout = 15
"""
#: A free device is soon somebody else's: that is when freeing it too early shows.
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"gpu": "1g"},
    {"gpu": "full"},
    {"gpu": ">=4GB"},
    {"gpu": ">=4GB", "count": 2},
)


def make_image(engine_url: str) -> None:
    """A static busybox that serves HTTP."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    files = {"bin/busybox": busybox, "etc/passwd": b"root:x:0:0::/:/bin/sh\n", "etc/group": b"root:x:0:\n"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder in ("bin", "etc", "home"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        archive.addfile(link)
    with client(engine_url) as api:
        change = f"ENTRYPOINT {json.dumps(SERVER)}"
        api.import_image_from_data(buffer.getvalue(), repository=IMAGE, tag="latest", changes=[change])


class Gate:
    """Lets users act, or holds them after what they are at."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open, self._inside = True, 0

    @contextmanager
    def passed(self) -> Iterator[None]:
        """Wait until it is open; inside meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._open)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def open(self) -> None:
        """Let everybody go on."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody begin anything new."""
        with self._changed:
            self._open = False

    def empty(self, seconds: float) -> bool:
        """Wait until nobody is inside; False where somebody still is after that time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._inside == 0, seconds)

    @property
    def closed(self) -> bool:
        """True while nobody may begin anything new."""
        return not self._open


class World:
    """The hub, its users and the engine. `counts` says what the users met."""

    def __init__(self, root: Path, seed: str, lab: str, engine_url: str, env: dict[str, str]) -> None:
        self.hub = RunningHub(root, LIMITS, users=(*USERS, CANCELLED), env=env, every=1.0, extra=EXTRA)
        self.random, self._lab, self._url = random.Random(seed), lab, engine_url
        self.gate, self.watcher = Gate(), Watcher(engine_url)
        self.counts: Counter[str] = Counter()
        #: Leases whose server the hub shows as stopped, as `problems` saw it last.
        self.unseen: list[str] = []
        self._seed = seed

    def begin(self) -> None:
        """Start all of it."""
        self.hub.start()
        self.hub.add_users(*USERS, CANCELLED)
        self.watcher.start()
        for user in USERS:
            for server in ("", "second"):
                threading.Thread(target=self._user, args=(user, server), daemon=True).start()

    def end(self) -> None:
        """End all of it and remove what it made on the engine."""
        self.gate.close()
        self.gate.empty(60)
        self.watcher.end()
        self.hub.stop()
        with client(self._url) as api:
            for entry in api.containers(all=True, filters=self._ours):
                api.remove_container(entry["Id"], force=True, v=True)

    # -- users

    def call(self, method: str, path: str, body: object = None) -> requests.Response:
        """One call of the hub's API that gives up soon."""
        data = None if body is None else json.dumps(body)
        return requests.request(method, f"{self.hub.url}/hub/api/{path}", headers=self._token, data=data, timeout=20)

    def metric(self, name: str) -> list[str]:
        """The values of one of the hub's metrics."""
        lines = requests.get(f"{self.hub.url}/hub/metrics", headers=self._token, timeout=20).text.splitlines()
        return [line.rpartition(" ")[2] for line in lines if line.partition("{")[0].partition(" ")[0] == name]

    @property
    def _token(self) -> dict[str, str]:
        return {"Authorization": f"token {self.hub.token}"}

    def _user(self, user: str, server: str) -> None:
        """Starts and stops one server, for ever."""
        chance = random.Random(f"{self._seed} {user}/{server}")
        while True:
            with self.gate.passed(), suppress(*AWAY):
                if self.server(user, server) is None:
                    self.start(user, server, chance.choice(OPTIONS))
                else:
                    self._delete(user, server)
                    self._until(user, server, lambda model: model is None)
            time.sleep(chance.uniform(0, 0.4))

    def start(self, user: str, server: str, options: dict[str, Any]) -> None:
        """Start a server and wait for what becomes of it."""
        answer = self.post(user, server, options)
        if not answer.ok:
            self.counts["refused at once"] += 1
            return
        model = self._until(user, server, lambda model: model is None or model["ready"])
        self.counts["started" if model else "refused or failed"] += 1

    def post(self, user: str, server: str, options: dict[str, Any]) -> requests.Response:
        """Ask for a server."""
        return self.call("POST", _path(user, server), {"user_options": {"environment": "base", **options}})

    def _delete(self, user: str, server: str) -> None:
        self.call("DELETE", _path(user, server))
        self.counts["stopped"] += 1

    def server(self, user: str, server: str) -> dict[str, Any] | None:
        """What the hub says of a server, None where it isn't active."""
        found = self.call("GET", f"users/{user}").json()["servers"].get(server)
        return None if found is None else dict(found)

    def _until(self, user: str, server: str, done: Any) -> dict[str, Any] | None:
        """Poll until done, at most 30 seconds."""
        deadline = time.monotonic() + 30
        while True:
            model = self.server(user, server)
            if done(model) or time.monotonic() > deadline:
                return model
            time.sleep(0.25)

    # -- faults: each returns when it began to be over

    def kill_hub(self) -> float:
        """SIGKILL; somebody starts it again at once."""
        self.hub.kill_hub()
        began = time.monotonic()
        self.hub.start(wait=False)
        return began

    def restart_engine(self, how: str) -> float:
        """The engine restarted, by SIGTERM or after SIGKILL; over when it answers again."""
        command = [str(ROOT / "tests/engine.sh"), "restart", how]
        subprocess.run(command, env={**os.environ, "DS01_TEST_NAME": self._lab}, check=True, capture_output=True)
        return time.monotonic()

    def kill_container(self) -> float:
        """`docker kill` of one that runs; where none does, a user's start is waited for."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with client(self._url) as api:
                running = sorted(entry["Id"] for entry in api.containers(filters=self._ours))
                if running:
                    with suppress(docker.errors.APIError):  # its user stopped it at this moment
                        api.kill(self.random.choice(running))
                        return time.monotonic()
            time.sleep(0.05)
        raise AssertionError("no container runs, so none can be killed")

    def cancel_start(self) -> float:
        """A start and, a moment later, its cancellation."""
        with suppress(*AWAY):
            if self.server(CANCELLED, "") is not None:  # the last one was ready before its cancellation
                self.call("DELETE", _path(CANCELLED, ""))
                self._until(CANCELLED, "", lambda model: model is None)
            self.post(CANCELLED, "", self.random.choice(OPTIONS))
            time.sleep(self.random.uniform(0, 0.6))
            self.call("DELETE", _path(CANCELLED, ""))
        return time.monotonic()

    # -- what must hold

    @property
    def _ours(self) -> dict[str, str]:
        return {"label": f"ds01.instance={self.hub.instance}"}

    def problems(self) -> list[str]:
        """Leases without a container and containers without a lease, but for owners whose start or stop is under way.

        Raises one of AWAY where the hub or the engine gives no answer.
        """
        people = self._servers()
        busy = {(name, s["name"]) for name, servers in people.items() for s in servers.values() if s["pending"]}
        leases = self.call("GET", "ds01/v1/leases").json()["leases"]
        with client(self._url) as api:
            containers = api.containers(all=True, filters=self._ours)
        running = {entry["Id"] for entry in containers if entry["State"] == "running"}
        leased = {lease["container_id"] for lease in leases if lease["state"] == "bound"}
        broken = sum(float(value) for value in self.metric("ds01_invariant_violations"))
        found = [f"the hub itself reports {broken:.0f} broken invariants"] if broken else []
        for lease in leases:
            if (lease["user"], lease["server"]) not in busy and lease["container_id"] not in running:
                found.append(f"lease {lease['id']} is {lease['state']} without a running container")
        for entry in containers:
            owner = entry["Labels"].get("ds01.user", ""), entry["Labels"].get("ds01.server", "")
            if owner not in busy and not (entry["Id"] in running and entry["Id"] in leased):
                found.append(f"container {entry['Names'][0]} is {entry['State']} without a lease")
        self.unseen = [lease["id"] for lease in leases if lease["server"] not in people[lease["user"]]]
        return found

    def recovered(self, seconds: float = 60) -> float | None:
        """Wait until nothing is wrong; when that was, None where it never came."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(*AWAY):
                if not self.problems():
                    return time.monotonic()
            time.sleep(0.1)
        return None

    def quiet(self) -> bool:
        """Hold the users until nothing is under way, then wait for one whole reconcile; False where it never came."""
        if not self.gate.empty(90):
            return False
        deadline = time.monotonic() + 60
        while self._pending():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        # The comparison that ends next may have begun before; the one after it did not.
        return self._next_reconcile(deadline) and self._next_reconcile(deadline)

    def _pending(self) -> bool:
        with suppress(*AWAY):
            return any(server["pending"] for servers in self._servers().values() for server in servers.values())
        return True

    def _servers(self) -> dict[str, dict[str, Any]]:
        """Everybody's active servers, by user and name."""
        return {user["name"]: user["servers"] for user in self.call("GET", "users").json()}

    def _next_reconcile(self, deadline: float) -> bool:
        """Wait for the next one in which every part answered."""
        seen = None
        while time.monotonic() < deadline:
            with suppress(*AWAY):
                [at] = self.metric("ds01_reconcile_last_success_seconds")
                if seen not in (None, at):
                    return True
                seen = at
            time.sleep(0.05)
        return False


def _path(user: str, server: str) -> str:
    return f"users/{user}/servers/{server}" if server else f"users/{user}/server"
