"""The error tree of DS01 Hub, and the closed set of reasons for a refusal.

DS01Error
  Refusal            a decision against a request; public: its text reaches the user
  ConfigError        a configuration file is wrong: path, line, what would be right
  Unavailable        a part that we need gives no answer; nothing is granted or freed meanwhile
    EngineUnavailable, InventoryUnavailable, LedgerUnavailable, FirewallUnavailable
  EngineRefused      the engine understood a call and said no (bad image, name clash)
  LeaseConflict      the ledger forbids what was to be written (a slot is claimed already)
  IllegalTransition  a lease can't go from its state to the one asked for
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    """Why a request was refused. The closed set: a metric label and the value of X-DS01-Reason."""

    OPTIONS = "options"
    ENVIRONMENT = "environment"
    CONTAINERS = "containers"
    DEVICES = "devices"
    GPU_EQUIVALENTS = "gpu-equivalents"
    FULL_GPU = "full-gpu"
    USER_MEMORY = "user-memory"
    HOST_MEMORY = "host-memory"
    NO_SUCH_DEVICE = "no-such-device"
    BUSY = "busy"
    GPU_UNKNOWN = "gpu-unknown"
    LEDGER = "ledger"
    ENGINE = "engine"
    LIMITS_NOT_APPLIED = "limits-not-applied"
    IDENTITY = "identity"
    CONFIGURATION = "configuration"


#: HTTP status for each reason: 4xx where the request must change, 503 where waiting helps.
HTTP_STATUS: Mapping[Reason, int] = {
    Reason.OPTIONS: 400,
    Reason.ENVIRONMENT: 400,
    Reason.CONTAINERS: 403,
    Reason.DEVICES: 403,
    Reason.GPU_EQUIVALENTS: 403,
    Reason.FULL_GPU: 403,
    Reason.USER_MEMORY: 403,
    Reason.HOST_MEMORY: 503,
    Reason.NO_SUCH_DEVICE: 400,
    Reason.BUSY: 503,
    Reason.GPU_UNKNOWN: 503,
    Reason.LEDGER: 503,
    Reason.ENGINE: 503,
    Reason.LIMITS_NOT_APPLIED: 500,
    Reason.IDENTITY: 500,
    Reason.CONFIGURATION: 503,
}


class DS01Error(Exception):
    """Base of every error that DS01 Hub raises on purpose."""


class Refusal(DS01Error):
    """A request that is not granted.

    `message` is one or two sentences for the user: what was asked, which limit or rule stands against it,
    what would work. `data` carries the same as values (`asked`, `used`, `allowed`, `rule`, `fits`).
    """

    def __init__(self, reason: Reason, message: str, **data: object) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.data: Mapping[str, object] = data

    @property
    def http_status(self) -> int:
        """The HTTP status that this refusal is answered with."""
        return HTTP_STATUS[self.reason]


class ConfigError(DS01Error):
    """A configuration file can't be used. `line` is 1-based, or None where the whole file is meant."""

    def __init__(self, message: str, *, file: str = "", line: int | None = None, key: str = "") -> None:
        self.message, self.file, self.line, self.key = message, file, line, key
        where = f"{file}:{line}" if line is not None else file
        super().__init__(": ".join(part for part in (where, key, message) if part))


class Unavailable(DS01Error):
    """A part gives no answer. What runs goes on; nothing new is granted and nothing is freed on its account."""


class EngineUnavailable(Unavailable):
    """The container engine doesn't answer, or answers with a server error."""


class InventoryUnavailable(Unavailable):
    """The GPUs can't be read (driver gone, call timed out)."""


class LedgerUnavailable(Unavailable):
    """The ledger's database can't be read or written."""


class FirewallUnavailable(Unavailable):
    """The packet filter can't be read or written, so that nothing keeps containers off the host."""


class EngineRefused(DS01Error):
    """The engine understood the call and said no. `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class LeaseConflict(DS01Error):
    """The database refused a claim that another live lease has."""


class IllegalTransition(DS01Error):
    """A lease was asked to move against the table of `core.leases`."""
