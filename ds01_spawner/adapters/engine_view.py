"""What the engine's inspect answer means to us: plain dicts in, a ContainerView out. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ds01_spawner.core.ports import ContainerView

NANO = 10**9
#: A CPU quota without a period counts for this many microseconds.
DEFAULT_PERIOD = 100_000
#: What NVIDIA_VISIBLE_DEVICES may hold when it names no device.
NO_DEVICE = frozenset({"", "void", "none"})


def container_view(answer: Mapping[str, Any]) -> ContainerView:
    """The view of one inspect answer. Raises KeyError, TypeError or ValueError where it isn't one."""
    state, host, config = answer["State"], answer["HostConfig"], answer["Config"]
    device_ids, all_devices = _devices(host, config)
    return ContainerView(
        id=str(answer["Id"]),
        name=str(answer["Name"]).removeprefix("/"),
        state=str(state["Status"]),
        labels=dict(config.get("Labels") or {}),
        image_id=str(answer.get("Image") or ""),
        pid=int(state.get("Pid") or 0),
        exit_code=_exit_code(state),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        ip=_address(answer.get("NetworkSettings") or {}, host.get("NetworkMode") or ""),
        device_ids=device_ids,
        all_devices=all_devices,
        memory=_limit(host.get("Memory")),
        memory_swap=_limit(host.get("MemorySwap")),
        cpus=_cpus(host),
        shm_size=_limit(host.get("ShmSize")),
        pids_limit=_limit(host.get("PidsLimit")),
        created_at=datetime.fromisoformat(answer["Created"]).timestamp(),
    )


def _exit_code(state: Mapping[str, Any]) -> int | None:
    """None while it runs and before it ever ran: the engine says 0 then."""
    return int(state["ExitCode"]) if state["Status"] in {"exited", "dead"} else None


def _limit(value: int | None) -> int:
    """The engine writes "no limit" as null, 0 or -1."""
    return max(int(value or 0), 0)


def _cpus(host: Mapping[str, Any]) -> float:
    if host.get("NanoCpus"):
        return int(host["NanoCpus"]) / NANO
    return _limit(host.get("CpuQuota")) / (_limit(host.get("CpuPeriod")) or DEFAULT_PERIOD)


def _address(settings: Mapping[str, Any], network: str) -> str:
    """Its address on the network that it was made on, else on the first one that it has."""
    networks = settings.get("Networks") or {}
    candidates = [networks.get(network), *networks.values()]
    return next((str(n["IPAddress"]) for n in candidates if n and n.get("IPAddress")), "")


def _devices(host: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
    """The GPUs that the container was given, and whether it was given all of them."""
    requests: Sequence[Mapping[str, Any]] = host.get("DeviceRequests") or ()
    found = [name for request in requests for name in _requested(request)]
    if not requests and "nvidia" in (host.get("Runtime") or ""):
        # The runtime does by the environment what a device request does otherwise.
        found = _visible(config.get("Env") or ())
    return tuple(name for name in found if name != "all"), "all" in found


def _requested(request: Mapping[str, Any]) -> list[str]:
    if ids := request.get("DeviceIDs"):
        # A CDI name is "vendor.com/class=device".
        return [str(name).rpartition("=")[2] for name in ids]
    count = int(request.get("Count") or 0)
    return ["all"] if count < 0 else [str(index) for index in range(count)]


def _visible(env: Sequence[str]) -> list[str]:
    values = [entry.partition("=")[2] for entry in env if entry.startswith("NVIDIA_VISIBLE_DEVICES=")]
    names = values[-1].split(",") if values else []
    return [name.strip() for name in names if name.strip() not in NO_DEVICE]
