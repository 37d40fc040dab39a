"""The settings of this install as an environment: config/hub.env, over which the process's own environment wins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

CHECKOUT = Path(__file__).resolve().parents[2]


def site_environ(file: Path = CHECKOUT / "config/hub.env") -> Mapping[str, str]:
    """Both together; a missing file is an empty one."""
    return {**{key: value or "" for key, value in dotenv_values(file).items()}, **os.environ}
