"""One GPU through NVML. Whatever fails on it is told as its health, so that the others are still served."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pynvml

from ds01_spawner.adapters.gpu_findings import findings, pending_reason
from ds01_spawner.adapters.nvml_calls import DRIVER_GONE, GPU_GONE, NvmlCallError, as_text, ask, call, uuid_of
from ds01_spawner.adapters.nvml_mig import Geometries, read_instances
from ds01_spawner.core.devices import Gpu, Health

_MIB = 1 << 20
#: Board and driver know no MIG: the same as a board without.
_NO_MIG = frozenset({pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND})
NO_STARTS = "NVML tells the start slots of MIG instances to privileged users only: run the hub as root."


@dataclass(slots=True)
class Reading:
    """What was read of one GPU. `complete` is False where a failure cut the reading short."""

    gpu: Gpu
    complete: bool = True
    persistence: bool | None = None
    notes: list[str] = field(default_factory=list)


def read_gpu(index: int, geometries: Geometries) -> Reading:
    """Read the GPU at this index. Raises NvmlCallError only where the driver itself is gone."""
    reading = Reading(Gpu("", index, "unknown model", 0, mig=None, axis=None))
    try:
        _fill(reading, call("nvmlDeviceGetHandleByIndex", index), geometries)
    except NvmlCallError as failure:
        if failure.code in DRIVER_GONE:
            raise
        reading.complete = False
        reading.gpu = replace(reading.gpu, health=_health(failure), health_reason=str(failure))
    return reading


def finish(reading: Reading, previous: Gpu | None) -> tuple[Gpu, list[str]]:
    """The GPU and its notes. A reading that was cut short is completed with the last known facts.

    So a GPU in trouble keeps its UUID, model and instances; its health says that nothing of it is to be granted.
    """
    gpu = reading.gpu
    if not reading.complete and previous is not None:
        gpu = replace(previous, index=gpu.index, health=gpu.health, health_reason=gpu.health_reason)
    elif not gpu.uuid:
        gpu = replace(gpu, uuid=f"unknown-{gpu.index}")
    return gpu, reading.notes + findings(gpu, persistence=reading.persistence)


def _health(failure: NvmlCallError) -> Health:
    if failure.code in GPU_GONE:
        return Health.LOST
    return Health.DRAINING if failure.code == pynvml.NVML_ERROR_RESET_REQUIRED else Health.UNKNOWN


def _fill(reading: Reading, handle: Any, geometries: Geometries) -> None:
    """Step by step, so that what was read before a failure stays."""
    reading.gpu = replace(reading.gpu, uuid=uuid_of(handle))
    reading.gpu = replace(reading.gpu, model=as_text(ask("unknown model", "nvmlDeviceGetName", handle)))
    pci = ask(None, "nvmlDeviceGetPciInfo", handle)
    memory = ask(None, "nvmlDeviceGetMemoryInfo", handle)
    reading.gpu = replace(
        reading.gpu,
        pci_bus=as_text(pci.busId) if pci is not None else "",
        memory_mib=int(memory.total) // _MIB if memory is not None else 0,
    )
    persistence = ask(None, "nvmlDeviceGetPersistenceMode", handle)
    reading.persistence = None if persistence is None else bool(persistence)
    mode = _mig_mode(handle)
    if mode is None:
        reading.gpu = replace(reading.gpu, mig=False, axis=1)
    else:
        _fill_mig(reading, handle, geometries, *mode)


def _mig_mode(handle: Any) -> tuple[bool, bool] | None:
    """MIG mode now and after the next reset; None on a board without MIG."""
    try:
        current, pending = call("nvmlDeviceGetMigMode", handle)
    except NvmlCallError as failure:
        if failure.code in _NO_MIG:
            return None
        raise
    return bool(current), bool(pending)


def _fill_mig(reading: Reading, handle: Any, geometries: Geometries, current: bool, pending: bool) -> None:
    board_mib = reading.gpu.memory_mib
    geometry = geometries.of(handle, reading.gpu.uuid, current, board_mib)
    if current and geometry.slices is None:
        # Without it a share of the GPU has no size, and no limit in GPU-equivalents could hold.
        raise NvmlCallError(
            "nvmlDeviceGetGpuInstanceProfileInfo", pynvml.NVML_ERROR_NOT_SUPPORTED, "no profile of this GPU can be read"
        )
    instances = read_instances(handle, geometry, board_mib) if current else ()
    reason = pending_reason(current, pending)
    reading.gpu = replace(
        reading.gpu,
        mig=current,
        axis=geometry.axis,
        slices=geometry.slices or 1,
        profiles=tuple(shape.profile for shape in geometry.shapes),
        instances=instances,
        health=Health.DRAINING if reason else Health.OK,
        health_reason=reason,
    )
    if any(instance.start is None for instance in instances):
        reading.notes.append(NO_STARTS)
