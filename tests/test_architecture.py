"""What the import contracts can't see, and the one deprecated hook that we rely on."""

from __future__ import annotations

import subprocess
import sys

import pytest
from jupyterhub.app import JupyterHub

SERVER_ONLY = ("docker", "jupyterhub", "tornado", "sqlalchemy", "yaml", "pynvml", "traitlets")


@pytest.mark.parametrize(
    "module", ["ds01_spawner.core.wire", "ds01_spawner.container_spec", "ds01_spawner.options_form", "ds01_services"]
)
def test_pure_modules_bring_no_server(module: str) -> None:
    """A fresh interpreter that imports a pure module has loaded none of the server's libraries."""
    code = f"import {module}, sys; print(*(m for m in {SERVER_ONLY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_hook_for_our_handlers_is_still_there() -> None:
    """`extra_handlers` is deprecated, and the only way to serve REST from the hub process: we must hear of its end."""
    assert "extra_handlers" in JupyterHub.class_trait_names()
