"""Who a user's processes are: the system account's ids or stable ones, and the passwd files that name them inside."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ds01_spawner.core import passwd
from ds01_spawner.core.errors import LeaseConflict, Reason, Refusal
from ds01_spawner.core.ports import Engine

#: Below are the system's own accounts.
FIRST_ORDINARY = 1000
#: `nobody` and what an unset id looks like in 16 and in 32 bits.
NOBODY = frozenset({65534, 65535, (1 << 32) - 2, (1 << 32) - 1})
READABLE = 0o644
SHELL = "/bin/bash"


@dataclass(frozen=True, slots=True)
class Identity:
    """The uid and gid of a user's processes. `system`: the machine has an account of that name."""

    uid: int
    gid: int
    system: bool


def identity_of(user: str, stable: Callable[[int | None], int]) -> Identity:
    """The system account's ids; without an account the one that `stable` gives. Blocks: accounts may be in a directory.

    `stable` is given the account's uid, or None, and gives the user's id for good, raising LeaseConflict where that uid
    is another user's: `lambda wanted: ledger.uid_of(user, first=first_uid, wanted=wanted)`. Raises Refusal for root and
    for the system's own accounts.
    """
    account = _account(user)
    if account is not None:
        _check_ordinary(account)
    try:
        uid = stable(None if account is None else account.pw_uid)
    except LeaseConflict as conflict:
        raise _refused(f"uid {account.pw_uid if account else '?'} is another user's here ({conflict})") from conflict
    if account is not None and uid == account.pw_uid:
        return Identity(uid, account.pw_gid, system=True)
    owner = _owner(uid)
    if owner is not None:
        raise _refused(f"uid {uid}, which would be {user}'s, belongs to the system account {owner!r}")
    return Identity(uid, uid, system=False)


def _account(user: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        return None
    except ValueError:
        raise _refused("the user's name can't be one of a system account") from None


def _owner(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _check_ordinary(account: pwd.struct_passwd) -> None:
    if account.pw_uid < FIRST_ORDINARY or account.pw_uid in NOBODY or account.pw_gid == 0:
        raise _refused(f"{account.pw_name!r} is one of the system's own accounts (uid {account.pw_uid})")


def _refused(text: str) -> Refusal:
    return Refusal(Reason.IDENTITY, f"No container can be started: {text}. Please ask an administrator.")


@dataclass(frozen=True, slots=True)
class IdentityPaths:
    """Host files to mount read-only at /etc/passwd and /etc/group."""

    passwd: Path
    group: Path


class IdentityFiles:
    """The passwd and group files of containers, below `folder`: one pair for each image and user."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self._folder = folder
        self._engine = engine

    async def write(
        self, image_id: str, name: str, identity: Identity, *, home: str, shell: str = SHELL
    ) -> IdentityPaths:
        """Write both files for this image and user. Raises Refusal for an impossible name, and the engine's errors."""
        passwd_bytes, group_bytes = await asyncio.gather(
            self._engine.image_file(image_id, "/etc/passwd"), self._engine.image_file(image_id, "/etc/group")
        )
        contents = passwd.with_user(
            passwd_bytes or b"", group_bytes or b"", name, identity.uid, identity.gid, home, shell
        )
        # A user's name may have any character: the folder is a hash of what the files are for.
        key = hashlib.sha256(f"{image_id}\0{name}".encode()).hexdigest()[:32]
        return await asyncio.to_thread(self._write, self._folder / key, contents)

    def _write(self, folder: Path, contents: tuple[bytes, bytes]) -> IdentityPaths:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths = IdentityPaths(folder / "passwd", folder / "group")
        for path, content in zip((paths.passwd, paths.group), contents, strict=True):
            if not path.is_file() or path.read_bytes() != content:
                _replace(path, content)
        return paths


def _replace(path: Path, content: bytes) -> None:
    """All or nothing; a container that has the old file mounted keeps it."""
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), READABLE)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
