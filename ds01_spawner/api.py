"""REST in the hub process, under `/hub/api/ds01/v1/`: what the services and the command line ask.

Handlers authenticate, call one method of `DS01Hub` and write JSON; the shapes are in `core.wire`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import define_custom_scopes, needs_scope
from jupyterhub.slugs import is_valid_safe_slug
from jupyterhub.spawner import SpawnException
from tornado.web import HTTPError

from ds01_spawner.core import wire
from ds01_spawner.core.errors import Reason, Refusal, Unavailable
from ds01_spawner.core.names import container_slug

if TYPE_CHECKING:
    from ds01_spawner.hub import DS01Hub

T = TypeVar("T")
REASON_HEADER = "X-DS01-Reason"
SERVER_NAMES = "1 to 30 of a-z, 0-9 and single hyphens, a letter first and no hyphen last"
LIMITS_READ = "custom:ds01:limits:read"
LEASES_READ = "custom:ds01:leases:read"
CUSTOM_SCOPES = {
    LIMITS_READ: {"description": "Read the resolved limits and the use of any user."},
    LEASES_READ: {"description": "Read all live leases."},
}
# `needs_scope` checks its scope when a class is made, which is before the hub reads its custom scopes.
define_custom_scopes(CUSTOM_SCOPES)


def roles(admins: Sequence[str]) -> list[dict[str, Any]]:
    """Roles for `JupyterHub.load_roles`: admins get our scopes by a role of its own; `admin` can't be extended."""
    description = "DS01: see the limits of all users and all leases"
    return [{"name": "ds01-admin", "description": description, "scopes": list(CUSTOM_SCOPES), "users": sorted(admins)}]


class DS01Handler(APIHandler):  # type: ignore[misc]  # jupyterhub's handlers are untyped
    """Base: holds the hub's parts and writes JSON."""

    def initialize(self, ds01: DS01Hub) -> None:
        """Called by tornado with the route's arguments."""
        self.ds01 = ds01

    def answer(self, body: dict[str, Any]) -> None:
        """Write a JSON body."""
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(body))

    def hub_user(self, name: str) -> Any:
        """The hub's user of that name, or 404."""
        user = self.find_user(name)
        if user is None:
            raise HTTPError(404, f"No such user: {name}")
        return user

    async def limits_of(self, user: Any) -> dict[str, Any]:
        """Resolved limits with usage."""
        resolved = await self.ds01.resolve(user.name, tuple(group.name for group in user.groups))
        return wire.limits(resolved, await self.known(self.ds01.usage(user.name)))

    async def known(self, answer: Awaitable[T]) -> T:
        """The answer of a part, or 503 where that part gives none."""
        try:
            return await answer
        except Unavailable as problem:
            raise HTTPError(503, f"This can't be told just now: {problem}. Please try again in a minute.") from None


class OwnLimitsHandler(DS01Handler):
    """GET limits: the caller's own. A container's token works too, for its owner."""

    async def get(self) -> None:
        """Answer for whoever the token or session belongs to."""
        user = self.current_user
        if user is None:
            raise HTTPError(403, "Log in, or send a token: Authorization: token <token>")
        if not hasattr(user, "groups") or not hasattr(user, "spawners"):
            raise HTTPError(400, "A service has no limits of its own; ask for limits/<user>")
        self.answer(await self.limits_of(user))


class LimitsHandler(DS01Handler):
    """GET limits/<user>: anybody's, with a scope."""

    @needs_scope(LIMITS_READ)  # type: ignore[untyped-decorator]  # jupyterhub is untyped
    async def get(self, user_name: str) -> None:  # needs_scope reads the argument's name: `!user=` filters work
        """Answer for one user."""
        self.answer(await self.limits_of(self.hub_user(user_name)))


class DevicesHandler(DS01Handler):
    """GET devices: what is free, by class; no names of people."""

    async def get(self) -> None:
        """Answer to any user or service."""
        if self.current_user is None:
            raise HTTPError(403, "Log in, or send a token: Authorization: token <token>")
        self.answer(await self.known(self.ds01.devices()))


class LeasesHandler(DS01Handler):
    """GET leases: all live ones, oldest first."""

    @needs_scope(LEASES_READ)  # type: ignore[untyped-decorator]  # jupyterhub is untyped
    async def get(self) -> None:
        """Answer with every live lease."""
        leases = await self.known(self.ds01.allocator.live())
        self.answer({"leases": [wire.lease(lease) for lease in leases]})


def server_limit(handler: Any) -> int:
    """For `JupyterHub.named_server_limit_per_user`, which the hub asks before it looks at a new server's name.

    No limit in number: running containers are counted, by the ledger. The hub's own refusal of a name doesn't say what
    is allowed, so it is refused here, for the form and for REST alike.
    """
    name = handler.path_args[1] if len(handler.path_args) > 1 else ""
    if name and not is_valid_safe_slug(name):
        text = f"{name[:40]!a} is not a server name. Allowed: {SERVER_NAMES}.{_instead(name)}"
        raise refused(Refusal(Reason.OPTIONS, text, key="server", allowed=SERVER_NAMES))
    return 0


def _instead(name: str) -> str:
    try:
        return f" {container_slug(name)!r} would do; any text may be its display name."
    except Refusal:
        return ""


def refused(refusal: Refusal) -> SpawnException:
    """The hub's form of a refusal. Its JSON errors drop the reason, so a header carries it."""
    error = SpawnException(refusal.message, reason=refusal.reason.value, status_code=refusal.http_status)
    error.headers = {REASON_HEADER: refusal.reason.value}
    return error


def handlers(ds01: DS01Hub) -> list[tuple[str, type[DS01Handler], dict[str, Any]]]:
    """Routes for `JupyterHub.extra_handlers`, which adds the hub's prefix."""
    made = {"ds01": ds01}
    return [
        (r"/api/ds01/v1/limits", OwnLimitsHandler, made),
        (r"/api/ds01/v1/limits/([^/]+)", LimitsHandler, made),
        (r"/api/ds01/v1/devices", DevicesHandler, made),
        (r"/api/ds01/v1/leases", LeasesHandler, made),
    ]
