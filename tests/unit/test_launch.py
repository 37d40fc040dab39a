"""The launcher's answers where the ledger, the engine or an image is missing, and what it mounts for everybody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ds01_spawner import launch as launch_module
from ds01_spawner.adapters.host import UserFolders
from ds01_spawner.adapters.identity import Identity, IdentityFiles
from ds01_spawner.allocator import Allocator
from ds01_spawner.container_spec import Mount
from ds01_spawner.core.errors import EngineUnavailable, LedgerUnavailable, Reason, Refusal
from ds01_spawner.core.leases import Lease
from ds01_spawner.launch import Launcher, Site, shared_mounts
from ds01_spawner.lifecycle import ContainerLifecycle
from tests.fakes.fake_engine import FakeEngine
from tests.fakes.fake_inventory import SEVEN_SLICES, FakeInventory
from tests.fakes.inline_executor import InlineExecutor
from tests.fakes.memory_ledger import MemoryLedger
from tests.fakes.values import ANA, CPU_ONLY, HOST, INSTANCE, KEY, ONE_SLICE, limits_of, payload_of


class Bench:
    """A launcher on fakes, with a container of ana's when asked for one."""

    def __init__(self, folder: Path) -> None:
        self.ledger, self.engine = MemoryLedger(), FakeEngine()
        self.allocator = Allocator(
            self.ledger,
            FakeInventory(SEVEN_SLICES),
            clock=lambda: 100.0,
            node="local",
            host=HOST,
            executor=InlineExecutor(),
        )
        self.allocator.frozen = ""
        self.lifecycle = ContainerLifecycle(self.allocator, self.engine, instance=INSTANCE, label_key=KEY)
        site = Site(INSTANCE, KEY, "ds01", HOST, {"base": "ds01/base:latest"}, 200_000, 1.0)
        files = IdentityFiles(folder / "identity", self.engine)
        self.launcher = Launcher(site, self.engine, self.allocator, self.lifecycle, UserFolders(folder), files)

    async def a_container(self, *, gpu: bool = True) -> Lease:
        lease, _ = await self.lifecycle.start(
            ANA,
            ONE_SLICE if gpu else CPU_ONLY,
            limits_of("ana"),
            payload_of,
            container_name="main._.200000.00000000",
            image_id=self.engine.images["ds01/base:latest"],
        )
        return lease


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.allocator.close()


async def test_alive(bench: Bench) -> None:
    """Found by owner, whatever container the hub believes in."""
    lease = await bench.a_container()
    for believed in ("", lease.container_id, "another"):
        found = await bench.launcher.find(ANA, believed)
        assert found.alive is not None and found.alive.id == lease.container_id and found.lease_id == lease.id


async def test_how_it_ended(bench: Bench) -> None:
    """From the container while it is there, and from its lease once it is removed."""
    lease = await bench.a_container()
    bench.engine.crash(lease.container_id, 137, oom=True)
    assert "out of memory" in (await bench.launcher.find(ANA, lease.container_id, lease.id)).cause
    await bench.lifecycle.stop(lease, grace=0, reason="stopped by an administrator")
    assert (await bench.launcher.find(ANA, lease.container_id, lease.id)).cause == "stopped by an administrator"
    assert (await bench.launcher.find(ANA, "", "")).cause == "the container is gone"
    assert (await bench.launcher.find(ANA, "", "no-such-lease")).cause == "the container is gone"


async def test_without_a_ledger_the_container_itself_is_asked(bench: Bench) -> None:
    """Where its id is known the engine's word counts; without the id nobody knows."""
    lease = await bench.a_container()
    bench.ledger.outage = True
    found = await bench.launcher.find(ANA, lease.container_id, lease.id)
    assert found.alive is not None and found.lease_id == lease.id
    with pytest.raises(LedgerUnavailable):
        await bench.launcher.find(ANA, "", lease.id)
    await bench.engine.remove(lease.container_id)
    assert (await bench.launcher.find(ANA, lease.container_id, lease.id)).cause == "the container is gone"


