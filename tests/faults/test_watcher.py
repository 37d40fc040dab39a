"""The soak's watcher can see what it looks for."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.faults.driver import Install, client
from tests.faults.watcher import LABEL, Watcher

BY_LABEL = {"Labels": {LABEL: "MIG-one,MIG-two"}}
BY_REQUEST = {
    "HostConfig": {"DeviceRequests": [{"Driver": "nvidia", "DeviceIDs": ["MIG-two"], "Capabilities": [["gpu"]]}]}
}


def until(watcher: Watcher, name: str) -> None:
    """Wait until the watcher has counted one more of what it has seen."""
    before, deadline = watcher.counts[name], time.monotonic() + 20
    while watcher.counts[name] <= before:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("second", "seen"), [(BY_LABEL, True), (BY_REQUEST, True), ({}, False)])
def test_a_device_in_two_running_containers_is_seen(install: Install, second: dict[str, Any], seen: bool) -> None:
    """By its label as by its device request; a container that has ended holds nothing any more."""
    watcher = Watcher(install.engine)
    made: list[str] = []
    with client(install.engine) as api:

        def run(config: dict[str, Any]) -> str:
            whole = {"Image": install.image, "Cmd": ["/bin/sleep", "60"], **config}
            made.append(api.create_container_from_config(whole)["Id"])
            api.start(made[-1])
            return made[-1]

        try:
            watcher.start()
            until(watcher, "looks at the engine")
            api.kill(run(BY_LABEL))
            first = run(BY_LABEL)
            until(watcher, "looks at the engine")
            assert watcher.violations == []
            other = run(second)
            until(watcher, "looks at the engine")
            until(watcher, "looks at the engine")
            assert bool(watcher.violations) is seen
            assert all(first in text and other in text for text in watcher.violations)
        finally:
            watcher.end()
            for container in made:
                api.remove_container(container, force=True)
