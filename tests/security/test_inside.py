"""What a user can do from inside a container of the real hub, assuming the worst of that user."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import requests

from tests.hub_fixtures import LIMITS, running
from tests.kernels import run_script
from tests.running_hub import RunningHub


@pytest.fixture(scope="module")
def hub(whole_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """A hub where ana and ben each run a container."""
    for hub in running(RunningHub(tmp_path_factory.mktemp("inside") / "hub", LIMITS)):
        for user in ("ana", "ben"):
            assert hub.spawn(user).status_code in (201, 202)
            hub.wait_ready(user)
        yield hub


def test_who_i_am_is_me(hub: RunningHub) -> None:
    """The user's own uid with a name, its own home and workspace, and no root anywhere."""
    code, output = run_script(hub, "ana", "id -un; id -u; echo ~; touch ~/mine /workspace/mine && ls -ld ~/workspace")
    assert code == 0, output
    name, uid, home, link = output.splitlines()
    assert (name, home) == ("ana", "/home/ana")
    assert int(uid) >= 1000
    assert link.endswith("/workspace -> /workspace")


def test_no_privilege_can_be_had(hub: RunningHub) -> None:
    """No capability is held or can be gained, nothing can be mounted, and the kernel's settings are read-only."""
    _, status = run_script(hub, "ana", "grep -E '^(CapEff|CapBnd|CapPrm|NoNewPrivs)' /proc/self/status")
    values = dict(line.split() for line in status.replace(":", "").splitlines())
    assert {values["CapEff"], values["CapBnd"], values["CapPrm"]} == {"0" * 16}
    assert values["NoNewPrivs"] == "1"
    for attempt in (
        "mount -t tmpfs none /mnt",
        "echo x > /proc/sys/kernel/core_pattern",
        "nsenter -t 1 -m true",
        "su -c id",
    ):
        code, output = run_script(hub, "ana", f"{attempt} </dev/null 2>&1")
        assert code != 0, (attempt, output)


def test_no_engine_socket_and_no_secret_of_the_hub(hub: RunningHub) -> None:
    """Neither the engine nor the hub's files are there; the environment has no secret but the server's own token."""
    _, found = run_script(hub, "ana", "find / -xdev -name '*.sock' 2>/dev/null; env")
    assert "docker" not in found.lower()
    for name in ("proxy_token", "label_key", "cookie_secret"):
        assert (hub.state / "secrets" / name).read_text() not in found


def test_no_way_to_another_container_or_to_the_host(hub: RunningHub) -> None:
    """Another user's server and any port of the host but the hub's are closed; the hub's API answers."""
    other = docker.from_env().containers.get(next(row["container_id"] for row in hub.leases() if row["user"] == "ben"))
    (network,) = other.attrs["NetworkSettings"]["Networks"].values()
    gateway = network["Gateway"]
    with socket.create_server((gateway, 0)) as service:
        closed = service.getsockname()[1]
        for host, port in ((network["IPAddress"], 8888), (gateway, closed), ("169.254.169.254", 80)):
            code, output = run_script(hub, "ana", f"timeout 3 bash -c '</dev/tcp/{host}/{port}' 2>&1")
            assert code != 0, (host, port, output)
    code, output = run_script(hub, "ana", f"curl -s -m 5 http://{gateway}:{hub.hub_port}/hub/api")
    assert code == 0, output
    assert "version" in output


def test_a_containers_token_reaches_that_container_and_nothing_of_others(hub: RunningHub) -> None:
    """The token inside is good for its owner's limits, and neither for another's server nor for the hub's users."""
    _, token = run_script(hub, "ana", "echo $JUPYTERHUB_API_TOKEN")
    token = token.strip()
    assert hub.api("GET", "ds01/v1/limits", token=token).json()["user"] == "ana"
    assert hub.api("GET", "ds01/v1/limits/ben", token=token).status_code in (403, 404)
    assert hub.api("GET", "ds01/v1/leases", token=token).status_code == 403
    assert hub.api("GET", "users/ben", token=token).status_code in (403, 404)
    assert hub.api("DELETE", "users/ben/server", token=token).status_code in (403, 404)
    answer = requests.get(f"{hub.url}/user/ben/api/status", headers={"Authorization": f"token {token}"}, timeout=30)
    assert answer.status_code == 403


def test_another_users_folders_are_not_there(hub: RunningHub) -> None:
    """Only the user's own folders are mounted, and on the host nobody else may enter them."""
    run_script(hub, "ben", "echo secret > ~/secret")
    code, _ = run_script(hub, "ana", "ls /home/ben")
    assert code != 0
    for folder in (hub.state / "users").glob("*/*"):
        assert folder.stat().st_mode & 0o077 == 0, folder


def test_nothing_of_the_hub_is_for_others_to_read(hub: RunningHub) -> None:
    """Secrets, databases and logs of events are closed to other accounts of the host."""
    for path in (hub.state / "secrets", *(hub.state / "secrets").iterdir(), *(hub.state / "hub").glob("*.sqlite")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_no_secret_in_labels_or_logs(hub: RunningHub) -> None:
    """The server's token is in the container's environment alone; labels and the hub's log don't have it."""
    _, token = run_script(hub, "ana", "echo $JUPYTERHUB_API_TOKEN")
    container = docker.from_env().containers.get(next(r["container_id"] for r in hub.leases() if r["user"] == "ana"))
    assert token.strip() not in str(container.labels)
    assert token.strip() not in hub.log
    for name in ("proxy_token", "label_key", "cookie_secret", "shared_password"):
        secret = (hub.state / "secrets" / name).read_text()
        assert secret not in hub.log
        assert secret not in str(container.attrs)


def test_a_fork_bomb_ends_at_its_own_limit(hub: RunningHub) -> None:
    """400 processes are asked for with a limit of 300: forking fails, and this server and the others go on."""
    _, output = run_script(hub, "ana", "for i in $(seq 400); do sleep 8 & done")
    assert "fork" in output
    assert run_script(hub, "ana", "echo alive")[1] == "alive\n"
    assert hub.wait_ready("ben")["ready"]


def test_the_tests_engine_is_private() -> None:
    """These tests never touch the machine's own engine."""
    assert Path(os.environ["DOCKER_HOST"].removeprefix("unix://")) != Path("/var/run/docker.sock")
