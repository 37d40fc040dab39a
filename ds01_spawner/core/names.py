"""Slugs of users, containers and projects: for image tags, host names, folders and the engine's names.

A slug is a DNS label. A name that is one already stays as it is; any other gets a hash of the whole name at its end.
Two users never share a slug: a user name that only looks as if it had such a hash gets one too. Containers and
projects live within one user, and there a slug that is typed again must mean the same container: it stays.
"""

from __future__ import annotations

import hashlib
import re

from ds01_spawner.core.errors import Reason, Refusal

#: JupyterHub's limit for the name of a server.
SERVER_LENGTH = 30
#: Two people never share a folder, even if one of them picks a name for it: users get the longer hash.
USER_LENGTH = 40
_SERVER_HASH, _USER_HASH = 10, 16
MAX_NAME = 128
DEFAULT_SERVER = "main"

_SLUG = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_HASHED = re.compile(rf".*-x[0-9a-f]{{{_USER_HASH}}}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+~-]*", re.ASCII)
_TITLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._@+~-]*", re.ASCII)
_NONCE = re.compile(r"[0-9a-f]{8}")
_CHARACTERS = "the letters a to z, digits and . _ - @ + ~"


def user_slug(name: str) -> str:
    """The user's part of tags, host names and folders: at most 40 characters. Raises Refusal."""
    if not _USER.fullmatch(name) or len(name) > MAX_NAME:
        raise _refused("user", name, _CHARACTERS)
    if _is_slug(name, USER_LENGTH) and not _HASHED.fullmatch(name):
        return name
    return _hashed_slug(name, USER_LENGTH, _USER_HASH)


def container_slug(name: str) -> str:
    """A container's name as JupyterHub takes it for a named server: at most 30 characters. Raises Refusal."""
    return _title_slug("container", name)


def project_slug(name: str) -> str:
    """A project's slug; the project's container has the same one. Raises Refusal."""
    return _title_slug("project", name)


def engine_name(server: str, uid: int, nonce: str) -> str:
    """A container's name on the engine, `<server>._.<uid>.<nonce>`: readable for an admin, not to be guessed.

    `server` is a hub server's name, empty for the default one; `nonce` is 8 hexadecimal digits, new for each start.
    Raises ValueError for another nonce or a negative uid, Refusal for an impossible server.
    """
    if not _NONCE.fullmatch(nonce) or uid < 0:
        raise ValueError("a nonce is 8 hexadecimal digits and a uid is not negative")
    return f"{container_slug(server) if server else DEFAULT_SERVER}._.{uid}.{nonce}"


def _title_slug(what: str, name: str) -> str:
    if not _TITLE.fullmatch(name) or len(name) > MAX_NAME:
        raise _refused(what, name, f"{_CHARACTERS}, spaces inside")
    return name if _is_slug(name, SERVER_LENGTH) else _hashed_slug(name, SERVER_LENGTH, _SERVER_HASH)


def _is_slug(name: str, length: int) -> bool:
    return len(name) <= length and _SLUG.fullmatch(name) is not None


def _hashed_slug(name: str, length: int, digits: int) -> str:
    digest = hashlib.sha256(name.encode("ascii")).hexdigest()[:digits]
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not readable[:1].isalpha():
        readable = f"n-{readable}".rstrip("-")
    return f"{readable[: length - digits - 2].rstrip('-')}-x{digest}"


def _refused(what: str, name: str, characters: str) -> Refusal:
    # ascii(): a look-alike or an invisible character shows as what it is.
    shown = ascii(name if len(name) <= 40 else name[:40] + "...")
    return Refusal(
        Reason.OPTIONS,
        f"{shown} is not a {what} name. Allowed are 1 to {MAX_NAME} characters: {characters}; "
        "the first one is a letter, a digit or _.",
        key=what, asked=name[:MAX_NAME], allowed=characters,
    )  # fmt: skip
