"""The snapshot of a machine's GPUs, and the devices that can be leased from it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.devices import FULL, UNKNOWN_AXIS, Device, Gpu, Health, Inventory, MigInstance

WHOLE = Gpu("GPU-a", 0, "A100", 40960, axis=8, slices=7)
SMALL = MigInstance("MIG-1", 7, 0, "1g.5gb", 1, 4864, 6, 1)
LARGE = MigInstance("MIG-3", 1, 0, "3g.20gb", 3, 19968, 0, 4)
CUT = Gpu("GPU-b", 1, "A100", 40960, mig=True, axis=8, slices=7, instances=(SMALL, LARGE))


def device(**changes: object) -> Device:
    plain = Device("n1", "GPU-b", "3g.20gb", 4, 4, 3, 7, 19968, "MIG-3", 2)
    return replace(plain, **changes)


def test_the_logical_id_survives_an_instance_made_anew() -> None:
    """An instance made anew in the same place has another UUID and another GI, and is the same device."""
    assert device().id == device(uuid="MIG-other", gi=5).id == "n1/GPU-b/3g.20gb@4"


def test_another_place_is_another_device() -> None:
    """Node, GPU, profile and start slot each tell two devices apart."""
    ids = {
        device().id,
        device(node="n2").id,
        device(gpu_uuid="GPU-c").id,
        device(profile="4g.20gb").id,
        device(start=0).id,
    }
    assert len(ids) == 5


def test_without_a_start_slot_the_gi_tells_instances_apart() -> None:
    """Where NVML wouldn't tell the start, two instances of one profile still have two ids and two claims."""
    one, other = device(start=None, size=None, gi=1), device(start=None, size=None, gi=2)
    assert (one.id, one.slots) == ("n1/GPU-b/3g.20gb@gi1", ("gi:1",))
    assert one.id != other.id
    assert one.slots != other.slots


def test_a_start_without_a_size_claims_by_gi() -> None:
    """A start slot alone says nothing of where the instance ends."""
    assert device(size=None).slots == ("gi:2",)


def test_an_instance_claims_the_slots_that_it_covers() -> None:
    """Claims are the memory slots from start to start plus size."""
    assert device().slots == ("4", "5", "6", "7")


def test_a_full_gpu_claims_its_whole_axis() -> None:
    """A full GPU leaves no slot to an instance, on a board of any width."""
    full = Inventory("n1", (WHOLE,)).devices()[0]
    assert full.slots == tuple(str(slot) for slot in range(8))
    assert replace(full, size=12).slots[-1] == "11"


def test_a_full_gpu_of_unknown_width_claims_more_than_any_board_has() -> None:
    """Where the axis can't be read the claim is too wide rather than too narrow."""
    full = Inventory("n1", (replace(WHOLE, axis=None),)).devices()[0]
    assert full.size is None
    assert len(full.slots) == UNKNOWN_AXIS > 12


def test_gpu_equivalents_are_exact() -> None:
    """Seven sevenths are one, which no sum of floats is; a full GPU is one; `7g` is seven sevenths of its slices."""
    assert sum((device(slices=1).gpueq for _ in range(7)), Fraction(0)) == 1
    assert device(profile=FULL).gpueq == 1
    assert device(slices=2, gpu_slices=4).gpueq == Fraction(1, 2)


@pytest.mark.parametrize(
    ("profile", "slices", "expected"), [(FULL, 7, "full"), ("7g.40gb", 7, "7g"), ("1c.3g.20gb", 1, "1g")]
)
def test_the_class_of_a_device(profile: str, slices: int, expected: str) -> None:
    """`7g` is not a full GPU, and a part of an instance counts as the slices that it has."""
    assert device(profile=profile, slices=slices).mig_class == expected


def test_devices_of_a_machine() -> None:
    """A GPU without MIG is one device, a cut one is its instances; sorted by GPU, then by start slot."""
    inventory = Inventory("n1", (CUT, WHOLE))
    assert [d.id for d in inventory.devices()] == ["n1/GPU-a/full@0", "n1/GPU-b/3g.20gb@0", "n1/GPU-b/1g.5gb@6"]
    assert [d.uuid for d in inventory.devices()] == ["GPU-a", "MIG-3", "MIG-1"]


def test_a_gpu_in_mig_mode_without_instances_offers_nothing() -> None:
    """A GPU in MIG mode with no instance is not a free GPU: CUDA would see no device on it."""
    assert Inventory("n1", (replace(CUT, instances=()),)).devices() == ()


@pytest.mark.parametrize("health", [health for health in Health if health is not Health.OK])
def test_only_a_healthy_gpu_offers_devices(health: Health) -> None:
    """Draining, lost and unknown GPUs offer nothing; unknown is not free."""
    assert Inventory("n1", (replace(WHOLE, health=health), replace(CUT, health=health))).devices() == ()


def test_a_gpu_of_unknown_mode_offers_nothing() -> None:
    """Where MIG mode can't be read the GPU is neither whole nor cut."""
    assert Inventory("n1", (replace(WHOLE, mig=None),)).devices() == ()


def test_a_gpu_is_found_by_its_uuid() -> None:
    """`find` gives the GPU, and None for a UUID that the snapshot hasn't."""
    inventory = Inventory("n1", (WHOLE, CUT))
    assert inventory.find("GPU-b") is CUT
    assert inventory.find("GPU-z") is None
    assert inventory._index("GPU-z") == -1


@given(st.permutations([*range(5)]))
def test_the_order_of_devices_hangs_on_nothing_but_their_places(order: list[int]) -> None:
    """Equal machines give equal lists, in whatever order NVML named the instances; unknown starts come first."""
    instances = [MigInstance(f"MIG-{n}", n, 0, "1g.5gb", 1, 4864, n, 1) for n in range(4)]
    instances.append(MigInstance("MIG-x", 9, 0, "1g.5gb", 1, 4864))
    shuffled = Gpu("GPU-b", 0, "A100", 40960, mig=True, slices=7, instances=tuple(instances[n] for n in order))
    names = [d.uuid for d in Inventory("n1", (shuffled,)).devices()]
    assert names == ["MIG-x", "MIG-0", "MIG-1", "MIG-2", "MIG-3"]
