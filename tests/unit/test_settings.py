"""The settings of an install: what they default to, and which values are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ds01_spawner.core.errors import ConfigError
from ds01_spawner.settings import read_settings

HERE = Path("/srv/ds01-hub")


def test_nothing_set_is_the_seeds_own_paths_on_loopback() -> None:
    """An install without a setting listens on loopback and keeps its state where the seed did."""
    settings = read_settings({}, HERE)
    assert (settings.bind, settings.port) == ("127.0.0.1", 8000)
    assert settings.state == Path("/var/lib/ds01")
    assert settings.secrets == Path("/var/lib/ds01/secrets")
    assert settings.resource_limits == HERE / "config/resource-limits.yaml"
    assert settings.allow_all
    assert settings.announcement == ""


def test_empty_is_not_set() -> None:
    """`KEY=` is the default, as in the example file."""
    assert read_settings({"DS01_PORT": "", "DS01_EGRESS": None}, HERE) == read_settings({}, HERE)


def test_lists_are_split_and_users_close_the_door_to_others() -> None:
    """Names are separated by commas; once users are named, nobody else gets in."""
    settings = read_settings({"DS01_ADMINS": "root, carla,", "DS01_USERS": "ana"}, HERE)
    assert settings.admins == ("root", "carla")
    assert not settings.allow_all


def test_a_simulated_machine_is_announced() -> None:
    """Whatever is simulated says so on every page."""
    settings = read_settings({"DS01_SIMULATED_GPUS": "config/simulated/dgx-a100.yaml"}, HERE)
    assert settings.simulated_gpus == str(HERE / "config/simulated/dgx-a100.yaml")
    assert "simulated" in settings.announcement


def test_passwords_come_from_files(tmp_path: Path) -> None:
    """Never from the environment; a site's own file wins over the one that was made."""
    secrets = tmp_path / "var/lib/ds01/secrets"
    secrets.mkdir(parents=True)
    for name in ("shared_password", "admin_password"):
        (secrets / name).write_text(f"{name}\n")
    settings = read_settings({"DS01_ROOT": str(tmp_path)}, HERE)
    assert (settings.shared_password, settings.admin_password) == ("shared_password", "admin_password")
    (tmp_path / "own").write_text("own\n")
    own = read_settings({"DS01_ROOT": str(tmp_path), "DS01_SHARED_PASSWORD_FILE": str(tmp_path / "own")}, HERE)
    assert own.shared_password == "own"


@pytest.mark.parametrize(
    ("key", "value"),
    [("DS01_PORT", "http"), ("DS01_PORT", "0"), ("DS01_PORT", "70000"), ("DS01_PORT", "-1"), ("DS01_EGRESS", "some")],
)
def test_impossible_values_name_their_key(key: str, value: str) -> None:
    """A mistake is told with its key before anything starts."""
    with pytest.raises(ConfigError, match=key):
        read_settings({key: value}, HERE)
