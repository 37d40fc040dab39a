"""NVML in trouble: each error has its reaction, none leaks, and a call that hangs stops nobody but itself."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from ds01_spawner.adapters import nvml_calls
from ds01_spawner.adapters.nvml_mig import name_of
from ds01_spawner.core.devices import Health, Inventory
from ds01_spawner.core.errors import InventoryUnavailable
from tests.fakes import nvml_library
from tests.fakes.gpu_world import World, gpu, uuid
from tests.fakes.mig_layouts import BOARDS

#: Every code that pynvml has a class for, and one from a driver newer than pynvml.
CODES = [*sorted(pynvml.NVMLError._valClassMapping), 4711]
SYMBOLS = sorted(nvml_library.played() - {"nvmlErrorString"})
STRUCTURES = {
    "c_nvmlMemory_t": 24,
    "c_nvmlDeviceAttributes": 40,
    "c_nvmlGpuInstanceProfileInfo_t": 48,
    "c_nvmlGpuInstanceProfileInfo_v2_t": 152,
    "c_nvmlGpuInstancePlacement_t": 8,
    "c_nvmlGpuInstanceInfo_t": 24,
    "nvmlPciInfo_t": 68,
}


async def unavailable(world: World, *errors: tuple[str, int]) -> str:
    """Read with these errors; what InventoryUnavailable says."""
    world.change(lambda machine: machine.errors.extend((*error, -1) for error in errors))
    with pytest.raises(InventoryUnavailable) as caught:
        await world.inventory().read()
    return str(caught.value)


async def read_with(world: World, *errors: tuple[str, int, int]) -> Inventory:
    """Read with these errors, each on one GPU."""
    world.change(lambda machine: machine.errors.extend(errors))
    return await world.inventory().read()


@pytest.mark.parametrize("symbol", SYMBOLS)
async def test_no_error_of_nvml_leaks(nvml: World, symbol: str) -> None:
    """Every code at every call ends in a snapshot or in InventoryUnavailable, and never grants more than there is.

    What is still offered are UUIDs that exist, and NVML is shut down as often as it was started.
    """
    nvml.show(gpu(0, "3g.20gb@0", "1g.5gb@6"), gpu(1))
    inventory = nvml.inventory()
    everything = {device.uuid for device in (await inventory.read()).devices()}
    if symbol == "nvmlDeviceGetMigMode":
        everything.add(uuid(0))  # NOT_SUPPORTED is NVML's word that the board has no MIG, so it is one whole device
    for code in CODES:
        nvml.change(lambda machine, code=code: machine.errors.__setitem__(slice(None), [(symbol, code, -1)]))
        for reader in (inventory, nvml.inventory()):  # one that knows the boards, one that has to ask
            try:
                read = await reader.read()
            except InventoryUnavailable as error:
                assert str(error).startswith("The GPUs can't be read: ")
            else:
                assert {device.uuid for device in read.devices()} <= everything
                assert all(found.health_reason for found in read.gpus if found.health is not Health.OK)
            if symbol != "nvmlShutdown":
                assert nvml.library.fake_initialised() == 0


async def test_the_list_of_calls_is_whole(nvml: World) -> None:
    """The stand-in plays every symbol that the adapter looks up, so the test above leaves none out."""
    nvml.show(gpu(0, "1g.5gb@0"), gpu(1))
    await nvml.inventory().read()
    await read_with(nvml, ("nvmlDeviceGetGpuInstanceProfileInfoV", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, -1))
    assert set(pynvml._nvmlGetFunctionPointer_cache) | {"nvmlErrorString"} == nvml_library.played()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "modprobe nvidia"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "restart the machine"),
        (pynvml.NVML_ERROR_OPERATING_SYSTEM, "daemon-reload"),
        (pynvml.NVML_ERROR_UNKNOWN, "tried again at the next reading"),
        (pynvml.NVML_ERROR_NOT_READY, "tried again at the next reading"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "as root"),
    ],
)
async def test_no_start_of_nvml_says_what_to_do(nvml: World, code: int, advice: str) -> None:
    """Where NVML doesn't start nothing is known, so nothing is granted, and the admin reads what to do."""
    message = await unavailable(nvml, ("nvmlInitWithFlags", code))
    assert advice in message
    assert f"({code})" in message


