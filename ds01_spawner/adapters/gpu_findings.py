"""What an admin should know about one GPU: the same sentences for real and for simulated ones."""

from __future__ import annotations

from ds01_spawner.core.devices import Gpu, Health


def pending_reason(current: bool, pending: bool) -> str:
    """Why a GPU drains whose MIG mode is to change; empty where it isn't."""
    if current == pending:
        return ""
    words = {True: "on", False: "off"}
    return f"MIG mode is {words[current]} and will be {words[pending]} after the GPU's next reset"


def findings(gpu: Gpu, *, persistence: bool | None) -> list[str]:
    """Notes on a GPU. `persistence` is its persistence mode, None where that can't be read."""
    notes = []
    name = f"GPU {gpu.index} ({gpu.uuid})"
    if gpu.health is not Health.OK:
        notes.append(f"{name} is {gpu.health}, nothing of it is granted: {gpu.health_reason}.")
    elif gpu.mig and not gpu.instances:
        notes.append(
            f"{name} is in MIG mode and has no instance, so it offers nothing: "
            "make instances (`nvidia-smi mig -cgi ... -C`) or switch its MIG mode off."
        )
    if gpu.mig and persistence is False:
        notes.append(
            f"{name} is in MIG mode with persistence mode off: when the driver unloads its instances are gone, "
            "on Hopper and later the mode too. Run nvidia-persistenced."
        )
    return notes
