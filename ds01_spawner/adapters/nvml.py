"""The machine's GPUs through NVML (package `nvidia-ml-py`), read-only.

A call into a driver in trouble can hang for ever, so everything runs in a thread of its own with a deadline; while
that thread is stuck every reading fails at once. Between two readings NVML is shut down: an admin can reset a GPU or
switch MIG mode without stopping the hub, a reloaded driver is seen, and no handle outlives the reading it came from.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import pynvml

from ds01_spawner.adapters.nvml_calls import NvmlCallError, as_text, ask, call
from ds01_spawner.adapters.nvml_gpu import finish, read_gpu
from ds01_spawner.adapters.nvml_mig import Geometries
from ds01_spawner.core.devices import Gpu, Inventory
from ds01_spawner.core.errors import InventoryUnavailable
from ds01_spawner.core.ports import Clock

#: There while the driver's kernel module is loaded, with or without its libraries.
KERNEL_MODULE = Path("/proc/driver/nvidia/version")


class NvmlInventory:
    """A `GpuInventory` of the machine that this process runs on.

    `deadline` is in seconds and counts for one `read`. Callers that wait at the same time share one reading, which
    began after all of them asked.
    """

    def __init__(self, node: str, *, clock: Clock, deadline: float = 5.0, kernel_module: Path = KERNEL_MODULE) -> None:
        self._node, self._clock, self._deadline, self._kernel_module = node, clock, deadline, kernel_module
        self._turn = asyncio.Lock()
        self._running: Future[Inventory] | None = None
        self._overdue = False
        self._started = 0
        self._last: tuple[int, Inventory] | None = None
        self._geometries: Geometries | None = None

    async def read(self) -> Inventory:
        """All GPUs now. Raises InventoryUnavailable with what to do about it, at the latest after the deadline."""
        self._fail_while_stuck()
        asked = self._started
        try:
            async with asyncio.timeout(self._deadline), self._turn:
                if self._last is not None and self._last[0] > asked:
                    return self._last[1]
                return await self._in_thread()
        except TimeoutError:
            self._overdue = self._running is not None and not self._running.done()
            raise InventoryUnavailable(
                f"NVML gives no answer within {self._deadline:g} s. A GPU may have fallen off the bus: "
                "`dmesg | grep -i xid` says more. With persistence mode off the driver starts anew at each reading: "
                "run nvidia-persistenced. No GPU is granted until NVML answers."
            ) from None

    def _fail_while_stuck(self) -> None:
        if self._running is not None and self._running.done():
            self._overdue = False
        if self._overdue:
            raise InventoryUnavailable("NVML still hangs in an earlier call; no GPU is granted until it answers.")

    async def _in_thread(self) -> Inventory:
        if self._running is not None and not self._running.done():
            # Left behind by a caller that was cancelled. It began before we asked, so its answer isn't ours.
            with suppress(Exception):
                await asyncio.wrap_future(self._running)
        self._started += 1
        number, future = self._started, Future[Inventory]()
        future.set_running_or_notify_cancel()  # from here on a cancelled caller can't cancel the thread's future
        self._running = future
        # A daemon thread, not an executor's: a call that hangs must not keep the process from ending.
        threading.Thread(target=self._work, args=(future,), name="nvml", daemon=True).start()
        inventory = await asyncio.wrap_future(future)
        self._last = number, inventory
        return inventory

    def _work(self, future: Future[Inventory]) -> None:
        try:
            future.set_result(self._read())
        except BaseException as error:
            future.set_exception(error)

    def _read(self) -> Inventory:
        try:
            call("nvmlInit")
            try:
                return self._snapshot()
            finally:
                with suppress(NvmlCallError):
                    call("nvmlShutdown")
        except NvmlCallError as failure:
            if failure.code == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND and not self._kernel_module.exists():
                return self._without_driver()
            raise InventoryUnavailable(f"The GPUs can't be read: {failure}.") from None

    def _without_driver(self) -> Inventory:
        note = "No NVIDIA driver on this machine (no libnvidia-ml.so.1): CPU only."
        return Inventory(self._node, taken_at=self._clock(), notes=(note,))

    def _snapshot(self) -> Inventory:
        now = self._clock()
        driver = as_text(ask("", "nvmlSystemGetDriverVersion"))
        cuda = ask(None, "nvmlSystemGetCudaDriverVersion_v2")
        self._geometries = geometries = Geometries(driver, self._geometries)
        readings = [read_gpu(index, geometries) for index in range(call("nvmlDeviceGetCount"))]
        seen = {reading.gpu.uuid for reading in readings}
        gpus: list[Gpu] = []
        notes: list[str] = [] if readings else ["The NVIDIA driver runs and finds no GPU: CPU only."]
        for reading in readings:
            gpu, found = finish(reading, self._previous(reading.gpu, seen))
            gpus.append(gpu)
            notes += found
        version = None if cuda is None else (int(cuda) // 1000, int(cuda) % 1000 // 10)
        return Inventory(self._node, tuple(gpus), driver, version, False, now, tuple(dict.fromkeys(notes)))

    def _previous(self, gpu: Gpu, seen: set[str]) -> Gpu | None:
        """The same GPU in the snapshot before: by UUID, or by index where the UUID can't be read any more."""
        if self._last is None:
            return None
        before = self._last[1]
        if gpu.uuid:
            return before.find(gpu.uuid)
        # Indices move up when a GPU vanishes: one that we see elsewhere now is not the one that we miss.
        return next((old for old in before.gpus if old.index == gpu.index and old.uuid not in seen), None)
