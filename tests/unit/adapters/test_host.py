"""The machine's size, and users' folders among hostile owners."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ds01_spawner.adapters.host import UserFolders, read_host
from ds01_spawner.core.errors import ConfigError, Reason, Refusal

ME, MINE = os.getuid(), os.getgid()
needs_root = pytest.mark.skipif(ME != 0, reason="only root gives folders away")
ALICE, BOB = 200_001, 200_002


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    """A machine with 1,000 MiB."""
    file = tmp_path / "meminfo"
    file.write_text("MemFree: 1 kB\nMemTotal:    1024000 kB\n")
    return file


def test_the_reserve_is_a_part_of_the_memory(meminfo: Path) -> None:
    """A tenth of 1,000 MiB is kept for the host."""
    host = read_host(0.1, meminfo=meminfo, limits=())
    assert (host.memory, host.memory_reserve, host.for_containers) == (1000 << 20, 100 << 20, 900 << 20)
    assert host.cpus == os.cpu_count()


@pytest.mark.parametrize(
    ("limit", "memory"), [("524288000\n", 500 << 20), ("max\n", 1000 << 20), ("9223372036854771712\n", 1000 << 20)]
)
def test_a_machine_that_is_a_container_has_its_containers_memory(
    meminfo: Path, tmp_path: Path, limit: str, memory: int
) -> None:
    """The smaller of the two counts; no limit is none."""
    (tmp_path / "memory.max").write_text(limit)
    files = (tmp_path / "no-such-file", tmp_path / "memory.max")
    assert read_host(0, meminfo=meminfo, limits=files).memory == memory


@pytest.mark.parametrize("reserve", [-0.1, 1.0, 10.0])
def test_an_impossible_reserve_is_refused(meminfo: Path, reserve: float) -> None:
    """Bytes or percent given by mistake are seen."""
    with pytest.raises(ConfigError):
        read_host(reserve, meminfo=meminfo)


def test_this_machine_can_be_read() -> None:
    """The real files are where they are looked for."""
    assert read_host(0).memory > 64 << 20


def test_a_machine_that_says_nothing_is_an_error(tmp_path: Path) -> None:
    """No number is made up."""
    (tmp_path / "meminfo").write_text("MemFree: 1 kB\n")
    with pytest.raises(ConfigError):
        read_host(0, meminfo=tmp_path / "meminfo")


def test_folders_are_private_and_made_once(tmp_path: Path) -> None:
    """0700 whatever the umask is; a second start finds them as they are."""
    folders = UserFolders(tmp_path / "state").ensure("alice", ME, MINE)
    assert folders.home == tmp_path / "state/users/alice/home"
    assert folders.workspace == tmp_path / "state/users/alice/workspace"
    assert [oct(path.stat().st_mode & 0o777) for path in (folders.home, folders.workspace)] == ["0o700", "0o700"]
    (folders.home / "thesis.tex").write_text("x")
    folders.home.chmod(0o750)
    assert UserFolders(tmp_path / "state").ensure("alice", ME, MINE) == folders
    assert oct(folders.home.stat().st_mode & 0o777) == "0o750"  # the owner's own choice
    assert (folders.home / "thesis.tex").read_text() == "x"


@needs_root
def test_folders_are_the_users_and_those_above_the_hubs(tmp_path: Path) -> None:
    """A user can't replace what lies above."""
    folders = UserFolders(tmp_path).ensure("alice", ALICE, 300_000)
    found = folders.home.stat()
    assert (found.st_uid, found.st_gid) == (ALICE, 300_000)
    above = folders.home.parent.stat()
    assert (above.st_uid, above.st_mode & 0o777) == (0, 0o700)


@needs_root
def test_what_is_inside_is_never_touched(tmp_path: Path) -> None:
    """Neither owner nor mode of anything inside changes, and no link is followed."""
    secret = tmp_path / "secret"
    secret.write_text("root's")
    folders = UserFolders(tmp_path / "state").ensure("alice", ALICE, ALICE)
    (folders.home / "link").symlink_to(secret)
    (folders.home / "root-made").write_text("x")
    UserFolders(tmp_path / "state").ensure("alice", ALICE, ALICE)
    assert secret.stat().st_uid == 0
    assert (folders.home / "root-made").stat().st_uid == 0


@needs_root
def test_a_folder_of_somebody_else_is_refused_and_stays(tmp_path: Path) -> None:
    """A changed uid never gives one person's files to another."""
    folders = UserFolders(tmp_path).ensure("alice", ALICE, ALICE)
    with pytest.raises(Refusal) as refusal:
        UserFolders(tmp_path).ensure("alice", BOB, BOB)
    assert refusal.value.reason is Reason.IDENTITY
    assert folders.home.stat().st_uid == ALICE


@needs_root
def test_a_folder_that_was_not_given_away_yet_is_given_now(tmp_path: Path) -> None:
    """The hub ended between making a folder and giving it away; the next start completes it."""
    home = tmp_path / "users/alice/home"
    home.mkdir(parents=True)
    home.chmod(0o755)
    folders = UserFolders(tmp_path).ensure("alice", ALICE, ALICE)
    assert (folders.home.stat().st_uid, folders.home.stat().st_mode & 0o777) == (ALICE, 0o700)


@pytest.mark.parametrize("where", ["users", "users/alice", "users/alice/home", "users/alice/workspace"])
def test_a_link_in_the_place_of_a_folder_is_refused(tmp_path: Path, where: str) -> None:
    """Nothing is made, or given away, where a link leads."""
    target = tmp_path / "elsewhere"
    target.mkdir()
    link = tmp_path / "state" / where
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    with pytest.raises(ConfigError):
        UserFolders(tmp_path / "state").ensure("alice", ME, MINE)
    assert list(target.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    """It isn't removed: it may be somebody's."""
    (tmp_path / "users").write_text("x")
    with pytest.raises(ConfigError):
        UserFolders(tmp_path).ensure("alice", ME, MINE)
    assert (tmp_path / "users").read_text() == "x"


@pytest.mark.parametrize("where", ["", "users", "users/alice"])
def test_a_folder_above_that_others_can_write_is_refused(tmp_path: Path, where: str) -> None:
    """Whoever can write there could put a link in."""
    folder = tmp_path / "state" / where
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(ConfigError):
        UserFolders(tmp_path / "state").ensure("alice", ME, MINE)


@pytest.mark.parametrize("slug", ["", ".", "..", "a/b", "../x", "a\0b"])
def test_a_slug_is_one_folder(tmp_path: Path, slug: str) -> None:
    """The last line behind `core.names`."""
    with pytest.raises(ValueError, match="not a folder's name"):
        UserFolders(tmp_path).ensure(slug, ME, MINE)