@pytest.mark.parametrize("code", sorted(nvml_calls.DRIVER_GONE))
@pytest.mark.parametrize("symbol", ["nvmlDeviceGetUUID", "nvmlDeviceGetMigDeviceHandleByIndex"])
async def test_a_driver_that_goes_away_meanwhile(nvml: World, symbol: str, code: int) -> None:
    """A driver that vanishes during a reading makes the whole reading worthless: no half snapshot."""
    nvml.show(gpu(0, "1g.5gb@0"))
    assert symbol in await unavailable(nvml, (symbol, code))


def _no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", missing)


async def test_without_the_library_there_is_no_gpu(
    nvml: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without a driver serves CPU-only containers: an empty snapshot with a note, no error."""
    _no_library(monkeypatch)
    read = await nvml.inventory(kernel_module=tmp_path / "nothing").read()
    assert read.gpus == ()
    assert "CPU only" in read.notes[0]


async def test_half_a_driver_is_no_machine_without_gpus(
    nvml: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the kernel module loaded and the library gone (an upgrade under way) leases must not look lost."""
    _no_library(monkeypatch)
    module = tmp_path / "version"
    module.touch()
    with pytest.raises(InventoryUnavailable, match=r"libnvidia-ml\.so\.1"):
        await nvml.inventory(kernel_module=module).read()


@pytest.mark.parametrize(
    ("code", "health"),
    [
        (pynvml.NVML_ERROR_GPU_IS_LOST, Health.LOST),
        (pynvml.NVML_ERROR_GPU_NOT_FOUND, Health.LOST),
        (pynvml.NVML_ERROR_RESET_REQUIRED, Health.DRAINING),
        (pynvml.NVML_ERROR_UNKNOWN, Health.UNKNOWN),
        (pynvml.NVML_ERROR_TIMEOUT, Health.UNKNOWN),
    ],
)
@pytest.mark.parametrize("symbol", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo"])
async def test_trouble_of_one_gpu_is_its_own(nvml: World, symbol: str, code: int, health: Health) -> None:
    """One GPU's error is that GPU's health; it keeps what was known of it, and the others are served."""
    nvml.show(gpu(0), gpu(1, "3g.20gb@0"), gpu(2))
    inventory = nvml.inventory()
    before = await inventory.read()
    nvml.change(lambda machine: machine.errors.append((symbol, code, 1)))
    after = await inventory.read()
    assert [found.health for found in after.gpus] == [Health.OK, health, Health.OK]
    assert [found.uuid for found in after.gpus] == [found.uuid for found in before.gpus]
    assert after.gpus[1].instances == before.gpus[1].instances
    assert {device.gpu_uuid for device in after.devices()} == {uuid(0), uuid(2)}


async def test_a_lost_gpu_that_nobody_saw_before(nvml: World) -> None:
    """A GPU that was lost before the first reading is shown as lost under a name that is no GPU's UUID."""
    nvml.show(gpu(0), gpu(1, state="lost"))
    read = await nvml.inventory().read()
    assert (read.gpus[1].health, read.gpus[1].uuid) == (Health.LOST, "unknown-1")


async def test_a_uuid_is_never_given_to_two_gpus(nvml: World) -> None:
    """When a GPU vanishes the indices move up: a lost GPU doesn't take the UUID of one that is seen elsewhere."""
    nvml.show(gpu(0), gpu(1), gpu(2))
    inventory = nvml.inventory()
    await inventory.read()
    nvml.show(gpu(1), gpu(2, state="lost"))
    assert [found.uuid for found in (await inventory.read()).gpus] == [uuid(1), "unknown-1"]


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND])
async def test_mig_not_supported_is_a_whole_gpu(nvml: World, code: int) -> None:
    """A board or a driver without MIG is leased whole: axis 1, no profile."""
    read = await read_with(nvml, ("nvmlDeviceGetMigMode", code, -1))
    found = read.gpus[0]
    assert (found.mig, found.axis, found.slices, found.profiles, found.health) == (False, 1, 1, (), Health.OK)
    assert len(read.devices()) == 1


async def test_an_unreadable_mode_is_neither_whole_nor_cut(nvml: World) -> None:
    """Where MIG mode can't be read the GPU's health is unknown and nothing of it is offered."""
    read = await read_with(nvml, ("nvmlDeviceGetMigMode", pynvml.NVML_ERROR_NO_PERMISSION, -1))
    assert (read.gpus[0].mig, read.gpus[0].health) == (None, Health.UNKNOWN)
    assert read.devices() == ()


