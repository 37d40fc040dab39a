"""A PostgreSQL server of our own for the ledger's suite, from Debian's package, under an unprivileged account."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ACCOUNT = "postgres"


def binaries() -> Path | None:
    """The newest installed server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


class Server:
    """One server on a socket in a temporary folder; no TCP port."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://{self._account()}@/postgres?host={self._folder}"

    def prepare(self) -> None:
        shutil.chown(self._folder, *(2 * [self._account()]))
        self._run("initdb", "-D", str(self._folder / "data"), "-A", "trust", "--no-sync")

    def start(self) -> None:
        arguments = ["-D", str(self._folder / "data"), "-k", str(self._folder), "-c", "listen_addresses="]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), *arguments], stdout=log, stderr=log, **self._identity()
            )
        deadline = time.monotonic() + 30
        while subprocess.run([str(self._programs / "pg_isready"), "-q", "-h", str(self._folder)]).returncode:
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(3)  # SIGQUIT: at once, as in a power cut
            self._process.wait(30)
            self._process = None

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder, **self._identity())

    @staticmethod
    def _account() -> str:
        return ACCOUNT if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name

    @classmethod
    def _identity(cls) -> dict[str, object]:
        """The server refuses to run as root."""
        if os.geteuid() != 0:
            return {}
        account = pwd.getpwnam(ACCOUNT)
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@contextmanager
def running_server(programs: Path) -> Iterator[Server]:
    """A server that ends with the block. Its folder is short: a socket's path has at most 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="ds01-pg-"))
    server = Server(programs, folder)
    try:
        server.prepare()
        server.start()
        yield server
    finally:
        with suppress(subprocess.TimeoutExpired):
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
