"""One hub process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ds01_spawner.adapters.lock_file import LockFile
from ds01_spawner.core.errors import ConfigError

HOLDER = """
import sys
from pathlib import Path
from ds01_spawner.adapters.lock_file import LockFile
LockFile(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    """Two hubs would free each other's reservations; one that was killed leaves no lock behind."""
    file = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another hub process"):
            LockFile(file)
        holder.kill()
        holder.wait(10)
        LockFile(file).release()


def test_the_same_process_can_take_it_again(tmp_path: Path) -> None:
    """A hub that is made anew in one process, as tests do, isn't another one."""
    first, second = LockFile(tmp_path / "lock"), LockFile(tmp_path / "lock")
    second.release()
    first.release()
