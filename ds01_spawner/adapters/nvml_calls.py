"""The seam to NVML: every call goes through `call`, and no error of pynvml gets past it."""

from __future__ import annotations

from typing import Any

import pynvml

#: The driver itself is gone, or the operating system keeps us from it: nothing more can be read at all.
DRIVER_GONE = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_OPERATING_SYSTEM,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }
)
#: This GPU is gone, mostly fallen off the bus (Xid 79).
GPU_GONE = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_GPU_NOT_FOUND})
#: This call has no answer on this board, with this driver or for this user: the value is unknown, the GPU is fine.
NO_VALUE = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_DATA,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
    }
)

_AGAIN = (
    "It is tried again at the next reading; if it stays, `nvidia-smi` and `dmesg | grep -i -e nvrm -e xid` say more"
)
_ADVICE = {
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "Load the NVIDIA driver (`modprobe nvidia`); after an upgrade restart the machine"
    ),
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "Install the driver's libnvidia-ml.so.1 where this process can load it",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "The driver was upgraded while its old kernel module still runs: restart the machine"
    ),
    pynvml.NVML_ERROR_OPERATING_SYSTEM: (
        "The operating system keeps this process from the GPU's device files: was `systemctl daemon-reload` run? "
        "Look at the unit's DeviceAllow and restart it"
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: "Run the hub as root",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "The driver is too old for this: install a newer one",
    pynvml.NVML_ERROR_GPU_IS_LOST: "It fell off the bus: restart the machine, look at power and cooling",
    pynvml.NVML_ERROR_GPU_NOT_FOUND: "It fell off the bus: restart the machine, look at power and cooling",
    pynvml.NVML_ERROR_RESET_REQUIRED: "Stop what runs on it, then `nvidia-smi --gpu-reset`",
}


class NvmlCallError(Exception):
    """An NVML call that failed: its name, NVML's code and text. Never leaves the NVML adapter."""

    def __init__(self, function: str, code: int, text: str) -> None:
        self.function, self.code, self.text = function, code, text
        super().__init__(f"{function} failed: {text} ({code}). {_ADVICE.get(code, _AGAIN)}")


def call(function: str, *arguments: Any) -> Any:
    """Call a function of pynvml by its name. Raises NvmlCallError, and no error of pynvml's."""
    try:
        return getattr(pynvml, function)(*arguments)
    except pynvml.NVMLError as error:
        raise NvmlCallError(function, int(error.value), str(error)) from None
    except UnicodeDecodeError:
        # A board with a damaged memory for its names: pynvml decodes before we could look.
        raise NvmlCallError(function, pynvml.NVML_ERROR_UNKNOWN, "the answer is not text") from None


def ask(default: Any, function: str, *arguments: Any) -> Any:
    """Like `call`, with `default` where the call has no answer here. Any other failure still raises."""
    try:
        return call(function, *arguments)
    except NvmlCallError as failure:
        if failure.code in NO_VALUE:
            return default
        raise


def uuid_of(handle: Any) -> str:
    """The UUID of a GPU or a MIG device, in the old or the new form. Raises NvmlCallError where it is empty."""
    uuid = as_text(call("nvmlDeviceGetUUID", handle))
    if not uuid:
        raise NvmlCallError("nvmlDeviceGetUUID", pynvml.NVML_ERROR_UNKNOWN, "the UUID is empty")
    return uuid


def as_text(value: str | bytes) -> str:
    """NVML's text as str: older pynvml and all structures give bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
