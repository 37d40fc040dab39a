"""Starts a user's JupyterLab with only the imports that it needs to answer; the rest is imported at first use.

The `jupyterhub-singleuser` command of this image is `main` below. It does what JupyterHub's own command does, through
the same classes. The difference is time: the stock command imports the hub's own half first (request handlers, database
models), which a user's server never runs, and HTTP clients that it needs only later.

While JupyterHub's and JupyterLab's modules are imported, a `StandIn` takes the place of each module in `stand_ins`.
It imports the real one when somebody touches it. Afterwards the stand-ins leave `sys.modules`, so that extensions and a
user's own code never see one. If anything here does not fit the installed versions, the stock way is taken and said.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

SECONDS_BEFORE_HUB_CALLS = 1.0


class StandIn(ModuleType):
    """A module that is imported when an attribute is asked for that it does not have yet.

    Args:
        name: the module's full name.
        known: attributes that are there without importing: what the importing modules name in their import lines.
    """

    def __init__(self, name: str, **known: Any) -> None:
        super().__init__(name)
        self.__dict__.update(known)
        self.__dict__["_lock"] = threading.RLock()
        # `from x import y` looks whether x is a package, which must not count as a touch where y is known.
        self.__dict__["_is_plain_module"] = bool(known)

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "__path__" and self._is_plain_module:
            raise AttributeError(attribute)
        return getattr(self._real(), attribute)

    def _real(self) -> ModuleType:
        with self._lock:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
            return importlib.import_module(self.__name__)


def call_later(module: str, function: str) -> Callable[..., Any]:
    """A function that imports its module when it is called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(module), function)(*args, **kwargs)

    return call


def stand_ins() -> list[StandIn]:
    """What JupyterHub 6 and JupyterLab 4 import, but a server needs later or never."""
    return [
        # The hub's database: one exception class is named in an `except` of the hub's own requests.
        StandIn("sqlalchemy"),
        StandIn("sqlalchemy.exc", SQLAlchemyError=type("SQLAlchemyError", (Exception,), {})),
        StandIn("jupyterhub.orm"),
        StandIn("jupyterhub.roles"),
        # The hub's request handlers: the access log looks whether a request is for the hub's health page.
        StandIn("jupyterhub.handlers.pages", HealthCheckHandler=type("HealthCheckHandler", (), {})),
        # HTTP clients: used after the server answers.
        StandIn("aiohttp"),
        StandIn("requests"),
        StandIn("jupyterhub.httpclient", fetch=call_later("jupyterhub.httpclient", "fetch")),
        # Only for an extension manager that installs; see jupyter_server_config.json.
        StandIn(
            "jupyterlab.extensions.pypi",
            PyPIExtensionManager=call_later("jupyterlab.extensions.pypi", "PyPIExtensionManager"),
        ),
    ]


@contextmanager
def in_place(modules: list[StandIn]) -> Iterator[None]:
    """Puts the stand-ins into `sys.modules` and takes them out again."""
    for module in modules:
        sys.modules.setdefault(module.__name__, module)
    try:
        yield
    finally:
        for module in modules:
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]


def singleuser_package() -> StandIn:
    """The package `jupyterhub.singleuser` without its `__init__`, which imports the hub's half."""
    parent = importlib.import_module("jupyterhub")
    return StandIn("jupyterhub.singleuser", __path__=[str(Path(str(parent.__file__)).parent / "singleuser")])


def delayed(hub_call: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """A call to the hub that first lets the server answer; what it does then, also on failure, stays the same."""

    async def call(app: Any) -> None:
        await asyncio.sleep(SECONDS_BEFORE_HUB_CALLS)
        await hub_call(app)

    return call


def in_background(hub_call: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """The same for a call that the server waits for while it starts."""

    async def call(app: Any) -> None:
        app._ds01_background = asyncio.ensure_future(delayed(hub_call)(app))

    return call


def load_server() -> Any:
    """Imports JupyterHub's server extension and JupyterLab; returns the application class."""
    sys.modules.setdefault("jupyterhub.singleuser", singleuser_package())
    with in_place(stand_ins()):
        extension = importlib.import_module("jupyterhub.singleuser.extension")
        for name in ("jupyterlab.labapp", "jupyter_server_proxy.handlers"):
            importlib.import_module(name)
    application = extension.JupyterHubSingleUser
    application.check_hub_version = in_background(application.check_hub_version)
    application.keep_activity_updated = delayed(application.keep_activity_updated)
    return application


def forget_server() -> None:
    """Takes out all that a failed `load_server` left behind."""
    for name in list(sys.modules):
        if name.split(".")[0] in ("jupyterhub", "jupyterlab"):
            del sys.modules[name]


def wants_stock_command() -> bool:
    """An environment that asks for another application than JupyterHub's default gets JupyterHub's own command."""
    return any(os.environ.get(f"JUPYTERHUB_SINGLEUSER_{name}") for name in ("APP", "EXTENSION"))


def main() -> Any:
    """The `jupyterhub-singleuser` command."""
    # Nothing made while importing is garbage; looking for some costs a tenth of the time.
    gc.disable()
    application = None
    if not wants_stock_command():
        try:
            application = load_server()
        except Exception as error:
            sys.stderr.write(f"ds01: fast start does not fit these versions, starting slowly: {error!r}\n")
            forget_server()
    gc.freeze()
    gc.enable()
    if application is not None:
        return application.launch_instance()
    return importlib.import_module("jupyterhub.singleuser").main()


if __name__ == "__main__":
    sys.exit(main())
