"""A passwd and a group file with one more person: the image's own entries, and the user who runs there.

sshd, git and the shell's prompt ask for the name of a uid; an image can't know the site's users.
"""

from __future__ import annotations

from ds01_spawner.core.errors import Reason, Refusal

MAX_ID = (1 << 32) - 2
MAX_NAME = 128
#: Where a file has none of its own: root, without which many programs fail.
ROOT_USER = b"root:x:0:0:root:/root:/bin/sh\n"
ROOT_GROUP = b"root:x:0:\n"
_FIELDS_USER, _FIELDS_GROUP = 7, 4


def with_user(passwd: bytes, group: bytes, name: str, uid: int, gid: int, home: str, shell: str) -> tuple[bytes, bytes]:
    """Both files with the user. Entries that have the same name, uid or gid go: nobody is two people.

    Raises Refusal for a name or a path that would break the file, and for root's name or id.
    """
    _check(name, uid, gid, home, shell)
    user_line = f"{name}:x:{uid}:{gid}::{home}:{shell}\n".encode()
    group_line = f"{name}:x:{gid}:\n".encode()
    return (
        _without(passwd or ROOT_USER, _FIELDS_USER, name, uid) + user_line,
        _without(group or ROOT_GROUP, _FIELDS_GROUP, name, gid) + group_line,
    )


def _check(name: str, uid: int, gid: int, home: str, shell: str) -> None:
    if not name or name[0] in "+-" or len(name) > MAX_NAME or name == "root":
        raise _refused(f"{name[:40]!r} can't be a user's name in a container")
    for what, text in (("name", name), ("home", home), ("shell", shell)):
        # A colon ends a field and a line break an entry; no other control character belongs there either.
        if ":" in text or not text.isprintable():
            raise _refused(f"the {what} {text[:40]!r} has a character that a passwd file can't hold")
    if not (0 < uid <= MAX_ID and 0 < gid <= MAX_ID):
        raise _refused(f"uid {uid} and gid {gid} can't be an ordinary user's")


def _refused(text: str) -> Refusal:
    return Refusal(Reason.IDENTITY, f"No container can be made for this user: {text}. Please ask an administrator.")


def _without(content: bytes, fields: int, name: str, number: int) -> bytes:
    """The lines that aren't this name's or this id's; what is no entry stays as it is."""
    kept = [line for line in content.splitlines() if line and not _is(line.split(b":"), fields, name, number)]
    return b"".join(line + b"\n" for line in kept)


def _is(entry: list[bytes], fields: int, name: str, number: int) -> bool:
    return len(entry) == fields and (entry[0] == name.encode() or _number(entry[2]) == number)


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() else None
