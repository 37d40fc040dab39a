"""What everybody may rely on in a ledger: one suite for memory, SQLite and a real PostgreSQL."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from ds01_spawner.adapters import ledger_schema
from ds01_spawner.adapters.ledger import SqlLedger
from ds01_spawner.core.errors import IllegalTransition, LeaseConflict, LedgerUnavailable, Reason, Refusal
from ds01_spawner.core.leases import Lease, LeaseState, Owner
from ds01_spawner.core.ports import Event, Ledger
from tests.contract.postgresql import Server, binaries, running_server
from tests.fakes.fake_inventory import FakeInventory, full_gpu, mig_gpu
from tests.fakes.memory_ledger import MemoryLedger
from tests.fakes.values import BEN, a_lease, slice_at

_schemas = (f"ledger_{number}" for number in itertools.count())
NOW = 100.0


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    with running_server(programs) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def open_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], SqlLedger]]:
    """Opens the same database each time that it is called, as a restarted hub would."""
    schema, opened = next(_schemas), []

    def open_it() -> SqlLedger:
        if request.param == "sqlite":
            opened.append(SqlLedger(f"sqlite:///{tmp_path}/ledger.sqlite", timeout=1.0))
        else:
            server: Server = request.getfixturevalue("postgresql")
            opened.append(SqlLedger(server.url, schema=schema, timeout=1.0))
        return opened[-1]

    yield open_it
    for ledger in opened:
        ledger.close()


@pytest.fixture(params=["memory", "sqlite", "postgresql"], name="any_ledger")
def _any_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "memory":
        yield MemoryLedger()
        return
    if request.param == "sqlite":
        sql = SqlLedger(f"sqlite:///{tmp_path}/ledger.sqlite")
    else:
        server: Server = request.getfixturevalue("postgresql")
        sql = SqlLedger(server.url, schema=next(_schemas))
    yield sql
    sql.close()


def put(ledger: Ledger, lease: Lease) -> Lease:
    return ledger.reserve(lambda _live: lease, now=NOW)


def test_what_was_reserved_reads_back_equal(any_ledger: Ledger) -> None:
    """Every field of a lease and of its devices survives, None and empty text too."""
    mixed = (*FakeInventory(mig_gpu(0, {0: "3g.20gb"}), full_gpu(1)).now.devices(),)
    lease = a_lease(devices=mixed, memory=None, expires_at=220.123456789)
    assert put(any_ledger, lease) == lease
    assert any_ledger.get("L1") == lease
    assert any_ledger.live() == (lease,)
    assert any_ledger.get("L2") is None


def test_the_claims_are_those_of_the_devices(any_ledger: Ledger) -> None:
    """A full GPU claims every slot of its axis, an instance its own."""
    devices = FakeInventory(mig_gpu(0, {4: "3g.20gb"}), full_gpu(1)).now.devices()
    put(any_ledger, a_lease(devices=devices))
    expected = {("GPU-0000", str(n), "L1") for n in range(4, 8)} | {("GPU-0001", str(n), "L1") for n in range(8)}
    assert set(any_ledger.claims()) == expected


@pytest.mark.parametrize("way", ["reserve", "adopt"])
def test_overlap_is_refused_and_nothing_of_it_is_written(any_ledger: Ledger, way: str) -> None:
    """The database itself forbids that a slot is in two leases, whoever decided so."""
    put(any_ledger, a_lease(devices=(slice_at(0), slice_at(1))))
    before = any_ledger.claims(), any_ledger.live(), any_ledger.events()
    second = a_lease(id="L2", owner=BEN, devices=(slice_at(2), slice_at(1)))
    with pytest.raises(LeaseConflict):
        put(any_ledger, second) if way == "reserve" else any_ledger.adopt(second, now=NOW)
    assert (any_ledger.claims(), any_ledger.live(), any_ledger.events()) == before


def test_a_full_gpu_and_its_parts_never_stand_together(any_ledger: Ledger) -> None:
    """A whole GPU overlaps with each of its instances."""
    put(any_ledger, a_lease())
    whole = FakeInventory(full_gpu(0)).now.devices()
    with pytest.raises(LeaseConflict):
        put(any_ledger, a_lease(id="L2", owner=BEN, devices=whole))


@pytest.mark.parametrize("first", ["known", "unknown"])
def test_places_that_can_not_be_compared_never_stand_together(any_ledger: Ledger, first: str) -> None:
    """An instance whose start is unknown may be anywhere on its GPU."""
    layout = {0: "1g.5gb", 1: "1g.5gb"}
    known = FakeInventory(mig_gpu(0, layout)).now.devices()
    unknown = FakeInventory(mig_gpu(0, layout, known_starts=False)).now.devices()
    one, two = (known[0], unknown[1]) if first == "known" else (unknown[0], known[1])
    put(any_ledger, a_lease(devices=(one,)))
    with pytest.raises(LeaseConflict):
        put(any_ledger, a_lease(id="L2", owner=BEN, devices=(two,)))
    same = (known if first == "known" else unknown)[1]
    assert put(any_ledger, a_lease(id="L3", owner=BEN, devices=(same,))).devices == (same,)


def test_an_owner_has_one_live_lease(any_ledger: Ledger) -> None:
    """One container, one lease; the next only after the first has ended. Another server is another owner."""
    put(any_ledger, a_lease())
    with pytest.raises(LeaseConflict):
        put(any_ledger, a_lease(id="L2", devices=()))
    assert put(any_ledger, a_lease(id="L3", owner=Owner("ana", "gpu"), devices=())).id == "L3"
    any_ledger.end("L1", now=NOW)
    assert put(any_ledger, a_lease(id="L4")).id == "L4"


def test_decide_sees_all_live_leases_oldest_first(any_ledger: Ledger) -> None:
    """A decision is made on everything that stands, and on nothing that has ended."""
    put(any_ledger, a_lease(id="old", reserved_at=5.0, owner=Owner("old"), devices=(slice_at(1),)))
    put(any_ledger, a_lease(id="ended", reserved_at=1.0, owner=Owner("ended"), devices=()))
    put(any_ledger, a_lease(id="older", reserved_at=4.0, owner=Owner("older"), devices=(slice_at(2),)))
    any_ledger.end("ended", now=NOW)
    seen: list[str] = []

    def decide(live: object) -> Lease:
        seen.extend(lease.id for lease in live)  # type: ignore[attr-defined]
        return a_lease()

    any_ledger.reserve(decide, now=NOW)
    assert seen == ["older", "old"]
    assert [lease.id for lease in any_ledger.live()] == ["older", "old", "L1"]


def test_a_refusal_passes_through_and_writes_nothing(any_ledger: Ledger) -> None:
    """What `decide` raises is what the caller gets, and the ledger goes on."""

    def refuse(_live: object) -> Lease:
        raise Refusal(Reason.BUSY, "none is free")

    with pytest.raises(Refusal, match="none is free"):
        any_ledger.reserve(refuse, now=NOW)
    assert any_ledger.live() == ()
    assert any_ledger.events() == ()
    assert put(any_ledger, a_lease()).id == "L1"


def test_a_hold_passes_on_to_its_owner_in_one_transaction(any_ledger: Ledger) -> None:
    """The new lease may have the devices of the owner's hold; a refused one leaves the hold as it was."""
    put(any_ledger, a_lease())
    any_ledger.move("L1", LeaseState.BOUND, now=NOW, container_id="c")
    held = any_ledger.move("L1", LeaseState.ON_HOLD, now=NOW, hold_until=900.0)
    assert held.hold_until == 900.0
    put(any_ledger, a_lease(id="other", owner=BEN, devices=(slice_at(1),)))
    with pytest.raises(LeaseConflict):
        put(any_ledger, a_lease(id="L2", devices=(slice_at(1),)))
    assert any_ledger.get("L1") == held
    put(any_ledger, a_lease(id="L3", devices=(slice_at(0),)))
    ended = any_ledger.get("L1")
    assert ended is not None
    assert (ended.state, ended.reason) == (LeaseState.RELEASED, "taken up by lease L3")
    assert {claim[2] for claim in any_ledger.claims()} == {"other", "L3"}