@pytest.mark.parametrize(
    ("symbol", "field", "unknown"),
    [
        ("nvmlDeviceGetName", "model", "unknown model"),
        ("nvmlDeviceGetPciInfo_v3", "pci_bus", ""),
        ("nvmlDeviceGetMemoryInfo", "memory_mib", 0),
        ("nvmlDeviceGetPersistenceMode", "health_reason", ""),
    ],
)
async def test_a_value_not_supported_is_unknown(nvml: World, symbol: str, field: str, unknown: object) -> None:
    """NOT_SUPPORTED means that one value is unknown; the GPU is served."""
    read = await read_with(nvml, (symbol, pynvml.NVML_ERROR_NOT_SUPPORTED, -1))
    assert getattr(read.gpus[0], field) == unknown
    assert len(read.devices()) == 1


@pytest.mark.parametrize("symbol", ["nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion_v2"])
async def test_versions_not_supported_are_blank(nvml: World, symbol: str) -> None:
    """An unknown version of driver or CUDA is blank and stops nothing."""
    read = await read_with(nvml, (symbol, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, -1))
    assert (read.driver == "") or (read.cuda is None)
    assert len(read.devices()) == 1


async def test_indices_of_mig_devices_have_holes(nvml: World) -> None:
    """A missing index is skipped, it doesn't end the list."""
    nvml.show(gpu(0, "1g.5gb@0", "1g.5gb@1", "1g.5gb@2"))
    nvml.change(lambda machine: machine.indices.update({(0, 0): 2, (0, 1): 4, (0, 2): 6}))
    assert [device.start for device in (await nvml.inventory().read()).devices()] == [0, 1, 2]


@pytest.mark.parametrize(
    "symbol", ["nvmlDeviceGetUUID", "nvmlDeviceGetComputeInstanceId", "nvmlDeviceGetAttributes_v2"]
)
async def test_an_instance_destroyed_meanwhile_is_gone(
    nvml: World, monkeypatch: pytest.MonkeyPatch, symbol: str
) -> None:
    """NOT_FOUND on a MIG device between two calls means that it was just destroyed; its neighbours are served."""
    nvml.show(gpu(0, "1g.5gb@0", "1g.5gb@1"))
    asked = pynvml.nvmlDeviceGetMigDeviceHandleByIndex

    def destroyed(handle: object, index: int) -> object:
        found = asked(handle, index)
        if index == 0:
            nvml.show(gpu(0, "1g.5gb@1"))
            nvml.change(lambda machine: machine.indices.update({(0, 0): 1}))
        return found

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMigDeviceHandleByIndex", destroyed)
    read = await nvml.inventory().read()
    assert [device.start for device in read.devices()] == [1]
    assert read.gpus[0].health is Health.OK


async def test_an_ordinary_user_sees_instances_without_places(nvml: World) -> None:
    """Without privileges profile and share are known, start slots are not: `gi:` claims, unknown axis, one note."""
    nvml.show(gpu(0, "3g.20gb@0", "1g.5gb+me@4"), gpu(1, "1g.10gb@0"))
    nvml.change(lambda machine: setattr(machine, "ordinary", True))
    read = await nvml.inventory().read()
    assert {(d.profile, d.start, d.size) for d in read.devices()} == {
        ("3g.20gb", None, None),
        ("1g.5gb+me", None, None),
        ("1g.10gb", None, None),
    }
    assert all(d.slots == (f"gi:{d.gi}",) and d.gpu_slices == 7 for d in read.devices())
    assert [found.axis for found in read.gpus] == [None, None]
    assert len([note for note in read.notes if "privileged" in note]) == 1


async def test_without_any_profile_shares_have_no_size(nvml: World) -> None:
    """A GPU in MIG mode whose profiles can't be read offers nothing: no limit in GPU-equivalents could hold."""
    nvml.show(gpu(0, "1g.5gb@0"), gpu(1))
    read = await read_with(nvml, ("nvmlDeviceGetGpuInstanceProfileInfoV", pynvml.NVML_ERROR_NOT_SUPPORTED, -1))
    assert [found.health for found in read.gpus] == [Health.UNKNOWN, Health.OK]
    assert read.gpus[1].axis is None
    assert [device.uuid for device in read.devices()] == [uuid(1)]


