"""The exports: the seed's three files and events.jsonl."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.adapters.event_log import EventLog, fan_out
from ds01_spawner.adapters.seed_files import SeedFiles, log_line
from ds01_spawner.core import lease_events
from ds01_spawner.core.errors import Reason, Refusal
from ds01_spawner.core.leases import Lease, LeaseState
from ds01_spawner.core.ports import Event
from ds01_spawner.core.report import Report
from tests.fakes.fake_inventory import SEVEN_SLICES, FakeInventory, full_gpu
from tests.fakes.values import ANA, BEN, CPU_ONLY, ONE_SLICE, a_lease, slice_at

MACHINE = FakeInventory(SEVEN_SLICES, full_gpu(1)).now
AT = 1_700_000_000.0


def line(lease: Lease, **values: Any) -> str:
    return log_line(lease_events.of_lease(replace(lease, **values), now=AT), MACHINE)


def test_the_log_has_the_seeds_line() -> None:
    """Time, event, user, container, GPU in the seed's ids, priority, reason."""
    assert line(a_lease()) == "2023-11-14T22:13:20+00:00|ALLOCATED|ana|main._.ana.x|0:1|priority=10|"
    whole = FakeInventory(full_gpu(1)).now.devices()
    assert line(a_lease(devices=whole)).split("|")[4] == "1"
    assert line(a_lease(devices=(slice_at(0), slice_at(4)))).split("|")[4] == "0:1,0:5"


@pytest.mark.parametrize(
    ("state", "reason", "word"),
    [
        (LeaseState.RESERVED, "", "ALLOCATED"),
        (LeaseState.BOUND, "adopted", "ALLOCATED"),
        (LeaseState.BOUND, "", None),
        (LeaseState.ON_HOLD, "stopped", "MARKED_STOPPED"),
        (LeaseState.RELEASING, "stopped", None),
        (LeaseState.RELEASED, "stopped by ana", "RELEASED"),
        (LeaseState.LOST, "gone", None),
    ],
)
def test_each_step_that_the_seed_knows_is_one_line(state: LeaseState, reason: str, word: str | None) -> None:
    """One ALLOCATED for each grant; steps that the seed has no word for are left out."""
    found = line(a_lease(), state=state, reason=reason)
    assert (found.split("|")[1], found.split("|")[6]) == (word, reason) if word else found == ""


def test_only_gpus_are_in_the_log_of_gpus() -> None:
    """CPU only has no line, granted or refused; a refused GPU has what was asked for."""
    refusal = Refusal(Reason.BUSY, "none is free")
    assert line(a_lease(), devices=()) == ""
    assert log_line(lease_events.of_refusal(ANA, CPU_ONLY, "c", 10, refusal, now=AT), MACHINE) == ""
    refused = log_line(lease_events.of_refusal(ANA, ONE_SLICE, "c", 10, refusal, now=AT), MACHINE)
    assert refused == "2023-11-14T22:13:20+00:00|REJECTED|ana|c|1 x 1g|priority=10|none is free"
    assert log_line(Event(AT, "something.else"), None) == ""


def test_before_the_gpus_were_read_uuids_stand_for_them() -> None:
    """Better than nothing."""
    found = log_line(lease_events.of_lease(a_lease(), now=AT), None)
    assert found.split("|")[4] == slice_at(0).uuid


@given(st.text(), st.text())
def test_no_text_of_a_user_can_forge_a_field_or_a_line(name: str, reason: str) -> None:
    """Seven fields on one line, whatever a user is called or an error says; different texts stay different."""
    event = lease_events.of_lease(a_lease(owner=replace(ANA, user=name), reason=reason), now=AT)
    found = log_line(event, MACHINE)
    assert len(found.splitlines()) == 1
    assert found.count("|") == 6
    assert found.isprintable()
    assert all(text.isprintable() for text in (found,))


def test_different_texts_are_written_differently() -> None:
    """An escape can't be imitated."""
    assert line(a_lease(), reason="a|b") != line(a_lease(), reason="a\\x7cb")