def test_claims_go_only_with_the_end(any_ledger: Ledger) -> None:
    """Through every state on the way a slot stays taken."""
    put(any_ledger, a_lease())
    for state in (LeaseState.BOUND, LeaseState.ON_HOLD, LeaseState.RELEASING, LeaseState.LOST):
        assert any_ledger.move("L1", state, now=NOW, container_id="c").state is state
        assert any_ledger.claims() == (("GPU-0000", "0", "L1"),)
    ended = any_ledger.move("L1", LeaseState.RELEASED, now=300.0)
    assert ended.ended_at == 300.0
    assert any_ledger.claims() == ()
    assert any_ledger.live() == ()


def test_an_illegal_move_is_refused(any_ledger: Ledger) -> None:
    """The table holds in the database too; an unknown lease is a KeyError."""
    put(any_ledger, a_lease())
    with pytest.raises(IllegalTransition):
        any_ledger.move("L1", LeaseState.RELEASED, now=NOW)
    with pytest.raises(KeyError):
        any_ledger.move("L9", LeaseState.BOUND, now=NOW)
    with pytest.raises(KeyError):
        any_ledger.end("L9", now=NOW)
    assert any_ledger.get("L1") == a_lease()


def test_the_end_is_reached_from_every_state_and_may_be_repeated(any_ledger: Ledger) -> None:
    """Absence that was observed ends any lease, with the first reason given, and only once."""
    for number, states in enumerate(([], ["bound"], ["bound", "on_hold"], ["releasing"], ["lost"])):
        lease = put(any_ledger, a_lease(id=f"E{number}"))
        for state in states:
            any_ledger.move(lease.id, LeaseState(state), now=NOW, reason=f"by {state}")
        ended = any_ledger.end(lease.id, now=300.0, reason="the container is gone")
        wanted = "by releasing" if states == ["releasing"] else "the container is gone"
        assert (ended.state, ended.ended_at, ended.reason) == (LeaseState.RELEASED, 300.0, wanted)
        written = len(any_ledger.events(lease=lease.id))
        assert any_ledger.end(lease.id, now=400.0, reason="again") == ended
        assert len(any_ledger.events(lease=lease.id)) == written


