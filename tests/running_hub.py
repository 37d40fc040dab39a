"""A real hub for tests: jupyterhub and configurable-http-proxy as processes, on free ports, with a root of their own.

It runs the shipped `jupyterhub_config.py`; the only additions are an API token for the test and short intervals.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).resolve().parent.parent
PROXY = ROOT / ".venv/chp/node_modules/.bin/configurable-http-proxy"

SITE_CONFIG = """
c.JupyterHub.services = [{{"name": "tests", "api_token": "{token}"}}]
c.JupyterHub.load_roles.append({{
    "name": "tests", "services": ["tests"],
    "scopes": ["admin:users", "admin:servers", "admin:groups", "tokens", "access:servers", "read:metrics", "read:hub",
               "custom:ds01:limits:read", "custom:ds01:leases:read"],
}})
c.DS01Hub.reconcile_every = {every}
{extra}
"""


def free_port() -> int:
    """A TCP port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RunningHub:
    """One hub with its proxy. `start` and `stop` may be called again and again on the same state."""

    root: Path
    limits: str
    users: tuple[str, ...] = ("ana", "ben", "carla")
    env: Mapping[str, str] = field(default_factory=dict)
    every: float = 2.0
    extra: str = ""
    instance: str = field(default_factory=lambda: f"test-{secrets.token_hex(3)}")

    def __post_init__(self) -> None:
        self.port, self.hub_port, self.proxy_api_port = free_port(), free_port(), free_port()
        self.token, self.password, self.admin_password = (secrets.token_hex(16) for _ in range(3))
        self.hub: subprocess.Popen[bytes] | None = None
        self.proxy: subprocess.Popen[bytes] | None = None
        self.state = self.root / "var/lib/ds01"
        self._write_files()

    @property
    def config(self) -> Path:
        """The configuration file that the hub is started with."""
        return ROOT / "jupyterhub_config.py"

    @property
    def url(self) -> str:
        """Where a browser goes."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """All that the hub printed so far."""
        return (self.root / "hub.log").read_text(errors="replace")

    def _write_files(self) -> None:
        keys = self.state / "secrets"
        keys.mkdir(parents=True, mode=0o700)
        values = {
            "cookie_secret": secrets.token_hex(32),
            "proxy_token": secrets.token_hex(32),
            "label_key": secrets.token_hex(32),
            "shared_password": self.password,
            "admin_password": self.admin_password,
        }
        for name, value in values.items():
            (keys / name).write_text(value)
            (keys / name).chmod(0o600)
        (self.state / "hub").mkdir(exist_ok=True)
        (self.root / "limits.yaml").write_text(self.limits)
        (self.root / "site_config.py").write_text(
            SITE_CONFIG.format(token=self.token, every=self.every, extra=self.extra)
        )

    def environment(self) -> dict[str, str]:
        """The settings that this hub runs with."""
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DS01_SITE_CONFIG": str(self.root / "site_config.py"),
            "DS01_ROOT": str(self.root),
            "DS01_INSTANCE": self.instance,
            "DS01_NETWORK": "ds01-test",
            "DS01_PORT": str(self.port),
            "DS01_HUB_PORT": str(self.hub_port),
            "DS01_PROXY_API_PORT": str(self.proxy_api_port),
            "DS01_AUTHENTICATOR": "shared-password",
            "DS01_ADMINS": "admin",
            "DS01_USERS": ",".join(self.users),
            "DS01_RESOURCE_LIMITS": str(self.root / "limits.yaml"),
            **self.env,
        }

    def start(self, *, wait: bool = True) -> RunningHub:
        """Start the proxy if it isn't running, then the hub, and wait for its health page."""
        if self.proxy is None:
            self._start_proxy()
        with (self.root / "hub.log").open("ab") as log:
            self.hub = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", str(self.config)],
                cwd=self.root,
                env=self.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait_healthy()
        return self

    def _start_proxy(self) -> None:
        token = (self.state / "secrets/proxy_token").read_text()
        with (self.root / "proxy.log").open("ab") as log:
            self.proxy = subprocess.Popen(
                [
                    str(PROXY),
                    "--ip=127.0.0.1",
                    f"--port={self.port}",
                    "--api-ip=127.0.0.1",
                    f"--api-port={self.proxy_api_port}",
                ],
                env={**os.environ, "CONFIGPROXY_AUTH_TOKEN": token},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_healthy(self, seconds: float = 90) -> None:
        """Until the hub answers through the proxy; fails at once, with its log, when it has died."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.hub is not None and self.hub.poll() is not None:
                break
            try:
                if requests.get(f"{self.url}/hub/api", timeout=2).ok:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.2)
        raise AssertionError(f"the hub isn't healthy:\n{self.log[-4000:]}")

    def kill_hub(self, sig: int = signal.SIGKILL) -> None:
        """End the hub process alone; its containers and the proxy go on."""
        assert self.hub is not None
        if self.hub.poll() is None:
            os.killpg(self.hub.pid, sig)
            self.hub.wait(30)

    def stop(self) -> None:
        """End the hub and the proxy."""
        if self.hub is not None:
            self.kill_hub(signal.SIGTERM)
        if self.proxy is not None:
            self.proxy.terminate()
            self.proxy.wait(10)
            self.proxy = None

    def api(self, method: str, path: str, body: object = None, *, token: str | None = None) -> requests.Response:
        """One call of the hub's REST API, as the test's own service or with another token."""
        return requests.request(
            method,
            f"{self.url}/hub/api/{path}",
            timeout=120,
            headers={"Authorization": f"token {token or self.token}"},
            data=None if body is None else json.dumps(body),
        )

    def add_users(self, *names: str) -> None:
        """Make hub users, as their first login would."""
        for name in names:
            self.api("POST", f"users/{name}")

    def user_token(self, name: str) -> str:
        """A token with all of the user's own rights."""
        return str(self.api("POST", f"users/{name}/tokens", {"note": "test"}).json()["token"])

    def spawn(self, user: str, options: dict[str, Any] | None = None, server: str = "") -> requests.Response:
        """Ask for a server; 201 ready, 202 pending, otherwise a refusal."""
        path = f"users/{user}/servers/{server}" if server else f"users/{user}/server"
        return self.api("POST", path, None if options is None else {"user_options": options, "display_name": server})

    def wait_ready(self, user: str, server: str = "", seconds: float = 90) -> dict[str, Any]:
        """Until the server is ready; its model."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            model = self.api("GET", f"users/{user}").json()["servers"].get(server)
            if model is None:
                raise AssertionError(f"the start failed:\n{self.log[-3000:]}")
            if model["ready"]:
                return dict(model)
            time.sleep(0.1)
        raise AssertionError(f"not ready after {seconds} s:\n{self.log[-3000:]}")

    def stop_server(self, user: str, server: str = "", seconds: float = 60) -> None:
        """Stop a server and wait until the hub has forgotten it."""
        path = f"users/{user}/servers/{server}" if server else f"users/{user}/server"
        self.api("DELETE", path)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if server not in self.api("GET", f"users/{user}").json()["servers"]:
                return
            time.sleep(0.1)
        raise AssertionError(f"still there after {seconds} s:\n{self.log[-3000:]}")

    def leases(self) -> list[dict[str, Any]]:
        """The live leases, by the hub's own API."""
        return list(self.api("GET", "ds01/v1/leases").json()["leases"])
