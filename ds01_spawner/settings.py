"""The deployment's settings, read from KEY=VALUE pairs and checked before anything starts.

Not the limits of users: those are in `config/resource-limits.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ds01_spawner.core.errors import ConfigError

EGRESS = ("internet", "none", "all")
KNOWN = (
    "DS01_ROOT",
    "DS01_INSTANCE",
    "DS01_BIND",
    "DS01_PORT",
    "DS01_HUB_PORT",
    "DS01_PROXY_API_PORT",
    "DS01_AUTHENTICATOR",
    "DS01_ADMINS",
    "DS01_USERS",
    "DS01_SHARED_PASSWORD_FILE",
    "DS01_SIMULATED_GPUS",
    "DS01_LEDGER_URL",
    "DS01_NETWORK",
    "DS01_EGRESS",
    "DS01_EGRESS_ALLOW",
    "DS01_RESOURCE_LIMITS",
    "DS01_SITE_CONFIG",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """One install. `root` stands before `var/lib/ds01` and `var/log/ds01`; passwords are in files under `secrets`."""

    root: Path
    instance: str
    bind: str
    port: int
    hub_port: int
    proxy_api_port: int
    authenticator: str
    admins: tuple[str, ...]
    users: tuple[str, ...]
    shared_password_file: Path | None
    simulated_gpus: str
    ledger_url: str
    network: str
    egress: str
    egress_allow: tuple[str, ...]
    resource_limits: Path
    site_config: Path

    @property
    def state(self) -> Path:
        """Where everything that lasts is kept."""
        return self.root / "var/lib/ds01"

    @property
    def secrets(self) -> Path:
        """The folder of secrets, 0700."""
        return self.state / "secrets"

    @property
    def allow_all(self) -> bool:
        """Whoever the authenticator knows may log in, unless users are named."""
        return not self.users

    @property
    def shared_password(self) -> str:
        """The password of all ordinary users of the shared-password authenticator."""
        if self.shared_password_file is not None:
            return self.shared_password_file.read_text(encoding="utf-8").strip()
        return self._secret("shared_password")

    @property
    def admin_password(self) -> str:
        """The admins' password of the shared-password authenticator."""
        return self._secret("admin_password")

    @property
    def announcement(self) -> str:
        """What every page says on top."""
        return "Demo: the GPUs of this machine are simulated." if self.simulated_gpus else ""

    def _secret(self, name: str) -> str:
        return (self.secrets / name).read_text(encoding="utf-8").strip()


def read_settings(values: Mapping[str, str | None], here: Path) -> Settings:
    """The settings in `values`; relative paths count from `here`. Raises ConfigError for an impossible value."""
    env = {key: value for key in KNOWN if (value := (values.get(key) or "").strip())}
    simulated = env.get("DS01_SIMULATED_GPUS", "")
    egress = env.get("DS01_EGRESS", "internet")
    if egress not in EGRESS:
        raise ConfigError(f"{egress!r} is not one of {', '.join(EGRESS)}", key="DS01_EGRESS")
    return Settings(
        root=Path(env.get("DS01_ROOT", "/")),
        instance=env.get("DS01_INSTANCE", "main"),
        bind=env.get("DS01_BIND", "127.0.0.1"),
        port=_port(env, "DS01_PORT", 8000),
        hub_port=_port(env, "DS01_HUB_PORT", 8081),
        proxy_api_port=_port(env, "DS01_PROXY_API_PORT", 8001),
        authenticator=env.get("DS01_AUTHENTICATOR", "pam"),
        admins=_names(env, "DS01_ADMINS"),
        users=_names(env, "DS01_USERS"),
        shared_password_file=here / file if (file := env.get("DS01_SHARED_PASSWORD_FILE")) else None,
        simulated_gpus=str(here / simulated) if simulated else "",
        ledger_url=env.get("DS01_LEDGER_URL", ""),
        network=env.get("DS01_NETWORK", "ds01"),
        egress=egress,
        egress_allow=_names(env, "DS01_EGRESS_ALLOW"),
        resource_limits=here / env.get("DS01_RESOURCE_LIMITS", "config/resource-limits.yaml"),
        site_config=here / env.get("DS01_SITE_CONFIG", "config/site_config.py"),
    )


def _names(env: Mapping[str, str], key: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in env.get(key, "").split(",") if name.strip())


def _port(env: Mapping[str, str], key: str, default: int) -> int:
    text = env.get(key, str(default))
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 16):
        raise ConfigError(f"{text!r} is not a port from 1 to 65535", key=key)
    return int(text)
