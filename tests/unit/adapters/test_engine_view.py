"""What an inspect answer means, for those parts that a test engine can't show."""

from __future__ import annotations

from typing import Any

import pytest

from ds01_spawner.adapters.engine_view import container_view


def answer(*, host: Any = None, env: Any = None, state: Any = None, networks: Any = None) -> dict[str, Any]:
    return {
        "Id": "c0ffee",
        "Name": "/main._.1000.12345678",
        "Image": "sha256:1",
        "Created": "2026-01-02T03:04:05.123456789Z",
        "State": {"Status": "running", "Pid": 5, "ExitCode": 0, "Error": "", "OOMKilled": False, **(state or {})},
        "Config": {"Labels": None, "Env": env},
        "HostConfig": {"NetworkMode": "ds01", **(host or {})},
        "NetworkSettings": {"Networks": networks},
    }


def test_name_time_and_missing_parts_are_read() -> None:
    """The engine's slash goes, nanoseconds are read, null is empty."""
    view = container_view(answer())
    assert (view.name, view.created_at, view.labels, view.ip) == ("main._.1000.12345678", 1767323045.123456, {}, "")


@pytest.mark.parametrize(
    ("requests", "ids", "everything"),
    [
        ([{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=MIG-2"]}], ("GPU-1", "MIG-2"), False),
        ([{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}], (), True),
        ([{"DeviceIDs": ["all"]}], (), True),
        ([{"Count": -1, "DeviceIDs": None}], (), True),
        ([{"Count": 2, "DeviceIDs": None}], ("0", "1"), False),
        ([{"DeviceIDs": ["GPU-1"]}, {"DeviceIDs": ["GPU-2"]}], ("GPU-1", "GPU-2"), False),
        ([], (), False),
        (None, (), False),
    ],
)
def test_every_way_to_ask_for_devices_is_seen(requests: Any, ids: tuple[str, ...], everything: bool) -> None:
    """Containers of others, which may be made in any way, never go unnoticed."""
    view = container_view(answer(host={"DeviceRequests": requests}))
    assert (view.device_ids, view.all_devices) == (ids, everything)


@pytest.mark.parametrize(
    ("runtime", "env", "ids", "everything"),
    [
        ("nvidia", ["NVIDIA_VISIBLE_DEVICES=all"], (), True),
        ("nvidia", ["A=b", "NVIDIA_VISIBLE_DEVICES=GPU-1, MIG-2"], ("GPU-1", "MIG-2"), False),
        ("nvidia", ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=void"], (), False),
        ("nvidia", ["NVIDIA_VISIBLE_DEVICES=none"], (), False),
        ("nvidia", None, (), False),
        ("runc", ["NVIDIA_VISIBLE_DEVICES=all"], (), False),
    ],
)
def test_the_nvidia_runtime_gives_devices_by_the_environment(
    runtime: str, env: Any, ids: tuple[str, ...], everything: bool
) -> None:
    """Where it is the engine's default runtime, the image's environment alone gives all GPUs away."""
    view = container_view(answer(host={"Runtime": runtime}, env=env))
    assert (view.device_ids, view.all_devices) == (ids, everything)


def test_our_device_request_counts_before_the_environment() -> None:
    """With the nvidia runtime as default, the environment of our own containers says the same once more."""
    host = {"Runtime": "nvidia", "DeviceRequests": [{"DeviceIDs": ["GPU-1"]}]}
    view = container_view(answer(host=host, env=["NVIDIA_VISIBLE_DEVICES=GPU-1"]))
    assert (view.device_ids, view.all_devices) == (("GPU-1",), False)


@pytest.mark.parametrize(
    ("host", "cpus"),
    [
        ({"NanoCpus": 1_500_000_000}, 1.5),
        ({"NanoCpus": 0, "CpuQuota": 50_000, "CpuPeriod": 25_000}, 2.0),
        ({"CpuQuota": 50_000, "CpuPeriod": 0}, 0.5),
        ({"CpuQuota": -1}, 0.0),
        ({}, 0.0),
    ],
)
def test_cpus_are_read_from_either_form(host: dict[str, int], cpus: float) -> None:
    """The engine keeps the form in which it was asked."""
    assert container_view(answer(host=host)).cpus == cpus


@pytest.mark.parametrize(
    ("networks", "ip"),
    [
        ({"other": {"IPAddress": "10.0.0.2"}, "ds01": {"IPAddress": "10.0.1.2"}}, "10.0.1.2"),
        ({"other": {"IPAddress": "10.0.0.2"}, "ds01": {"IPAddress": ""}}, "10.0.0.2"),
        ({"ds01": None}, ""),
        (None, ""),
    ],
)
def test_the_address_is_that_on_the_containers_own_network(networks: Any, ip: str) -> None:
    """An admin may have attached it to a second one."""
    assert container_view(answer(networks=networks)).ip == ip


@pytest.mark.parametrize(
    ("status", "code", "seen"),
    [("running", 0, None), ("created", 0, None), ("paused", 0, None), ("exited", 0, 0), ("exited", 137, 137),
     ("dead", 1, 1)],
)  # fmt: skip
def test_only_an_ended_container_has_an_exit_code(status: str, code: int, seen: int | None) -> None:
    """The engine says 0 for one that runs: that is no success."""
    assert container_view(answer(state={"Status": status, "ExitCode": code})).exit_code == seen
