"""PURE: a lease, limits and the hub's environment -> the body of the engine's create call, as plain dicts.

Everything that confines a container is here, in one place, and set at creation: nothing is changed afterwards.
The profile: the user's own uid, no capability, no new privileges, memory without swap, pids, one bridge, one log cap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ds01_spawner.core.devices import Device
from ds01_spawner.core.limits import Limits

PORT = 8888
NANO = 10**9
#: What an image could set to reach into another program; Docker removes a variable that is named without "=".
STRIPPED = ("LD_PRELOAD", "LD_AUDIT", "DOCKER_HOST")


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path inside the container."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Person:
    """Who the container's processes are. Home is `/home/<name>`."""

    name: str
    uid: int
    gid: int

    @property
    def home(self) -> str:
        """The home directory inside the container."""
        return f"/home/{self.name}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that a container is made of. `simulated` devices exist nowhere, so the engine isn't asked for them."""

    image_id: str
    person: Person
    limits: Limits
    network: str
    hostname: str
    env: Mapping[str, str]
    args: Sequence[str]
    labels: Mapping[str, str]
    mounts: Sequence[Mount] = ()
    devices: Sequence[Device] = ()
    simulated: bool = False
    extra_groups: Sequence[int] = field(default=())


def make(wanted: Wanted) -> dict[str, Any]:
    """The payload of `POST /containers/create`."""
    return {
        "Image": wanted.image_id,
        "Cmd": list(wanted.args),
        "User": f"{wanted.person.uid}:{wanted.person.gid}",
        "WorkingDir": wanted.person.home,
        "Hostname": wanted.hostname,
        "Env": _environment(wanted),
        "Labels": dict(wanted.labels),
        "StopSignal": "SIGTERM",
        "HostConfig": _host_config(wanted),
    }


def visible_devices(devices: Sequence[Device]) -> str:
    """The value of NVIDIA_VISIBLE_DEVICES: the leased UUIDs, or `void`, which the toolkit reads as none at all."""
    return ",".join(device.uuid for device in devices) or "void"


def _environment(wanted: Wanted) -> list[str]:
    env = {
        **wanted.env,
        "HOME": wanted.person.home,
        "USER": wanted.person.name,
        "LOGNAME": wanted.person.name,
        "SHELL": "/bin/bash",
        "NVIDIA_VISIBLE_DEVICES": visible_devices(wanted.devices),
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    if not wanted.devices:
        env["CUDA_VISIBLE_DEVICES"] = ""
    return [*(f"{key}={value}" for key, value in sorted(env.items())), *STRIPPED]


def _host_config(wanted: Wanted) -> dict[str, Any]:
    limits = wanted.limits
    config: dict[str, Any] = {
        "NetworkMode": wanted.network,
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "IpcMode": "private",
        "GroupAdd": [str(gid) for gid in wanted.extra_groups],
        "Mounts": [_mount(mount) for mount in wanted.mounts],
        "Tmpfs": {"/tmp": _tmpfs(limits.storage_tmp)},  # noqa: S108 - a mount point inside the container
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "5m", "max-file": "2"}},
        "PidsLimit": limits.pids_limit or 0,
        "Memory": limits.memory or 0,
        "MemorySwap": _memory_swap(limits),
        "NanoCpus": int(limits.max_cpus * NANO) if limits.max_cpus is not None else 0,
    }
    if limits.shm_size is not None:
        config["ShmSize"] = limits.shm_size
    if wanted.devices and not wanted.simulated:
        ids = [device.uuid for device in wanted.devices]
        config["DeviceRequests"] = [
            {"Driver": "nvidia", "DeviceIDs": ids, "Capabilities": [["gpu", "compute", "utility"]]}
        ]
    return config


def _memory_swap(limits: Limits) -> int:
    """Memory plus swap, as the engine counts it; without a memory limit there is nothing to add to."""
    if limits.memory is None:
        return 0
    return -1 if limits.memory_swap is None else limits.memory_swap


def _mount(mount: Mount) -> dict[str, Any]:
    return {"Type": "bind", "Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only}


def _tmpfs(size: int | None) -> str:
    # 0 is tmpfs's "no limit" (without a size it takes half of the memory); the container's memory bounds it anyway.
    return f"rw,nosuid,nodev,exec,mode=1777,size={size or 0}"
