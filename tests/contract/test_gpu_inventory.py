"""What every GPU inventory promises: one suite on the simulated one and on NVML over the stand-in library."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from ds01_spawner.adapters.simulated_gpus import PREFIX, SimulatedInventory
from ds01_spawner.core.devices import Health, Inventory
from tests.fakes.gpu_world import NOW, SHIPPED, World, gpu, nvml_world, uuid
from tests.fakes.mig_layouts import BOARDS, PLAIN, layouts, maximal

MACHINES = sorted(file.name for file in SHIPPED.glob("*.yaml") if "\ngpus:" in file.read_text(encoding="utf-8"))
EVERY_MAXIMAL = sorted(
    (name, sorted(layout)) for name in PLAIN for layout in maximal(layouts(BOARDS[name], PLAIN[name]))
)


def ids(inventory: Inventory) -> list[str]:
    return [device.id for device in inventory.devices()]


async def test_a_snapshot_says_where_and_when(world: World) -> None:
    """Node, time, driver and CUDA version are in the snapshot."""
    read = await world.inventory().read()
    assert (read.node, read.taken_at, read.driver, read.cuda) == ("n1", NOW, "550.163.01", (12, 4))


async def test_simulated_gpus_are_called_simulated(world: World) -> None:
    """A simulated machine says so in the snapshot, in each model's name and in a note; a real one never does."""
    read = await world.inventory().read()
    assert read.simulated is world.simulated
    assert all(found.model.startswith(PREFIX) is world.simulated for found in read.gpus)
    assert any("simulated" in note for note in read.notes) is world.simulated


async def test_whole_gpus_and_instances(world: World) -> None:
    """A GPU without MIG is one device; one in MIG mode is its instances, with start slots, sizes and shares."""
    world.show(gpu(0), gpu(1, "3g.20gb@4", "1g.5gb@0"))
    read = await world.inventory().read()
    assert ids(read) == [f"n1/{uuid(0)}/full@0", f"n1/{uuid(1)}/1g.5gb@0", f"n1/{uuid(1)}/3g.20gb@4"]
    assert [device.slots for device in read.devices()] == [tuple("01234567"), ("0",), tuple("4567")]
    assert [(device.slices, device.gpu_slices) for device in read.devices()] == [(7, 7), (1, 7), (3, 7)]
    assert [device.memory_mib for device in read.devices()] == [40960, 4864, 19968]


@pytest.mark.parametrize(
    ("board", "axis", "slices", "mig"),
    [("a100-40", 8, 7, True), ("a30", 4, 4, True), ("rtx-pro-6000", 12, 4, True), ("t4", 1, 1, False)],
)
async def test_geometry_is_the_boards_own(world: World, board: str, axis: int, slices: int, mig: bool) -> None:
    """Axis, compute slices and profiles come from the board, whether MIG mode is on or not."""
    world.show(gpu(0, board=board), *([gpu(1, board=board, mig=True)] if mig else []))
    for found in (await world.inventory().read()).gpus:
        assert (found.axis, found.slices) == (axis, slices)
        assert found.profiles == tuple(profile.shape for profile in BOARDS[board].profiles)


@pytest.mark.parametrize(
    ("board", "layout"), EVERY_MAXIMAL, ids=lambda value: str(value) if isinstance(value, str) else ""
)
async def test_every_maximal_layout(world: World, board: str, layout: list[tuple[str, int]]) -> None:
    """Each full layout of each board reads back as the instances that it is made of."""
    world.show(gpu(0, *(f"{name}@{start}" for name, start in layout), board=board))
    read = await world.inventory().read()
    assert {(device.profile, device.start) for device in read.devices()} == set(layout)


async def test_mig_mode_without_instances_is_no_device(world: World) -> None:
    """A GPU in MIG mode with no instance offers nothing, is still shown, and the admin is told."""
    world.show(gpu(0, mig=True))
    read = await world.inventory().read()
    assert read.devices() == ()
    assert [found.mig for found in read.gpus] == [True]
    assert any("has no instance" in note and uuid(0) in note for note in read.notes)


@pytest.mark.parametrize("now", [True, False])
async def test_a_pending_mode_change_drains(world: World, now: bool) -> None:
    """A GPU whose MIG mode changes at the next reset is draining: nothing new is put on it, the reason is told."""
    world.show(gpu(0, mig=now, mig_pending=not now), gpu(1))
    read = await world.inventory().read()
    assert [found.health for found in read.gpus] == [Health.DRAINING, Health.OK]
    assert "after the GPU's next reset" in read.gpus[0].health_reason
    assert ids(read) == [f"n1/{uuid(1)}/full@0"]
    assert any("draining" in note for note in read.notes)


@pytest.mark.parametrize(("state", "health"), [("lost", Health.LOST), ("draining", Health.DRAINING)])
async def test_a_gpu_in_trouble_leaves_the_others_served(world: World, state: str, health: Health) -> None:
    """A lost or draining GPU keeps its place, UUID and last known facts, offers nothing, and the others still do."""
    world.show(gpu(0), gpu(1, "3g.20gb@0"), gpu(2))
    inventory = world.inventory()
    before = await inventory.read()
    world.show(gpu(0), gpu(1, "3g.20gb@0", state=state), gpu(2))
    after = await inventory.read()
    assert [found.health for found in after.gpus] == [Health.OK, health, Health.OK]
    assert after.gpus[1] == replace(before.gpus[1], health=health, health_reason=after.gpus[1].health_reason)
    assert after.gpus[1].health_reason
    assert ids(after) == [f"n1/{uuid(0)}/full@0", f"n1/{uuid(2)}/full@0"]
    assert any(uuid(1) in note and str(health) in note for note in after.notes)


