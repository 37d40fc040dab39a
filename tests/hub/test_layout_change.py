"""A MIG layout that changes while a server is stopped, with a real hub that reads it through pynvml."""

from __future__ import annotations

from tests.hub_fixtures import play
from tests.running_hub import RunningHub


def test_the_next_start_gets_a_device_that_exists(gpu_hub: RunningHub) -> None:
    """After stop, new layout, start: the lease names a device of the new layout, and the steps say which."""
    hub = gpu_hub
    hub.add_users("ana")
    assert hub.spawn("ana", {"gpu": "1g"}).status_code in (201, 202)
    hub.wait_ready("ana")
    before = hub.leases()[0]["devices"][0]["uuid"]
    hub.stop_server("ana")
    assert hub.leases() == []

    play("two-gpus", hub.root.parent / "machine")
    offered = hub.api("GET", "ds01/v1/devices").json()["classes"]
    assert hub.spawn("ana").status_code in (201, 202), "the stored options ask for 1g again"
    hub.wait_ready("ana")
    (device,) = hub.leases()[0]["devices"]
    assert device["class"] == "1g"
    assert device["uuid"] != before
    assert offered