async def test_without_an_engine_nobody_knows(bench: Bench) -> None:
    """No answer is not 'gone'."""
    lease = await bench.a_container()
    bench.engine.fail("inspect", times=2)
    with pytest.raises(EngineUnavailable):
        await bench.launcher.find(ANA, lease.container_id, lease.id)
    with pytest.raises(EngineUnavailable):
        await bench.launcher.stop(ANA, lease.container_id, grace=0)


async def test_a_stop_without_a_ledger(bench: Bench) -> None:
    """A container of ours stops all the same, one that is not ours stays, and a lease is nobody's to end meanwhile."""
    lease = await bench.a_container()
    other = bench.engine.foreign("other")
    bench.ledger.outage = True
    await bench.launcher.stop(ANA, other.id, grace=0)
    await bench.launcher.stop(ANA, "", grace=0)
    assert set(bench.engine.containers) == {lease.container_id, other.id}
    await bench.launcher.stop(ANA, lease.container_id, grace=0)
    assert set(bench.engine.containers) == {other.id}
    bench.ledger.outage = False
    assert [left.id for left in await bench.allocator.live()] == [lease.id]


async def test_an_image_that_is_missing(bench: Bench) -> None:
    """A refusal that says which, and what to do."""
    assert await bench.launcher.image_of("base") == bench.engine.images["ds01/base:latest"]
    bench.engine.images.clear()
    with pytest.raises(Refusal, match="ds01/base:latest") as refusal:
        await bench.launcher.image_of("base")
    assert refusal.value.reason is Reason.ENVIRONMENT


async def test_an_identity_is_remembered(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was here before starts without a ledger too; a new user is told to wait."""
    monkeypatch.setattr(launch_module, "identity_of", lambda _user, stable: Identity(stable(None), 7, system=False))
    assert await bench.launcher.identity("ana") == Identity(200_000, 7, system=False)
    bench.ledger.outage = True
    assert await bench.launcher.identity("ana") == Identity(200_000, 7, system=False)
    with pytest.raises(Refusal, match="try again") as refusal:
        await bench.launcher.identity("ben")
    assert refusal.value.reason is Reason.LEDGER


async def test_what_a_container_printed_does_not_reach_the_ledger(bench: Bench) -> None:
    """Its last words are for its user; in the ledger and in log lines stands our own text alone."""
    launcher = bench.launcher
    launcher.site = replace(launcher.site, ready_timeout=0.05)

    async def check(lease: Lease, view: object) -> None:
        bench.engine.output[lease.container_id] = "nonsense|RELEASE|root\n"
        found = await bench.engine.inspect(lease.container_id)
        assert found is not None
        await launcher._until_listening(replace(found, ip="127.0.0.1"))

    with pytest.raises(Refusal, match="nonsense") as refusal:
        await bench.lifecycle.start(
            ANA,
            ONE_SLICE,
            limits_of("ana"),
            payload_of,
            container_name="main._.200000.00000000",
            image_id=bench.engine.images["ds01/base:latest"],
            verify=check,
        )
    assert "did not answer within" in refusal.value.message
    texts = [str(event.data.get("reason")) for event in bench.ledger.events()]
    assert any("did not answer" in text for text in texts) and not any("nonsense" in text for text in texts)
    assert not bench.engine.containers and await bench.allocator.live() == ()


def test_folders_that_everybody_sees() -> None:
    """Only those that are set, and read-only."""
    assert shared_mounts("", "") == ()
    assert shared_mounts("/srv/data", "") == (Mount("/srv/data", "/data", read_only=True),)
    assert shared_mounts("/srv/data/", "/srv/models") == (
        Mount("/srv/data", "/data", read_only=True),
        Mount("/srv/models", "/models", read_only=True),
    )
