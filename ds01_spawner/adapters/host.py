"""This machine: its memory and CPUs, and the folders of its users."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ds01_spawner.core.admission import Host
from ds01_spawner.core.errors import ConfigError, Reason, Refusal
from ds01_spawner.core.readback import number

MEMINFO = Path("/proc/meminfo")
#: The group at the top of what this process sees; with a limit where the whole system is itself a container.
TOP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
PRIVATE = 0o700
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def read_host(reserve: float, *, meminfo: Path = MEMINFO, limits: tuple[Path, ...] = TOP_LIMITS) -> Host:
    """This machine's memory and CPUs. `reserve` is the part of the memory, 0 to 1, that no container gets.

    The hub's own service limit doesn't count: containers aren't in its group. Raises ConfigError.
    """
    if not 0 <= reserve < 1:
        raise ConfigError(f"the reserve is a part of the memory from 0 to below 1, not {reserve}", key="memory_reserve")
    found = [_total(meminfo), *(value for file in limits if (value := _limit(file)) is not None)]
    memory = int(min(found))
    return Host(memory=memory, memory_reserve=int(memory * reserve), cpus=os.cpu_count() or 1)


def _total(meminfo: Path) -> float:
    for line in meminfo.read_text(encoding="ascii").splitlines():
        if line.startswith("MemTotal:"):
            return float(line.split()[1]) * 1024
    raise ConfigError(f"{meminfo} doesn't say how much memory this machine has")


def _limit(file: Path) -> float | None:
    return number(file.read_text(encoding="ascii")) if file.is_file() else None


@dataclass(frozen=True, slots=True)
class Folders:
    """A user's folders on this machine."""

    home: Path
    workspace: Path


class UserFolders:
    """Makes `<root>/users/<slug>/{home,workspace}`, each the user's own.

    The user owns what is inside and is hostile: nothing there is opened, followed or changed. All above belongs to
    the hub alone, so that nobody can put a link in its place.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def ensure(self, slug: str, uid: int, gid: int) -> Folders:
        """The folders, made where missing. Raises Refusal where they are somebody else's, ConfigError where unsafe."""
        if slug in {"", ".", ".."} or "/" in slug or "\0" in slug:
            raise ValueError(f"{slug!r} is not a folder's name")
        with ExitStack() as opened:
            users = self._ours(opened, "users", self._open_root(opened))
            user = self._ours(opened, slug, users)
            for name in ("home", "workspace"):
                self._theirs(name, user, uid, gid)
        base = self._root / "users" / slug
        return Folders(base / "home", base / "workspace")

    def _open_root(self, opened: ExitStack) -> int:
        self._root.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        folder = os.open(self._root, _FOLDER & ~os.O_NOFOLLOW)  # the admin's own link is fine
        opened.callback(os.close, folder)
        self._check_ours(folder, str(self._root))
        return folder

    def _ours(self, opened: ExitStack, name: str, parent: int) -> int:
        """A folder of the hub's, opened."""
        folder, _ = self._open(name, parent)
        opened.callback(os.close, folder)
        self._check_ours(folder, name)
        return folder

    def _theirs(self, name: str, parent: int, uid: int, gid: int) -> None:
        """A folder of the user's: given away once, when it is new."""
        folder, made = self._open(name, parent)
        try:
            owner = os.fstat(folder).st_uid
            # The hub's own, though it isn't new: it ended between making the folder and giving it away.
            if made or (owner == os.geteuid() and owner != uid):
                os.fchmod(folder, PRIVATE)
                os.fchown(folder, uid, gid)
            elif owner != uid:
                raise Refusal(
                    Reason.IDENTITY,
                    f"Your {name} folder belongs to uid {owner}, but you are uid {uid} now. An administrator must give "
                    "it to you (chown) before a container can start.",
                    asked=uid,
                    used=owner,
                )
        finally:
            os.close(folder)

    def _open(self, name: str, parent: int) -> tuple[int, bool]:
        try:
            os.mkdir(name, PRIVATE, dir_fd=parent)
            made = True
        except FileExistsError:
            made = False
        try:
            return os.open(name, _FOLDER, dir_fd=parent), made
        except OSError as error:
            raise ConfigError(f"{name!r} below {self._root} is no folder, or a link: {error.strerror}") from None

    def _check_ours(self, folder: int, name: str) -> None:
        found = os.fstat(folder)
        if found.st_uid != os.geteuid() or found.st_mode & _OTHERS_MAY_WRITE:
            raise ConfigError(f"{name!r} below {self._root} can be changed by others than the hub: chown and chmod it")
