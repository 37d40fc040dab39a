"""Done as a user would see it: what the engine was asked for is exactly what was leased."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.kernels import run_script
from tests.running_hub import RunningHub


def hook_record(container_id: str) -> dict[str, Any] | None:
    """What the stub of NVIDIA's hook was given for a container; None where it never ran. See tests/engine.sh."""
    folder = Path(os.environ["DOCKER_HOST"].removeprefix("unix://")).parent / "hook"
    file = folder / f"{container_id}.json"
    return json.loads(file.read_text()) if file.exists() else None


def process_env(record: dict[str, Any]) -> dict[str, str]:
    return dict(line.split("=", 1) for line in record["config"]["process"]["env"] if "=" in line)


@pytest.fixture
def hub(gpu_hub: RunningHub) -> RunningHub:
    gpu_hub.add_users("ana", "carla")
    return gpu_hub


def test_the_engine_is_asked_for_exactly_the_leased_devices(hub: RunningHub) -> None:
    """The device request that Docker received names the leased UUIDs and no other, and its hook sees the same."""
    assert hub.spawn("carla", {"gpu": "2g", "count": 2}).status_code in (201, 202)
    hub.wait_ready("carla")
    (lease,) = hub.leases()
    uuids = [device["uuid"] for device in lease["devices"]]
    assert len(set(uuids)) == 2

    received = docker.from_env().api.inspect_container(lease["container_id"])["HostConfig"]["DeviceRequests"]
    assert [request["DeviceIDs"] for request in received] == [uuids]
    assert received[0]["Count"] == 0
    record = hook_record(lease["container_id"])
    assert record is not None
    assert process_env(record)["NVIDIA_VISIBLE_DEVICES"] == ",".join(uuids)


def test_a_start_without_gpu_sees_none_even_if_its_image_asks_for_all(hub: RunningHub) -> None:
    """No device request reaches the engine, its hook never runs, and the image's `all` is overruled by `void`."""
    client = docker.from_env()
    container = client.containers.create("ds01/base:latest")
    container.commit("ds01-test/greedy", "latest", changes='ENV NVIDIA_VISIBLE_DEVICES="all"')
    container.remove()

    assert hub.spawn("ana", {"environment": "greedy"}).status_code in (201, 202)
    hub.wait_ready("ana")
    (lease,) = hub.leases()
    assert lease["devices"] == []
    inspected = client.api.inspect_container(lease["container_id"])
    assert not inspected["HostConfig"]["DeviceRequests"]
    assert hook_record(lease["container_id"]) is None
    code, output = run_script(hub, "ana", "echo $NVIDIA_VISIBLE_DEVICES; ls /dev")
    assert code == 0
    assert output.splitlines()[0] == "void"
    assert "nvidia" not in output
