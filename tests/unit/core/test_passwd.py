"""Passwd and group files for a container: the image's entries and one person more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.errors import Reason, Refusal
from ds01_spawner.core.passwd import with_user

IMAGE_PASSWD = b"root:x:0:0:root:/root:/bin/sh\njovyan:x:1000:100::/home/jovyan:/bin/sh\nsshd:x:100:65534::/run:/no\n"
IMAGE_GROUP = b"root:x:0:\nusers:x:100:\nssh:x:101:alice\n"


def added(name: str, uid: int = 200_001, gid: int = 200_001) -> tuple[bytes, bytes]:
    return with_user(IMAGE_PASSWD, IMAGE_GROUP, name, uid, gid, f"/home/{name}", "/bin/bash")


def test_the_images_own_entries_stay_and_the_user_is_last() -> None:
    """The image's accounts still have names, and the user has one too."""
    passwd, group = added("alice")
    assert passwd == IMAGE_PASSWD + b"alice:x:200001:200001::/home/alice:/bin/bash\n"
    assert group == IMAGE_GROUP + b"alice:x:200001:\n"


@pytest.mark.parametrize("name", ["a.b@dom", "12345", "x" * 64, "Müller"])
def test_odd_names_make_valid_entries(name: str) -> None:
    """Names of directories and federations are one entry with seven fields."""
    passwd, group = added(name, 1_700_000_000)
    assert passwd.splitlines()[-1].split(b":") == [
        name.encode(), b"x", b"1700000000", b"200001", b"", f"/home/{name}".encode(), b"/bin/bash"
    ]  # fmt: skip
    assert group.splitlines()[-1] == f"{name}:x:200001:".encode()


def test_an_entry_with_the_same_uid_goes() -> None:
    """A uid has one name, the user's, and not the one that the image's author used."""
    passwd, group = added("alice", 1000, 100)
    assert b"jovyan" not in passwd
    assert b"users" not in group
    assert b"sshd:x:100:" in passwd  # a gid of the user's is no uid of another


def test_an_entry_with_the_same_name_goes() -> None:
    """A name has one uid."""
    passwd, _ = added("jovyan")
    assert [line for line in passwd.splitlines() if line.startswith(b"jovyan:")] == [
        b"jovyan:x:200001:200001::/home/jovyan:/bin/bash"
    ]


def test_what_is_no_entry_stays_and_a_missing_last_line_end_is_made() -> None:
    """Nothing of the image's is glued to the user's line or lost."""
    passwd, _ = with_user(b"# kept\nalice\nodd:x:no:0::/:/\nroot:x:0:0::/:/", b"", "alice", 5000, 5000, "/h", "/b")
    assert passwd == b"# kept\nalice\nodd:x:no:0::/:/\nroot:x:0:0::/:/\nalice:x:5000:5000::/h:/b\n"


def test_an_image_without_the_files_gets_root_and_the_user() -> None:
    """Programs find root even where the image has no passwd at all."""
    passwd, group = with_user(b"", b"", "alice", 5000, 5001, "/h", "/b")
    assert passwd == b"root:x:0:0:root:/root:/bin/sh\nalice:x:5000:5001::/h:/b\n"
    assert group == b"root:x:0:\nalice:x:5001:\n"


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "a\rb", "a\0b", "-rf", "+nis", "root", "x" * 129])
def test_a_name_that_would_break_the_file_is_refused(name: str) -> None:
    """No name adds a field, a line or a second root."""
    with pytest.raises(Refusal) as refusal:
        added(name)
    assert refusal.value.reason is Reason.IDENTITY


@pytest.mark.parametrize(("home", "shell"), [("/home/a:b", "/bin/sh"), ("/home/a", "/bin/sh\nroot2:x:0:0::/:/bin/sh")])
def test_a_path_that_would_break_the_file_is_refused(home: str, shell: str) -> None:
    """The other fields are checked as well."""
    with pytest.raises(Refusal):
        with_user(IMAGE_PASSWD, IMAGE_GROUP, "alice", 5000, 5000, home, shell)


@pytest.mark.parametrize(("uid", "gid"), [(0, 5), (5, 0), (-1, 5), ((1 << 32) - 1, 5), (5, 1 << 32)])
def test_root_and_impossible_ids_are_refused(uid: int, gid: int) -> None:
    """Nobody becomes root by a number."""
    with pytest.raises(Refusal):
        added("alice", uid, gid)


@given(st.text(min_size=1, max_size=64), st.integers(-10, 1 << 33), st.binary(max_size=200))
def test_whatever_is_accepted_names_the_uid_once_and_is_the_only_change_of_root(
    name: str, uid: int, image: bytes
) -> None:
    """For every name, uid and image: refused, or exactly one entry has that uid, with that name and seven fields."""
    try:
        passwd, _ = with_user(image + b"\n" + IMAGE_PASSWD, IMAGE_GROUP, name, uid, 4242, "/home/x", "/bin/sh")
    except Refusal:
        return
    entries = [line.split(b":") for line in passwd.split(b"\n") if line.count(b":") == 6]
    mine = [entry for entry in entries if entry[2].isdigit() and int(entry[2]) == uid]
    assert [entry[0] for entry in mine] == [name.encode()]
    assert [entry for entry in entries if entry[0] == name.encode()] == mine
    assert [b"root", b"x", b"0", b"0", b"root", b"/root", b"/bin/sh"] in entries
