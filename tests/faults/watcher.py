"""Watches an engine for a device in two running containers, by the engine's own word and never by our ledger.

Two ways at once: every start and end of a container as the engine tells of it, which misses nothing while the engine
lives, and looks at what runs with its device requests, which sees what was there before.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import docker
import requests

from tests.faults.driver import client

#: What a call meets while the hub or the engine is away.
AWAY = (requests.RequestException, docker.errors.DockerException, ValueError, KeyError)
LABEL = "ds01.devices"


class Watcher:
    """`violations` and `counts` grow while it watches."""

    def __init__(self, engine_url: str) -> None:
        self._url = engine_url
        self._asked: dict[str, frozenset[str]] = {}
        self._ended = threading.Event()
        self._looker = threading.Thread(target=self._again_and_again, args=(self._look,), daemon=True)
        self._listener = threading.Thread(target=self._again_and_again, args=(self._listen,), daemon=True)
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        """Begin, while no container with a device runs."""
        self._looker.start()
        self._listener.start()

    def end(self) -> None:
        """Stop looking; the listener ends with the process."""
        self._ended.set()
        self._looker.join(30)

    def _again_and_again(self, work: Any) -> None:
        while not self._ended.is_set():
            with suppress(*AWAY), client(self._url) as api:
                work(api)
            self._ended.wait(0.02)

    # -- looks

    def _look(self, api: docker.APIClient) -> None:
        while not self._ended.wait(0.1):
            holder: dict[str, str] = {}
            # One answer of the engine is one moment; what a container was given never changes.
            for entry in api.containers():
                self._take(holder, entry["Id"], self._devices(api, entry))
            self.counts["looks at the engine"] += 1

    def _devices(self, api: docker.APIClient, entry: dict[str, Any]) -> frozenset[str]:
        if entry["Id"] not in self._asked:
            try:
                requested = api.inspect_container(entry["Id"])["HostConfig"].get("DeviceRequests") or ()
            except docker.errors.NotFound:
                return frozenset()
            devices = {device for request in requested for device in request.get("DeviceIDs") or ()}
            self._asked[entry["Id"]] = frozenset(devices | _labelled(entry["Labels"]))
        return self._asked[entry["Id"]]

    # -- events

    def _listen(self, api: docker.APIClient) -> None:
        """Follow one stream to its end: the engine's own, which ends all containers when it starts anew."""
        holder: dict[str, str] = {}
        for event in api.events(decode=True, filters={"type": "container", "event": ["start", "die"]}):
            container = event["Actor"]["ID"]
            if event["Action"] == "die":
                holder = {device: other for device, other in holder.items() if other != container}
            else:
                self._take(holder, container, _labelled(event["Actor"]["Attributes"]))
                self.counts["starts that the engine told of"] += 1

    def _take(self, holder: dict[str, str], container: str, devices: Iterable[str]) -> None:
        for device in devices:
            other = holder.setdefault(device, container)
            if other != container:
                self.violations.append(f"{device} is in running containers {other} and {container}")


def _labelled(labels: dict[str, str]) -> set[str]:
    return {device for device in labels.get(LABEL, "").split(",") if device}