@pytest.mark.parametrize("board", ["a100-40", "a30", "rtx-pro-6000"])
async def test_names_for_drivers_that_tell_none(nvml: World, board: str) -> None:
    """An old driver gives profiles no name: they are named from slices and memory as NVIDIA names them."""
    nvml.show(gpu(0, board=board, mig=True))
    old = ("nvmlDeviceGetGpuInstanceProfileInfoV", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, -1)
    read = await read_with(nvml, old)
    assert {p.name for p in read.gpus[0].profiles} == {p.shape.name for p in BOARDS[board].profiles}


@pytest.mark.parametrize(
    ("slices", "memory", "board", "name"),
    [
        (1, 11008, 95830, "1g.12gb"),
        (2, 22144, 95830, "2g.24gb"),
        (3, 44288, 95830, "3g.47gb"),
        (7, 95232, 95830, "7g.94gb"),
        (1, 16384, 143771, "1g.18gb"),
        (2, 33280, 143771, "2g.35gb"),
        (4, 71168, 143771, "4g.71gb"),
        (7, 143360, 143771, "7g.141gb"),
    ],
)
def test_names_round_as_nvidia_rounds(slices: int, memory: int, board: int, name: str) -> None:
    """The size in a name is eighths of the board's memory, which no rounding of the profile's own memory gives."""
    assert name_of(slices, memory, board) == name


async def test_wrong_counts_of_the_a30_are_not_believed(nvml: World) -> None:
    """The A30 tells wrong maxima; what fits is read from its placements."""
    reported = {p.shape.name: p.reported_max for p in BOARDS["a30"].profiles}
    assert reported["1g.6gb"] == 7
    nvml.show(gpu(0, "1g.6gb@0", "1g.6gb@1", "1g.6gb@2", "1g.6gb@3", board="a30"))
    read = await nvml.inventory().read()
    assert [len(p.starts) for p in read.gpus[0].profiles if p.name == "1g.6gb"] == [4]
    assert len(read.devices()) == 4


async def test_a_part_of_an_instance_is_named_as_a_part(nvml: World) -> None:
    """A compute instance with one of three slices counts as one slice, and says so in its profile."""
    nvml.show(gpu(0, "3g.20gb@4"))
    nvml.change(lambda machine: machine.part.update({(0, 0): 1}))
    device = (await nvml.inventory().read()).devices()[0]
    assert (device.profile, device.slices, device.start) == ("1c.3g.20gb", 1, 4)


def _hide_profile(monkeypatch: pytest.MonkeyPatch, enum: int) -> None:
    """A profile that the driver doesn't list, though an instance of it exists."""
    asked = pynvml.nvmlDeviceGetGpuInstanceProfileInfo

    def hidden(handle: object, number: int, version: int = 2) -> object:
        if number == enum:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return asked(handle, number, version)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetGpuInstanceProfileInfo", hidden)


