"""The base environment keeps the image contract: any uid, no root, no secrets, nothing of the machine that built it."""

from __future__ import annotations

from collections.abc import Callable

import docker
import pytest

from ds01_spawner.admin import base_environment

IMAGE = f"{base_environment.REPOSITORY}:latest"
UNPRIVILEGED = {
    "user": "12345:12345",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "environment": {"HOME": "/home/ana"},
    "tmpfs": {"/home/ana": "mode=1777"},
    "network_mode": "none",
}

Shell = Callable[[str], str]


@pytest.fixture(scope="module")
def client(engine_url: str) -> docker.DockerClient:
    client = docker.DockerClient(base_url=engine_url, timeout=60)
    if not base_environment.find_image(client, IMAGE):
        pytest.skip(f"{IMAGE} is not built: python -m ds01_spawner.admin.base_environment")
    yield client
    client.close()


@pytest.fixture(scope="module")
def shell(client: docker.DockerClient) -> Shell:
    """Runs a command in a new container as a stranger without any right; its output."""

    def run(command: str, **more: object) -> str:
        options = {**UNPRIVILEGED, **more}
        output = client.containers.run(IMAGE, ["-c", command], entrypoint=["bash"], remove=True, stderr=True, **options)
        return output.decode()

    return run


def test_image_says_how_it_is_started_and_nothing_else(client: docker.DockerClient) -> None:
    """Label and entry point of the contract; no volumes and no variables that came with the build."""
    config = client.images.get(IMAGE).attrs["Config"]
    assert config["Labels"]["ds01.contract"] == "1"
    assert set(config["Labels"]) == {"ds01.contract", base_environment.CONTENT_LABEL}
    assert config["Entrypoint"] == ["tini", "--", "ds01-start"]
    assert not config.get("Cmd")
    assert not config.get("Volumes")
    assert {entry.split("=")[0] for entry in config["Env"]} == {"PATH", "LANG", "LC_ALL", "SHELL"}


def test_nothing_of_the_build_is_left(shell: Shell) -> None:
    """Host keys would be everybody's; pip and apt settings may hold credentials; a mirror is a site's business."""
    root = {"user": "0:0"}
    assert shell("find /run /etc/ssh -name 'ssh_host_*' -o -name 'ds01-*'", **root) == ""
    assert shell("ls -A /root/.cache /root/.config /etc/pip.conf /etc/apt/auth.conf 2>/dev/null; true", **root) == ""
    assert shell("grep -rhoE 'https?://[^/ ]+' /etc/apt/sources.list* | sort -u", **root) == "http://deb.debian.org\n"
    assert shell("cat /etc/machine-id", **root) == ""


def test_the_tools_are_there_for_a_stranger(shell: Shell) -> None:
    """What the contract and VS Code need, found on the PATH of a login shell too."""
    tools = "git git-lfs ssh sftp curl tar less nano vi ps python pip jupyter-lab jupyterhub-singleuser tini"
    files = "/usr/sbin/sshd /usr/lib/openssh/sftp-server"
    assert shell(f"for tool in {tools} {files}; do command -v $tool >/dev/null || echo no $tool; done") == ""
    assert shell("bash -lc 'command -v python'") == "/opt/ds01/bin/python\n"


def test_no_setuid_program_is_needed(shell: Shell) -> None:
    """The server starts with no-new-privileges and without capabilities, and shows its version."""
    assert shell("ds01-start --version").strip().endswith(tuple("0123456789"))


def test_a_failing_hook_does_not_stop_the_start(shell: Shell) -> None:
    """It is reported and skipped; a hook that can't be executed is no hook."""
    hook = "printf '#!/bin/sh\\nexit 7\\n' >/etc/ds01/start.d/05-broken; chmod +x /etc/ds01/start.d/05-broken; "
    output = shell(hook + "ds01-start --version", user="0:0")
    assert "05-broken failed with exit code 7" in output
    assert output.strip().splitlines()[-1][0].isdigit()


def test_workspace_is_linked_once(shell: Shell) -> None:
    """~/workspace leads to /workspace where there is one, and whatever is there already stays."""
    mounted = {"tmpfs": {"/home/ana": "mode=1777", "/workspace": "mode=1777"}}
    twice = "/etc/ds01/start.d/10-workspace; /etc/ds01/start.d/10-workspace; readlink ~/workspace; ls -A /workspace"
    assert shell(twice, **mounted) == "/workspace\n"
    assert shell("mkdir ~/workspace; /etc/ds01/start.d/10-workspace; ls -A ~/workspace", **mounted) == ""
    assert shell("/etc/ds01/start.d/10-workspace; ls -A ~") == ""


def test_the_fast_start_fits_the_installed_versions(shell: Shell) -> None:
    """Loading takes no hub half and no HTTP client, and leaves no stand-in behind."""
    script = (
        "import ds01_fast_start as fast, sys; app = fast.load_server(); "
        "print(app.__name__, sorted({'sqlalchemy', 'aiohttp', 'httpx', 'jupyterhub.orm'} & set(sys.modules))); "
        "import jupyterhub.orm, aiohttp, requests; print(jupyterhub.orm.User.__tablename__, aiohttp.ClientSession); "
        "import jupyterhub.singleuser as s; print(s.make_singleuser_app)"
    )
    lines = shell(f'python -c "{script}"').splitlines()
    assert lines[0] == "JupyterHubSingleUser []"
    assert lines[1].startswith("users <class 'aiohttp")
    assert lines[2].startswith("<function make_singleuser_app")


def test_versions_that_do_not_fit_start_the_stock_way(shell: Shell) -> None:
    """Never a server that fails to start because of a shortcut."""
    broken = (
        "import ds01_fast_start as fast, sys; fast.stand_ins = lambda: 1 / 0; sys.argv[1:] = ['--version']; fast.main()"
    )
    output = shell(f'python -c "{broken}"')
    assert "starting slowly" in output
    assert output.strip().splitlines()[-1][0].isdigit()
