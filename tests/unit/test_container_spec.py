"""The payload of a container: everything that confines it, at creation."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from ds01_spawner.container_spec import Mount, Person, Wanted, make, visible_devices
from ds01_spawner.core.devices import Device
from ds01_spawner.core.limits import Limits

GIB = 1 << 30
SLICE = Device("local", "GPU-1", "1g.5gb", 0, 1, 1, 7, 4864, "MIG-1", 7)
WANTED = Wanted(
    image_id="sha256:abc",
    person=Person("alice", 200000, 200000),
    limits=Limits(max_cpus=Fraction(3, 2), memory=2 * GIB, memory_swap=2 * GIB, shm_size=GIB, pids_limit=512),
    network="ds01",
    hostname="main",
    env={"A": "1", "NVIDIA_VISIBLE_DEVICES": "all", "USER": "root"},
    args=["--port=8888"],
    labels={"ds01.user": "alice"},
    mounts=[Mount("/srv/home", "/home/alice"), Mount("/srv/data", "/data", read_only=True)],
)


def env(payload: dict) -> dict[str, str]:
    return dict(line.split("=", 1) for line in payload["Env"] if "=" in line)


def test_limits_reach_the_host_config() -> None:
    """CPU, memory without swap, shared memory and pids are set at creation."""
    host = make(WANTED)["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (1_500_000_000, 2 * GIB, 2 * GIB)
    assert (host["ShmSize"], host["PidsLimit"]) == (GIB, 512)


def test_unlimited_is_the_engines_zero() -> None:
    """None means unlimited, which the engine writes as 0; without a size, shared memory keeps the engine's own."""
    open_limits = Limits(max_cpus=None, memory=None, memory_swap=None, shm_size=None, pids_limit=None, storage_tmp=None)
    host = make(replace(WANTED, limits=open_limits))["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (0, 0, 0, 0)
    assert "ShmSize" not in host
    assert host["Tmpfs"]["/tmp"].endswith("size=0")


def test_swap_is_unlimited_only_when_said() -> None:
    """`memory_swap: null` is the engine's -1."""
    limits = replace(WANTED.limits, memory_swap=None)
    assert make(replace(WANTED, limits=limits))["HostConfig"]["MemorySwap"] == -1


def test_no_privilege_of_any_kind() -> None:
    """Users are hostile to each other by assumption."""
    payload = make(WANTED)
    host = payload["HostConfig"]
    assert payload["User"] == "200000:200000"
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Privileged"] is False
    assert host["NetworkMode"] == "ds01"
    assert {"CapAdd", "Devices", "PidMode", "UTSMode", "UsernsMode"}.isdisjoint(host)
    assert not any("docker.sock" in mount["Source"] for mount in host["Mounts"])


def test_cpu_only_sees_no_gpu_whatever_the_image_says() -> None:
    """No device request, and the variable says `void` even where something else set it to `all`."""
    payload = make(WANTED)
    assert "DeviceRequests" not in payload["HostConfig"]
    assert env(payload)["NVIDIA_VISIBLE_DEVICES"] == "void"


def test_device_request_names_exactly_the_lease() -> None:
    """The engine is asked for the leased UUIDs and for nothing else, with compute and utility capabilities."""
    payload = make(replace(WANTED, devices=[SLICE]))
    assert payload["HostConfig"]["DeviceRequests"] == [
        {"Driver": "nvidia", "DeviceIDs": ["MIG-1"], "Capabilities": [["gpu", "compute", "utility"]]}
    ]
    assert env(payload)["NVIDIA_VISIBLE_DEVICES"] == "MIG-1"
    assert env(payload)["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_simulated_devices_are_not_asked_of_the_engine() -> None:
    """What doesn't exist can't be handed over; the container is told the simulated UUIDs."""
    payload = make(replace(WANTED, devices=[SLICE], simulated=True))
    assert "DeviceRequests" not in payload["HostConfig"]
    assert env(payload)["NVIDIA_VISIBLE_DEVICES"] == "MIG-1"


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_AUDIT", "DOCKER_HOST"])
def test_dangerous_image_variables_are_removed(name: str) -> None:
    """A name without "=" takes a variable of the image away."""
    assert name in make(WANTED)["Env"]


def test_identity_is_ours_not_the_environments() -> None:
    """What the environment says of the user doesn't win over the hub."""
    assert env(make(WANTED))["USER"] == "alice"
    assert env(make(WANTED))["HOME"] == "/home/alice"


def test_shared_data_is_read_only() -> None:
    """A mount that is asked for read-only is read-only."""
    mounts = {mount["Target"]: mount["ReadOnly"] for mount in make(WANTED)["HostConfig"]["Mounts"]}
    assert mounts == {"/home/alice": False, "/data": True}


def test_several_devices_are_listed_in_order() -> None:
    """The variable lists every leased UUID."""
    assert visible_devices([SLICE, replace(SLICE, uuid="MIG-2")]) == "MIG-1,MIG-2"
