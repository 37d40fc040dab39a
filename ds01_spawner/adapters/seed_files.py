"""The three files of the DS01 system that scripts of labs read: its log line by line, its metadata, its state.

They are exports: written here, read by nobody of ours. A reader sees each file whole, old or new, never half.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ds01_spawner.adapters.event_log import append_line
from ds01_spawner.core import lease_events
from ds01_spawner.core.devices import Device, Gpu, Inventory
from ds01_spawner.core.leases import Lease, LeaseState
from ds01_spawner.core.ports import Event
from ds01_spawner.core.reconcile import ADOPTED
from ds01_spawner.core.report import Report

MODE = 0o644
_WORDS = {
    f"lease.{LeaseState.RESERVED}": "ALLOCATED",
    f"lease.{LeaseState.BOUND}": "ALLOCATED",
    f"lease.{LeaseState.ON_HOLD}": "MARKED_STOPPED",
    f"lease.{LeaseState.RELEASED}": "RELEASED",
    lease_events.REFUSED: "REJECTED",
}


class SeedFiles:
    """Called with each event it writes the log; `export` writes the rest from a report. Raises OSError.

    `root` is put before `var/log/ds01` and `var/lib/ds01`.
    """

    def __init__(self, root: Path) -> None:
        self._log = root / "var/log/ds01/gpu-allocations.log"
        self._state = root / "var/lib/ds01/gpu-state.json"
        self._metadata = root / "var/lib/ds01/container-metadata"
        self._inventory: Inventory | None = None

    def __call__(self, event: Event) -> None:
        """Append the line of an event that concerns a GPU."""
        line = log_line(event, self._inventory)
        if line:
            append_line(self._log, line, MODE)

    def export(self, report: Report) -> None:
        """Write the metadata of each container with a GPU and the state of all GPUs; nothing where they are unknown."""
        if report.inventory is None:
            return
        self._inventory = report.inventory
        leases = [lease for lease in report.leases if lease.devices]
        self._write_metadata(leases, report.inventory)
        _write(self._state, gpu_state(report.inventory, leases))

    def _write_metadata(self, leases: Sequence[Lease], inventory: Inventory) -> None:
        meant = {f"{quote(lease.container_name, safe='')}.json": lease for lease in leases}
        for name, lease in meant.items():
            _write(self._metadata / name, metadata(lease, inventory))
        for path in self._metadata.glob("*.json"):
            if path.name not in meant:
                path.unlink(missing_ok=True)


def log_line(event: Event, inventory: Inventory | None) -> str:
    """`ISO-time|EVENT|user|container|gpu|priority=N|reason`; empty for an event that the file doesn't have."""
    word = _WORDS.get(event.kind)
    data = event.data
    gpu = _gpu_field(data, inventory)
    adopted = data.get("reason") == ADOPTED
    if word is None or not gpu or (event.kind == f"lease.{LeaseState.BOUND}" and not adopted):
        return ""
    time = datetime.fromtimestamp(event.at, UTC).isoformat(timespec="seconds")
    reason = str(data.get("message") or data.get("reason") or "")
    fields = [
        time,
        word,
        event.user,
        str(data.get("container", "")),
        gpu,
        f"priority={data.get('priority', 0)}",
        reason,
    ]
    return "|".join(map(_harmless, fields))


def _gpu_field(data: Mapping[str, Any], inventory: Inventory | None) -> str:
    """The seed's ids (`0`, `0:3`) where the GPUs are known, else UUIDs; what was asked for where nothing was given."""
    known = {device.uuid: seed_id(device, inventory) for device in inventory.devices()} if inventory else {}
    given = ",".join(known.get(uuid, uuid) for uuid in data.get("uuids") or ())
    return given or (str(data.get("request", "")) if data.get("gpu") else "")


def _harmless(text: str) -> str:
    """A field that can't end its field or its line: what would is written as an escape."""
    return "".join(
        c if c.isprintable() and c not in "|\\" else c.encode("unicode_escape").decode() if c != "|" else "\\x7c"
        for c in text
    )


def seed_id(device: Device, inventory: Inventory) -> str:
    """`0` for a whole GPU, `0:3` for GPU instance 3 of GPU 0."""
    gpu = inventory.find(device.gpu_uuid)
    index = str(gpu.index) if gpu else device.gpu_uuid
    return index if device.full else f"{index}:{device.gi}"


def metadata(lease: Lease, inventory: Inventory) -> dict[str, Any]:
    """The seed's fields for one container."""
    values: dict[str, Any] = {
        "container": lease.container_name,
        "user": lease.owner.user,
        "gpu_id": ",".join(seed_id(device, inventory) for device in lease.devices),
        "priority": lease.priority,
        "allocated_at": _time(lease.reserved_at),
    }
    if lease.state is LeaseState.ON_HOLD and lease.hold_until is not None:
        values["held_until"] = _time(lease.hold_until)
    return values


def gpu_state(inventory: Inventory, leases: Iterable[Lease]) -> dict[str, Any]:
    """The seed's shape. `reserved_until` and `reserved_for` stay null until there are reservations."""
    holders: dict[str, list[Lease]] = {}
    for lease in leases:
        for device in lease.devices:
            holders.setdefault(device.id, []).append(lease)
    gpus = {}
    for device in inventory.devices():
        held = holders.get(device.id, [])
        gpus[seed_id(device, inventory)] = {
            "type": "physical_gpu" if device.full else "mig_instance",
            "physical_gpu": _index(inventory.find(device.gpu_uuid)),
            "mig_instance": device.gi,
            "uuid": device.uuid,
            "containers": [lease.container_name for lease in held],
            "users": {lease.owner.user: 1 for lease in held},
            "reserved_until": None,
            "reserved_for": None,
        }
    return {
        "gpus": gpus,
        "mig_enabled": any(gpu.mig for gpu in inventory.gpus),
        "allocation_strategy": "exclusive",
        "simulated": inventory.simulated,
    }


def _index(gpu: Gpu | None) -> int | None:
    return None if gpu is None else gpu.index


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """Whole or not at all, and not at all where nothing changed."""
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.chmod(MODE)
    temporary.replace(path)
