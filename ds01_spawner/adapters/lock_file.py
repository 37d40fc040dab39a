"""One process at a time: a lock that the kernel takes back when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ds01_spawner.core.errors import ConfigError


class LockFile:
    """The lock of this process on `path`, held from now until the process ends or `release`.

    Within one process it can be taken again. Raises ConfigError where another process has it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise ConfigError(
                "another hub process has this state folder; two of them would free each other's devices. Stop it "
                "first, or give this one a root of its own",
                file=str(path),
            ) from None

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._file)
