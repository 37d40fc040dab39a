"""Limits that are edited while the hub runs."""

from __future__ import annotations

from tests.hub_fixtures import LIMITS
from tests.running_hub import RunningHub


def test_an_edit_counts_at_the_next_start_and_a_broken_one_changes_nothing(gpu_hub: RunningHub) -> None:
    """A good edit counts without a restart; a broken one keeps the last good file and is told with its line."""
    hub, file = gpu_hub, gpu_hub.root / "limits.yaml"
    hub.add_users("ana")
    file.write_text(LIMITS.replace('memory: "800m"', 'memory: "640m"'))
    assert hub.spawn("ana").status_code in (201, 202)
    hub.wait_ready("ana")
    assert hub.leases()[0]["memory"] == 640 << 20
    hub.stop_server("ana")

    file.write_text(LIMITS.replace('memory: "800m"', "memori: 900m"))
    assert hub.spawn("ana").status_code in (201, 202)
    hub.wait_ready("ana")
    assert hub.leases()[0]["memory"] == 640 << 20
    answer = hub.api("GET", "ds01/v1/limits/ana").json()
    (note,) = [note for note in answer["notes"] if "limits.yaml:" in note]
    assert "memori" in note
    assert "memori" in hub.log