def test_moving_to_where_it_is_writes_nothing(any_ledger: Ledger) -> None:
    """A repeated confirm changes nothing and is no second event."""
    put(any_ledger, a_lease())
    bound = any_ledger.move("L1", LeaseState.BOUND, now=150.0, container_id="c1")
    assert (bound.bound_at, bound.container_id) == (150.0, "c1")
    assert any_ledger.move("L1", LeaseState.BOUND, now=160.0, container_id="c1") == bound
    assert [event.kind for event in any_ledger.events(lease="L1")] == ["lease.bound", "lease.reserved"]


def test_an_adopted_lease_stands_as_it_is(any_ledger: Ledger) -> None:
    """A container that was found is bound at once."""
    lease = a_lease(state=LeaseState.BOUND, container_id="c1", bound_at=120.0)
    assert any_ledger.adopt(lease, now=NOW) == lease
    assert any_ledger.live() == (lease,)
    assert any_ledger.events()[0].kind == "lease.bound"


def test_each_change_has_its_event(any_ledger: Ledger) -> None:
    """The record of a grant says who, what, where and why, and is written with the grant."""
    put(any_ledger, a_lease())
    event = any_ledger.events()[0]
    assert (event.at, event.kind, event.user, event.lease) == (NOW, "lease.reserved", "ana", "L1")
    assert event.data["devices"] == [slice_at(0).id]
    assert event.data["gpu_equivalents"] == "1/7"


def test_events_come_newest_first_and_by_lease(any_ledger: Ledger) -> None:
    """The newest are what is asked for; values survive as JSON."""
    for number in range(5):
        any_ledger.record(Event(float(number), "test", "ana", "gpu", f"L{number % 2}", {"n": number, "text": "ä|\n"}))
    assert [event.data["n"] for event in any_ledger.events(limit=3)] == [4, 3, 2]
    assert [event.data["n"] for event in any_ledger.events(lease="L1")] == [3, 1]
    assert any_ledger.events(limit=1)[0] == Event(4.0, "test", "ana", "gpu", "L0", {"n": 4, "text": "ä|\n"})