async def test_a_gpu_comes_back(world: World) -> None:
    """Health is what is so now: a GPU that works again is offered again."""
    world.show(gpu(0, state="lost"))
    inventory = world.inventory()
    await inventory.read()
    world.show(gpu(0))
    assert ids(await inventory.read()) == [f"n1/{uuid(0)}/full@0"]


async def test_what_is_gone_is_absent(world: World) -> None:
    """An instance and a GPU that existed in the snapshot before and don't now are simply not in it."""
    world.show(gpu(0, "1g.5gb@0", "1g.5gb@1"), gpu(1))
    inventory = world.inventory()
    assert len((await inventory.read()).devices()) == 3
    world.show(gpu(0, "1g.5gb@1"))
    after = await inventory.read()
    assert ids(after) == [f"n1/{uuid(0)}/1g.5gb@1"]
    assert after.find(uuid(1)) is None


async def test_an_instance_made_anew_is_the_same_device_with_another_uuid(world: World) -> None:
    """The logical id stays, the UUID that a container is given is looked up anew."""
    one = {"profile": "2g.10gb", "start": 2}
    world.show(gpu(0, mig=True, instances=[one]))
    inventory = world.inventory()
    before = (await inventory.read()).devices()[0]
    world.show(gpu(0, mig=True, instances=[one | {"generation": 1}]))
    after = (await inventory.read()).devices()[0]
    assert before.id == after.id
    assert before.uuid != after.uuid
    assert before.uuid.startswith("MIG-")


async def test_both_forms_of_mig_uuids(world: World) -> None:
    """The drivers' old form, GPU and ids in one, is handed on as it is, like the new one."""
    forms = [f"MIG-{uuid(0)}/7/0", "MIG-0a000000-0000-5000-8000-000000000001"]
    cut = [{"profile": "1g.5gb", "start": start, "uuid": form} for start, form in enumerate(forms)]
    world.show(gpu(0, mig=True, instances=cut))
    assert [device.uuid for device in (await world.inventory().read()).devices()] == forms


async def test_media_variants_are_told_apart(world: World) -> None:
    """`1g.5gb` and `1g.5gb+me` have equal slices and memory and are two profiles."""
    world.show(gpu(0, "1g.5gb@0", "1g.5gb+me@1"))
    assert [device.profile for device in (await world.inventory().read()).devices()] == ["1g.5gb", "1g.5gb+me"]


async def test_missing_persistence_mode_is_told_on_mig_machines(world: World) -> None:
    """Persistence mode off on a GPU in MIG mode is a note for the admin; without MIG it is none."""
    world.show(gpu(0, "1g.5gb@0", persistence=False), gpu(1, persistence=False))
    noted = [note for note in (await world.inventory().read()).notes if "persistence" in note]
    assert len(noted) == 1
    assert uuid(0) in noted[0]


async def test_a_machine_without_gpus(world: World) -> None:
    """A driver that runs and finds no GPU is a machine without GPUs and no error."""
    world.show()
    assert (await world.inventory().read()).gpus == ()


async def test_readings_at_once(world: World) -> None:
    """Any number of callers may read at the same time; each gets a whole snapshot."""
    world.show(gpu(0), gpu(1, "3g.20gb@4"))
    inventory = world.inventory()
    every = await asyncio.gather(*(inventory.read() for _ in range(50)))
    assert {tuple(ids(read)) for read in every} == {(f"n1/{uuid(0)}/full@0", f"n1/{uuid(1)}/3g.20gb@4")}


def test_all_machines_are_tried() -> None:
    """The machines that the README of `config/simulated/` lists are those that the next test tries."""
    listed = {word for word in (SHIPPED / "README.md").read_text(encoding="utf-8").split("`") if word.endswith(".yaml")}
    assert set(MACHINES) == listed - {"boards.yaml", "resource-limits.yaml"}


@pytest.mark.parametrize("machine", MACHINES)
async def test_both_inventories_tell_the_same(
    machine: str, nvml_stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each machine that we ship is the same through NVML's calls as in the simulation, but for the models' prefix."""
    text = (SHIPPED / machine).read_text(encoding="utf-8")
    simulated = World(tmp_path, None)
    simulated.show_text(text)
    played = await simulated.inventory().read()
    with nvml_world(tmp_path, nvml_stand_in, monkeypatch.setenv) as real:
        real.show_text(text)
        read = await real.inventory().read()
    assert read.gpus == tuple(replace(found, model=found.model.removeprefix(PREFIX)) for found in played.gpus)
    assert (read.driver, read.cuda, ids(read)) == (played.driver, played.cuda, ids(played))
    assert read.devices()


async def test_the_demo_machine() -> None:
    """The box of the demo: four whole A100, four cut in different ways, seven 1g on one of them."""
    read = await SimulatedInventory(SHIPPED / "dgx-a100.yaml", "n1", lambda: NOW).read()
    kinds = [sorted(instance.profile for instance in found.instances) for found in read.gpus]
    assert kinds[0] == ["1g.5gb"] * 7
    assert len({tuple(kind) for kind in kinds[:4]}) == 4
    assert [found.mig for found in read.gpus] == [True] * 4 + [False] * 4