def test_the_files_are_where_the_seed_has_them(tmp_path: Path) -> None:
    """Readable for everybody, complete, and gone with their lease."""
    files = SeedFiles(tmp_path)
    leases = (a_lease(), a_lease(id="L2", owner=BEN, devices=(), container_name="cpu"))
    files.export(Report(at=AT, leases=leases, inventory=MACHINE))
    files(lease_events.of_lease(leases[0], now=AT))
    state = tmp_path / "var/lib/ds01/gpu-state.json"
    meta = tmp_path / "var/lib/ds01/container-metadata/main._.ana.x.json"
    log = tmp_path / "var/log/ds01/gpu-allocations.log"
    assert [path.name for path in meta.parent.iterdir()] == [meta.name]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (state, meta, log)} == {0o644}
    assert json.loads(meta.read_text()) == {
        "container": "main._.ana.x",
        "user": "ana",
        "gpu_id": "0:1",
        "priority": 10,
        "allocated_at": "1970-01-01T00:01:40+00:00",
    }
    gpus = json.loads(state.read_text())["gpus"]
    assert len(gpus) == 8
    assert gpus["0:1"]["users"] == {"ana": 1}
    assert gpus["0:1"]["containers"] == ["main._.ana.x"]
    assert (gpus["0:2"]["users"], gpus["1"]["type"], gpus["1"]["physical_gpu"]) == ({}, "physical_gpu", 1)
    assert gpus["0:2"]["type"] == "mig_instance"
    assert json.loads(state.read_text())["mig_enabled"] is True
    files.export(Report(at=AT, leases=(), inventory=MACHINE))
    assert not meta.exists()
    assert log.read_text().count("\n") == 1


def test_a_hold_says_until_when(tmp_path: Path) -> None:
    """The stopped container's file tells when its GPU comes back."""
    held = a_lease(state=LeaseState.ON_HOLD, hold_until=AT)
    SeedFiles(tmp_path).export(Report(at=AT, leases=(held,), inventory=MACHINE))
    text = (tmp_path / "var/lib/ds01/container-metadata/main._.ana.x.json").read_text()
    assert json.loads(text)["held_until"] == "2023-11-14T22:13:20+00:00"


def test_unknown_gpus_change_no_file(tmp_path: Path) -> None:
    """What was known last stands."""
    files = SeedFiles(tmp_path)
    files.export(Report(at=AT, leases=(a_lease(),), inventory=MACHINE))
    before = {path: path.read_text() for path in tmp_path.rglob("*.json")}
    files.export(Report(at=AT, frozen="silent"))
    assert {path: path.read_text() for path in tmp_path.rglob("*.json")} == before


def test_a_container_name_is_no_path(tmp_path: Path) -> None:
    """Nothing is written outside the folder."""
    lease = a_lease(container_name="../../../../escaped")
    SeedFiles(tmp_path / "root").export(Report(at=AT, leases=(lease,), inventory=MACHINE))
    assert {path.parent.name for path in tmp_path.rglob("*.json")} == {"container-metadata", "ds01"}


def test_what_did_not_change_is_not_written(tmp_path: Path) -> None:
    """No write every fifteen seconds for nothing."""
    files = SeedFiles(tmp_path)
    report = Report(at=AT, leases=(a_lease(),), inventory=MACHINE)
    files.export(report)
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*.json")}
    files.export(replace(report, at=AT + 15))
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*.json")} == before
    assert len(before) == 2


def test_events_are_lines_of_json_with_a_version(tmp_path: Path) -> None:
    """Private, appended, one line each whatever is in them."""
    path = tmp_path / "log/events.jsonl"
    log = EventLog(path)
    log(Event(AT, "test", "ana", "gpu", "L1", {"text": "two\nlines | ä"}))
    log(Event(AT, "test", "\ud800"))
    lines = [json.loads(text) for text in path.read_text(errors="replace").splitlines()]
    assert lines[0] == {
        "v": 1,
        "at": AT,
        "kind": "test",
        "user": "ana",
        "server": "gpu",
        "lease": "L1",
        "data": {"text": "two\nlines | ä"},
    }
    assert len(lines) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_rotated_log_begins_anew(tmp_path: Path) -> None:
    """logrotate may move the file at any time."""
    log = EventLog(tmp_path / "events.jsonl")
    log(Event(AT, "one"))
    (tmp_path / "events.jsonl").rename(tmp_path / "events.jsonl.1")
    log(Event(AT, "two"))
    assert "two" in (tmp_path / "events.jsonl").read_text()
    assert "two" not in (tmp_path / "events.jsonl.1").read_text()


def test_every_sink_is_told_before_an_error_comes_out() -> None:
    """One full disk doesn't make the others deaf."""
    heard: list[str] = []

    def full(_event: Event) -> None:
        raise OSError(28, "no space left on device")

    tell = fan_out(full, lambda event: heard.append(event.kind))
    with pytest.raises(OSError, match="no space"):
        tell(Event(AT, "test"))
    assert heard == ["test"]
    fan_out()(Event(AT, "nobody"))