def test_a_uid_stays_and_is_never_given_twice(any_ledger: Ledger) -> None:
    """Files belong to numbers: a number that a user once had is nobody else's, ever."""
    assert any_ledger.uid_of("ana", first=5000) == 5000
    assert any_ledger.uid_of("ben", first=5000) == 5001
    assert any_ledger.uid_of("ana", first=5000) == 5000
    assert any_ledger.uid_of("ana", first=9000) == 5000
    # A system account appears later and counts from then on; the old number stays hers.
    assert any_ledger.uid_of("ana", first=5000, wanted=1005) == 1005
    assert any_ledger.uid_of("ana", first=5000) == 1005
    assert any_ledger.uid_of("carla", first=5000) == 5002
    assert any_ledger.uid_of("ana", first=5000, wanted=5000) == 5000
    for taken in (1005, 5001):
        with pytest.raises(LeaseConflict):
            any_ledger.uid_of("eve", first=5000, wanted=taken)
    assert any_ledger.uid_of("eve", first=5000, wanted=1_700_000_000) == 1_700_000_000
    assert any_ledger.uid_of("dora", first=5000) == 5003


def test_parallel_reservations_of_the_last_slices_give_each_once(any_ledger: Ledger) -> None:
    """Many threads, four free slices: four leases, never an overlap, each loser told so."""
    outcomes: list[str] = []

    def grab(number: int) -> None:
        def decide(live: object) -> Lease:
            taken = {lease.devices[0].start for lease in live}  # type: ignore[attr-defined]
            free = [start for start in range(4) if start not in taken]
            if not free:
                raise Refusal(Reason.BUSY, "none is free")
            return a_lease(id=f"L{number}", owner=Owner(f"user{number}"), devices=(slice_at(free[0]),))

        try:
            any_ledger.reserve(decide, now=NOW)
            outcomes.append("granted")
        except Refusal:
            outcomes.append("refused")

    threads = [threading.Thread(target=grab, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["granted"] * 4 + ["refused"] * 8
    assert len(any_ledger.claims()) == 4


def test_what_was_acknowledged_is_there_after_a_restart(open_ledger: Callable[[], SqlLedger]) -> None:
    """A new process finds every lease, claim, uid and event."""
    first = open_ledger()
    lease = put(first, a_lease())
    uid = first.uid_of("ana", first=5000)
    first.close()
    second = open_ledger()
    assert second.live() == (lease,)
    assert second.claims() == (("GPU-0000", "0", "L1"),)
    assert second.uid_of("ana", first=7000) == uid
    assert second.events()[0].lease == "L1"


def test_two_processes_never_decide_at_once(open_ledger: Callable[[], SqlLedger]) -> None:
    """The transaction is one writer's from its first read: a second ledger on the same database waits for it."""
    one, two = open_ledger(), open_ledger()
    seen: list[int] = []
    inside, go_on = threading.Event(), threading.Event()

    def slowly(live: object) -> Lease:
        inside.set()
        go_on.wait(10)
        return a_lease()

    def after(live: object) -> Lease:
        seen.append(len(live))  # type: ignore[arg-type]
        return a_lease(id="L2", owner=BEN, devices=(slice_at(1),))

    first = threading.Thread(target=lambda: one.reserve(slowly, now=NOW))
    second = threading.Thread(target=lambda: two.reserve(after, now=NOW))
    first.start()
    assert inside.wait(10)
    second.start()
    second.join(0.2)
    assert seen == []
    go_on.set()
    first.join(10)
    second.join(10)
    assert seen == [1]


def test_a_lock_that_stays_is_an_outage(open_ledger: Callable[[], SqlLedger]) -> None:
    """A writer that never ends makes the ledger unavailable after the time-out, and harms nothing."""
    one, two = open_ledger(), open_ledger()
    inside, go_on = threading.Event(), threading.Event()

    def forever(_live: object) -> Lease:
        inside.set()
        go_on.wait(20)
        return a_lease()

    holder = threading.Thread(target=lambda: one.reserve(forever, now=NOW))
    holder.start()
    assert inside.wait(10)
    try:
        with pytest.raises(LedgerUnavailable):
            put(two, a_lease(id="L2", owner=BEN, devices=()))
        assert two.live() == ()
    finally:
        go_on.set()
        holder.join(10)
    assert [lease.id for lease in two.live()] == ["L1"]


def test_the_migrations_make_the_schema(open_ledger: Callable[[], SqlLedger]) -> None:
    """What alembic built is what the tables say, index for index, so that an upgrade can't drift."""
    ledger = open_ledger()
    with ledger._read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, ledger_schema.metadata) == []
        assert context.get_current_revision() == "0001"


def test_the_server_going_away_is_an_outage_and_coming_back_its_end(tmp_path: Path) -> None:
    """PostgreSQL killed: unavailable; started again: everything acknowledged is there."""
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    with running_server(programs) as server:
        ledger = SqlLedger(server.url, timeout=2.0)
        put(ledger, a_lease())
        server.stop()
        with pytest.raises(LedgerUnavailable):
            ledger.live()
        with pytest.raises(LedgerUnavailable):
            put(ledger, a_lease(id="L2", owner=BEN, devices=()))
        server.start()
        assert [lease.id for lease in ledger.live()] == ["L1"]
        ledger.close()


def test_the_file_is_private_and_every_commit_is_on_disk(tmp_path: Path) -> None:
    """Mode 0600 from the first moment, for the files beside it too; WAL with synchronous=FULL; foreign keys hold."""
    before = os.umask(0o022)
    try:
        path = tmp_path / "state" / "ledger.sqlite"
        ledger = SqlLedger(f"sqlite:///{path}")
    finally:
        os.umask(before)
    put(ledger, a_lease())
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    with ledger._read() as connection:
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert values == ["wal", 2, 1]
    ledger.close()


def test_a_full_disk_is_an_outage_and_room_its_end(tmp_path: Path) -> None:
    """Nothing is granted that can't be written; reads go on; writes work again when there is room."""
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.sqlite")
    put(ledger, a_lease())
    with ledger._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(LedgerUnavailable, match="full"):
        for number in range(100):
            ledger.record(Event(NOW, "test", data={"text": "x" * 3000, "n": number}))
    assert [lease.id for lease in ledger.live()] == ["L1"]
    with ledger._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=100000")
    assert put(ledger, a_lease(id="L2", owner=BEN, devices=())).id == "L2"
    ledger.close()


@pytest.mark.parametrize("content", [b"this is no database" * 100, b""])
def test_a_file_that_is_no_database_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    """An unreadable state stops the start instead of being taken for an empty one; an empty file is a new ledger."""
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    if content:
        with pytest.raises(LedgerUnavailable):
            SqlLedger(f"sqlite:///{path}")
        assert path.read_bytes() == content
    else:
        SqlLedger(f"sqlite:///{path}").close()


def test_a_ledger_of_a_later_version_is_refused(tmp_path: Path) -> None:
    """After a rollback of the software nothing is guessed about newer tables."""
    path = tmp_path / "ledger.sqlite"
    SqlLedger(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(LedgerUnavailable, match="9999"):
        SqlLedger(f"sqlite:///{path}")


def test_a_schema_name_is_no_way_into_sql() -> None:
    """The name goes into statements, so it is letters, digits and _ only."""
    with pytest.raises(ValueError, match="schema"):
        SqlLedger("postgresql://nobody@/none", schema='x"; DROP SCHEMA public; --')


def test_gpu_equivalents_are_exact_in_the_table(tmp_path: Path) -> None:
    """The two numbers of the fraction are columns: seven sevenths are one, not 0.9999."""
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.sqlite")
    put(ledger, a_lease(devices=tuple(slice_at(n) for n in range(7))))
    with ledger._read() as connection:
        rows = connection.exec_driver_sql("SELECT slices, gpu_slices FROM lease_device").all()
    assert rows == [(1, 7)] * 7
    read = ledger.get("L1")
    assert read is not None
    assert read.gpueq == 1
    ledger.close()


def test_events_hold_their_data_as_json(tmp_path: Path) -> None:
    """Other tools read the table too."""
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.sqlite")
    put(ledger, replace(a_lease(), reason=""))
    with ledger._read() as connection:
        text = connection.exec_driver_sql("SELECT data FROM event").scalar()
    assert json.loads(str(text))["container"] == "main._.ana.x"
    ledger.close()
