"""Placement: best fit, deterministic, never over what is taken."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.devices import Device, Gpu, Health, Inventory
from ds01_spawner.core.errors import Reason, Refusal
from ds01_spawner.core.leases import LeaseState
from ds01_spawner.core.placement import Taken, claims_of, classes, fits, free_devices, place
from ds01_spawner.core.requests import GpuKind, GpuRequest, Request, parse_gpu
from tests.fakes.fake_inventory import PROFILES, SEVEN_SLICES, FakeInventory, full_gpu, mig_gpu
from tests.fakes.values import a_lease, slice_at

LAYOUTS = (
    {0: "7g.40gb"},
    {0: "4g.20gb", 4: "3g.20gb"},
    {0: "3g.20gb", 4: "3g.20gb"},
    {0: "2g.10gb", 2: "2g.10gb", 4: "2g.10gb", 6: "1g.5gb"},
    {0: "1g.10gb", 2: "1g.5gb", 3: "1g.5gb", 4: "3g.20gb"},
    dict.fromkeys(range(7), "1g.5gb"),
    {},
)


def inventory_of(*gpus: Gpu) -> Inventory:
    return FakeInventory(*gpus).now


def asking(text: str, count: int = 1) -> Request:
    return Request("base", parse_gpu(text), count)


def slots(devices: tuple[Device, ...]) -> list[tuple[str, str]]:
    return [(device.gpu_uuid, slot) for device in devices for slot in device.slots]


@st.composite
def machines(draw: st.DrawFn) -> Inventory:
    gpus = []
    for index in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            gpus.append(full_gpu(index, health=draw(st.sampled_from([*[Health.OK] * 4, Health.LOST]))))
        else:
            gpus.append(mig_gpu(index, draw(st.sampled_from(LAYOUTS)), known_starts=draw(st.integers(0, 4)) > 0))
    return inventory_of(*gpus)


@st.composite
def nonsense(draw: st.DrawFn) -> Inventory:
    """Instances over one another, as no board has them: what a driver in trouble might say."""
    layout = draw(st.dictionaries(st.integers(0, 7), st.sampled_from(sorted(PROFILES)), max_size=8))
    return inventory_of(mig_gpu(0, layout))


_requests = st.builds(
    Request,
    st.just("base"),
    st.one_of(
        st.just(GpuRequest(GpuKind.FULL)),
        st.builds(GpuRequest, st.just(GpuKind.MIG_CLASS), st.integers(1, 7)),
        st.builds(GpuRequest, st.just(GpuKind.AT_LEAST), st.sampled_from([1, 5, 10, 20, 40, 80])),
    ),
    st.integers(1, 3),
)


@given(st.one_of(machines(), nonsense()), st.lists(_requests, max_size=12), st.booleans())
def test_grants_never_overlap(inventory: Inventory, requests: list[Request], allow_full: bool) -> None:
    """Whatever is asked for in whatever order, no slot is granted twice, and each device answers its request."""
    taken: list[Device] = []
    for request in requests:
        try:
            got = place(request, inventory, Taken(frozenset(slots(tuple(taken)))), allow_full=allow_full)
        except Refusal as refusal:
            assert refusal.reason in (Reason.BUSY, Reason.NO_SUCH_DEVICE)
            continue
        assert request.gpu is not None
        assert len(got) == request.count
        assert all(fits(device, request.gpu, allow_full) for device in got)
        taken += got
    assert max(Counter(slots(tuple(taken))).values(), default=0) <= 1
    whole = {device.gpu_uuid for device in taken if device.full}
    assert not whole & {device.gpu_uuid for device in taken if not device.full}


@given(machines(), _requests, st.randoms(use_true_random=False))
def test_equal_questions_have_equal_answers(inventory: Inventory, request: Request, random: object) -> None:
    """The order in which the driver lists GPUs and instances means nothing."""
    gpus = list(inventory.gpus)
    random.shuffle(gpus)  # type: ignore[attr-defined]

    def answer(machine: Inventory) -> object:
        try:
            return place(request, machine, Taken())
        except Refusal as refusal:
            return refusal.reason

    assert answer(inventory) == answer(Inventory(inventory.node, tuple(gpus)))


@given(machines(), _requests)
def test_the_smallest_adequate_device_is_taken(inventory: Inventory, request: Request) -> None:
    """Nobody gets a large device while a smaller one would do."""
    assert request.gpu is not None
    request = Request("base", request.gpu, 1)
    try:
        (got,) = place(request, inventory, Taken())
    except Refusal:
        return
    adequate = [device for device in inventory.devices() if fits(device, request.gpu, True)]
    assert got.memory_mib == min(device.memory_mib for device in adequate)


@given(machines(), _requests)
def test_a_refusal_means_that_there_is_nothing(inventory: Inventory, request: Request) -> None:
    """On an idle machine a request is refused only where the machine has too few of the kind at all."""
    assert request.gpu is not None
    have = sum(fits(device, request.gpu, True) for device in inventory.devices())
    try:
        place(request, inventory, Taken())
    except Refusal as refusal:
        assert refusal.reason is Reason.NO_SUCH_DEVICE
        assert have < request.count
        assert refusal.data["allowed"] == have
    else:
        assert have >= request.count


def test_no_gpu_needs_no_placement() -> None:
    """CPU only gets nothing, whatever is free."""
    assert place(Request("base"), inventory_of(full_gpu(0)), Taken()) == ()


def test_a_gpu_that_is_used_already_is_filled_first() -> None:
    """Empty GPUs stay whole for those who need one."""
    machine = inventory_of(mig_gpu(0, {0: "3g.20gb", 4: "3g.20gb"}), mig_gpu(1, {0: "3g.20gb", 4: "3g.20gb"}))
    first = machine.devices()[2]
    taken = Taken(frozenset(slots((first,))))
    (got,) = place(asking("3g"), machine, taken)
    assert got.gpu_uuid == first.gpu_uuid
    both = place(asking("3g", 2), machine, Taken())
    assert {device.gpu_uuid for device in both} == {"GPU-0000"}


def test_a_size_takes_a_slice_before_a_whole_gpu() -> None:
    """'>=20GB' is answered by the smallest that has it; a full GPU only where nothing else does, and it is allowed."""
    machine = inventory_of(full_gpu(0), mig_gpu(1, {0: "3g.20gb", 4: "2g.10gb"}))
    (got,) = place(asking(">=20GB"), machine, Taken())
    assert got.profile == "3g.20gb"
    (whole,) = place(asking(">=40GB"), machine, Taken())
    assert whole.full
    with pytest.raises(Refusal) as refusal:
        place(asking(">=40GB"), machine, Taken(), allow_full=False)
    assert refusal.value.reason is Reason.NO_SUCH_DEVICE


def test_a_seven_slice_instance_is_no_full_gpu() -> None:
    """'full' and '7g' are different devices."""
    machine = inventory_of(mig_gpu(0, {0: "7g.40gb"}))
    assert place(asking("7g"), machine, Taken())[0].profile == "7g.40gb"
    with pytest.raises(Refusal):
        place(asking("full"), machine, Taken())


@pytest.mark.parametrize("what", ["device", "gpu"])
def test_what_somebody_else_uses_is_not_granted(what: str) -> None:
    """An external use of an instance takes it; an external use of its GPU takes everything on it."""
    machine = inventory_of(SEVEN_SLICES)
    one = machine.devices()[0]
    free = free_devices(machine, Taken(external=frozenset({one.uuid if what == "device" else one.gpu_uuid})))
    assert len(free) == (6 if what == "device" else 0)


def test_a_gpu_with_a_part_in_use_is_not_granted_as_a_whole() -> None:
    """By a claim on it, known place or not, or by a use of an instance that it still lists."""
    gpu = full_gpu(0)
    odd = Gpu(gpu.uuid, 0, "x", 1, mig=False, axis=None, instances=SEVEN_SLICES.instances)
    assert free_devices(inventory_of(odd), Taken()) != ()
    for taken in (
        Taken(frozenset({(gpu.uuid, "gi:3")})),
        Taken(frozenset({(gpu.uuid, "5")})),
        Taken(external=frozenset({SEVEN_SLICES.instances[0].uuid})),
    ):
        assert free_devices(inventory_of(odd), taken) == ()
    assert free_devices(inventory_of(odd, full_gpu(1)), Taken(frozenset({(gpu.uuid, "5")}))) != ()


def test_unknown_places_are_granted_beside_each_other_only() -> None:
    """`gi:` claims and numbered ones can't be compared, so they never meet on one GPU; other GPUs don't care."""
    unknown, known = mig_gpu(0, {0: "1g.5gb", 1: "1g.5gb"}, known_starts=False), mig_gpu(1, {0: "1g.5gb", 1: "1g.5gb"})
    machine = inventory_of(unknown, known)
    first = free_devices(machine, Taken())[0]
    assert [d.gpu_uuid for d in free_devices(machine, Taken(frozenset(slots((first,)))))] == [
        "GPU-0000",
        "GPU-0001",
        "GPU-0001",
    ]
    numbered = Taken(frozenset({("GPU-0000", "7")}))
    assert {d.gpu_uuid for d in free_devices(machine, numbered)} == {"GPU-0001"}
    by_id = Taken(frozenset({("GPU-0001", "gi:9")}))
    assert {d.gpu_uuid for d in free_devices(machine, by_id)} == {"GPU-0000"}


def test_busy_tells_what_is_free_instead() -> None:
    """The refusal has the numbers and a way out."""
    machine = inventory_of(mig_gpu(0, {0: "3g.20gb", 4: "2g.10gb"}), full_gpu(1))
    taken = Taken(frozenset(slots((machine.devices()[0],))))
    with pytest.raises(Refusal) as refusal:
        place(asking("3g"), machine, taken)
    assert refusal.value.reason is Reason.BUSY
    assert "0 of 1" in refusal.value.message
    assert refusal.value.data["fits"] == {"2g": 1, "full": 1}
    everything = Taken(frozenset(slots(machine.devices())))
    with pytest.raises(Refusal, match="Free on this machine: none"):
        place(asking("3g"), machine, everything)


def test_no_such_device_tells_what_there_is_and_what_is_ill() -> None:
    """A machine without GPUs says so; a GPU that is out of service is counted."""
    with pytest.raises(Refusal, match="no GPU to give"):
        place(asking("full"), inventory_of(), Taken())
    machine = inventory_of(SEVEN_SLICES, full_gpu(1, health=Health.LOST))
    with pytest.raises(Refusal) as refusal:
        place(asking("full"), machine, Taken())
    assert "7 x 1g" in refusal.value.message
    assert "1 GPU(s) are out of service" in refusal.value.message


def test_only_live_leases_claim() -> None:
    """An ended lease claims nothing; a hold claims all."""
    held = a_lease(state=LeaseState.ON_HOLD)
    gone = a_lease(id="L2", state=LeaseState.RELEASED, devices=(slice_at(1),))
    assert claims_of([held, gone]) == {("GPU-0000", "0")}


def test_classes_are_counted_smallest_first() -> None:
    """A full GPU comes last, whatever the letters say."""
    machine = inventory_of(full_gpu(0), mig_gpu(1, {0: "3g.20gb", 4: "2g.10gb", 6: "1g.5gb"}))
    assert list(classes(machine.devices()).items()) == [("1g", 1), ("2g", 1), ("3g", 1), ("full", 1)]
    assert sum((device.gpueq for device in machine.devices()), Fraction(0)) == 1 + Fraction(6, 7)