async def test_an_instance_of_a_profile_that_is_not_listed(nvml: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance whose profile this driver doesn't list is named from its own attributes, and its place is known."""
    nvml.show(gpu(0, "3g.20gb@4"))
    _hide_profile(monkeypatch, pynvml.NVML_GPU_INSTANCE_PROFILE_3_SLICE)
    device = (await nvml.inventory().read()).devices()[0]
    assert (device.profile, device.slices, device.start, device.size) == ("3g.20gb", 3, 4, 4)


async def test_without_attributes_the_profile_tells(nvml: World) -> None:
    """An old driver that knows no attributes still tells the profile's number to a privileged user."""
    nvml.show(gpu(0, "3g.20gb@4"))
    read = await read_with(nvml, ("nvmlDeviceGetAttributes_v2", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, -1))
    assert [(device.profile, device.slices) for device in read.devices()] == [("3g.20gb", 3)]


async def test_an_instance_of_which_nothing_is_known_is_not_granted(nvml: World) -> None:
    """With neither attributes nor the profile's number an instance has no size: its GPU is unknown, not guessed."""
    nvml.show(gpu(0, "3g.20gb@4"), gpu(1))
    nvml.change(lambda machine: setattr(machine, "ordinary", True))
    read = await read_with(nvml, ("nvmlDeviceGetAttributes_v2", pynvml.NVML_ERROR_NOT_SUPPORTED, -1))
    assert [found.health for found in read.gpus] == [Health.UNKNOWN, Health.OK]
    assert "has no known profile" in read.gpus[0].health_reason


@pytest.mark.parametrize(
    ("code", "health"),
    [(pynvml.NVML_ERROR_NO_PERMISSION, Health.OK), (pynvml.NVML_ERROR_UNKNOWN, Health.UNKNOWN)],
)
async def test_the_older_call_for_profiles_may_fail_too(nvml: World, code: int, health: Health) -> None:
    """Without MIG, profiles that neither call tells are simply not listed; a driver in trouble is another matter."""
    read = await read_with(
        nvml,
        ("nvmlDeviceGetGpuInstanceProfileInfoV", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, -1),
        ("nvmlDeviceGetGpuInstanceProfileInfo", code, -1),
    )
    assert (read.gpus[0].health, read.gpus[0].profiles) == (health, ())


async def test_a_board_is_asked_once_for_its_geometry(nvml: World) -> None:
    """What a board offers is read once: it counts until driver or MIG mode change, and then is read anew."""
    nvml.show(gpu(0, "1g.5gb@0"))
    inventory = nvml.inventory()
    before = await inventory.read()
    asked = "nvmlDeviceGetGpuInstanceProfileInfoV"
    nvml.change(lambda machine: machine.errors.append((asked, pynvml.NVML_ERROR_GPU_IS_LOST, -1)))
    known = await inventory.read()
    assert known.gpus == before.gpus
    nvml.show(gpu(0, mig=False))
    nvml.change(lambda machine: machine.errors.append((asked, pynvml.NVML_ERROR_GPU_IS_LOST, -1)))
    assert [found.health for found in (await inventory.read()).gpus] == [Health.LOST]


async def test_another_driver_may_know_other_profiles(nvml: World) -> None:
    """A driver that was replaced is asked for the boards' geometry anew."""
    nvml.show(gpu(0, "1g.5gb@0"))
    inventory = nvml.inventory()
    await inventory.read()
    asked = "nvmlDeviceGetGpuInstanceProfileInfoV"

    def update(machine: nvml_library.Machine) -> None:
        machine.topology = replace(machine.topology, driver="999.99.01")
        machine.errors.append((asked, pynvml.NVML_ERROR_GPU_IS_LOST, -1))

    nvml.change(update)
    assert [found.health for found in (await inventory.read()).gpus] == [Health.LOST]


async def test_bytes_are_text_too(nvml: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older releases of pynvml answer in bytes: the snapshot is the same."""
    nvml.show(gpu(0, "1g.5gb@0"), gpu(1))
    before = await nvml.inventory().read()
    for function in ("nvmlDeviceGetName", "nvmlDeviceGetUUID", "nvmlSystemGetDriverVersion"):
        asked = getattr(pynvml, function)
        monkeypatch.setattr(pynvml, function, lambda *a, asked=asked: asked(*a).encode())
    assert await nvml.inventory().read() == before


async def test_a_name_that_is_no_text(nvml: World) -> None:
    """A board whose memory for its name is damaged is unknown, and the reading goes on."""
    nvml.show(gpu(0), gpu(1))
    assert nvml.machine is not None
    file = Path(os.environ[nvml_library.VARIABLE])
    file.write_bytes(file.read_bytes().replace(b"NVIDIA A100", b"\xff\xfe", 1))
    assert [found.health for found in (await nvml.inventory().read()).gpus] == [Health.UNKNOWN, Health.OK]


async def test_an_empty_uuid_is_no_uuid(nvml: World) -> None:
    """Nothing is leased under an empty UUID."""
    file = Path(os.environ[nvml_library.VARIABLE])
    file.write_text(file.read_text().replace(uuid(0), ""))
    read = await nvml.inventory().read()
    assert read.gpus[0].health is Health.UNKNOWN
    assert read.devices() == ()


class Hang:
    """A call that hangs until it is let go."""

    def __init__(self, world: World, symbol: str, file: Path) -> None:
        self._file = file
        file.touch()
        world.change(lambda machine: machine.hangs.append((symbol, file)))

    def let_go(self) -> None:
        """Let the call return, and wait for its thread to end."""
        self._file.unlink(missing_ok=True)
        for thread in self.threads():
            thread.join(60)

    @staticmethod
    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "nvml"]


@pytest.fixture
def hang(nvml: World, tmp_path: Path) -> Iterator[Hang]:
    found = Hang(nvml, "nvmlDeviceGetMemoryInfo", tmp_path / "hang")
    yield found
    found.let_go()


async def test_a_hanging_call_never_blocks_the_loop(nvml: World, hang: Hang) -> None:
    """While a call hangs the loop runs: it is the loop that lets the call go here."""
    reading = asyncio.create_task(nvml.inventory().read())
    while not hang.threads():
        await asyncio.sleep(0)
    assert not reading.done()
    hang.let_go()
    assert len((await reading).devices()) == 1


async def test_a_hanging_call_ends_at_the_deadline(nvml: World, hang: Hang) -> None:
    """A reading that takes too long is InventoryUnavailable and says where to look."""
    with pytest.raises(InventoryUnavailable, match=r"no answer within 0\.05 s"):
        await nvml.inventory(deadline=0.05).read()


async def test_while_stuck_every_reading_fails_at_once(nvml: World, hang: Hang) -> None:
    """Later readings fail without waiting and without another thread, and work again when the call returned."""
    inventory = nvml.inventory(deadline=1.0)
    with pytest.raises(InventoryUnavailable):
        await inventory.read()
    for _ in range(5):
        with pytest.raises(InventoryUnavailable, match="still hangs"):
            inventory.read().send(None)  # one step of the coroutine: it raises before it would wait for anything
    assert len(hang.threads()) == 1
    hang.let_go()
    assert len((await inventory.read()).devices()) == 1


async def test_a_cancelled_caller_spoils_nothing(nvml: World, hang: Hang) -> None:
    """A caller that goes away leaves its reading behind; the next one waits for it and then reads for itself."""
    inventory = nvml.inventory()
    gone = asyncio.create_task(inventory.read())
    while not hang.threads():
        await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    reading = asyncio.create_task(inventory.read())
    await asyncio.sleep(0)
    hang.let_go()
    nvml.show(gpu(5))
    assert [found.uuid for found in (await reading).gpus] == [uuid(5)]


async def test_callers_at_once_share_a_reading_that_began_after_they_asked(
    nvml: World, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred callers cost two readings: the one under way, which is too old for the others, and one for them all."""
    starts: list[None] = []
    start = pynvml.nvmlInit
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: (starts.append(None), start())[1])
    inventory = nvml.inventory()
    first = asyncio.create_task(inventory.read())
    while not hang.threads():
        await asyncio.sleep(0)
    others = [asyncio.create_task(inventory.read()) for _ in range(100)]
    await asyncio.sleep(0)
    hang.let_go()
    nvml.show(gpu(5))
    await first
    assert {tuple(found.uuid for found in read.gpus) for read in await asyncio.gather(*others)} == {(uuid(5),)}
    assert len(starts) == 2


SCRIPT = """
import asyncio, sys
from ds01_spawner.adapters.nvml import NvmlInventory
from ds01_spawner.core.errors import InventoryUnavailable
try:
    read = asyncio.run(NvmlInventory("n1", clock=lambda: 0.0, deadline=float(sys.argv[1])).read())
    print(len(read.devices()), read.gpus[0].model)
except InventoryUnavailable:
    print("unavailable")
"""


def run_alone(library: Path, deadline: float) -> str:
    """Read in a process of its own that finds the library as any process finds NVIDIA's."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, str(deadline)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout.strip()


def test_the_library_is_found_as_nvidias_is(nvml: World, nvml_stand_in: Path) -> None:
    """Nothing of the tests' loading is needed: a plain process reads the machine."""
    nvml.show(gpu(0), gpu(1, "1g.5gb@0"))
    assert run_alone(nvml_stand_in, 60) == "2 NVIDIA A100-SXM4-40GB"


def test_a_process_ends_while_a_call_hangs(nvml: World, nvml_stand_in: Path, hang: Hang) -> None:
    """A call that never returns doesn't keep the hub from ending."""
    assert run_alone(nvml_stand_in, 0.05) == "unavailable"


@pytest.mark.parametrize(("name", "size"), STRUCTURES.items())
def test_structures_are_those_of_pynvml(nvml: World, name: str, size: int) -> None:
    """The stand-in's structures have the sizes that pynvml hands over, and those are the known ones."""
    assert nvml.library is not None
    assert nvml.library.fake_sizeof(name.encode()) == ctypes.sizeof(getattr(pynvml, name)) == size


def test_every_symbol_of_pynvml_is_there(nvml: World) -> None:
    """Other tools look up more than we do: each symbol exists, and the ones that we don't play are not supported."""
    assert nvml.library is not None
    assert len(nvml_library.symbols()) > 300
    assert all(hasattr(nvml.library, symbol) for symbol in nvml_library.symbols())
    assert nvml.library.nvmlDeviceGetUtilizationRates() == pynvml.NVML_ERROR_NOT_SUPPORTED
