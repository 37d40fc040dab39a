"""Which uid a user's processes have."""

from __future__ import annotations

import pwd
from collections.abc import Callable

import pytest

from ds01_spawner.adapters.identity import Identity, identity_of
from ds01_spawner.core.errors import LeaseConflict, Reason, Refusal

ACCOUNTS = {
    name: pwd.struct_passwd((name, "x", uid, gid, "", "/", "/bin/sh"))
    for name, uid, gid in (
        ("root", 0, 0), ("toor", 0, 5), ("daemon", 1, 1), ("nobody", 65534, 65534), ("wheel", 1500, 0),
        ("alice", 1001, 100), ("far", 1_700_000_000, 1_700_000_000), ("squatter", 200_005, 200_005),
    )
}  # fmt: skip


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with these accounts."""
    by_uid = {account.pw_uid: account for account in ACCOUNTS.values()}
    monkeypatch.setattr(pwd, "getpwnam", lambda name: ACCOUNTS[name])
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: by_uid[uid])


def gives(uid: int) -> Callable[[int | None], int]:
    """A ledger that knows this user already, or gives this number next."""
    return lambda wanted: uid if wanted is None else wanted


@pytest.mark.parametrize(("user", "uid", "gid"), [("alice", 1001, 100), ("far", 1_700_000_000, 1_700_000_000)])
def test_a_system_account_counts(user: str, uid: int, gid: int) -> None:
    """Its files on this machine stay its own; the ledger is told the uid."""
    assert identity_of(user, gives(200_000)) == Identity(uid, gid, system=True)


@pytest.mark.parametrize("user", ["a.b@dom", "12345", "x" * 64])
def test_without_an_account_the_ledgers_id_counts(user: str) -> None:
    """A stable id of its own, and a group of the same number."""
    assert identity_of(user, gives(200_001)) == Identity(200_001, 200_001, system=False)


@pytest.mark.parametrize("user", ["root", "toor", "daemon", "nobody", "wheel"])
def test_the_systems_own_accounts_are_refused(user: str) -> None:
    """Nobody is root, a service, nobody, or in root's group, because of a user's name; the ledger isn't asked."""
    asked: list[int | None] = []

    def stable(wanted: int | None) -> int:
        asked.append(wanted)
        return 1

    with pytest.raises(Refusal) as refusal:
        identity_of(user, stable)
    assert refusal.value.reason is Reason.IDENTITY
    assert asked == []


def test_an_id_that_belongs_to_an_account_is_not_given_to_another_user() -> None:
    """A number from the ledger that some account has is refused."""
    with pytest.raises(Refusal, match="squatter"):
        identity_of("carol", gives(200_005))


def test_an_accounts_uid_that_the_ledger_gave_to_somebody_else_is_refused() -> None:
    """Two people never share a uid, whoever came first."""

    def stable(wanted: int | None) -> int:
        raise LeaseConflict(f"uid {wanted} is bob's")

    with pytest.raises(Refusal, match="another user's"):
        identity_of("alice", stable)


def test_a_name_that_can_be_no_account_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own error is not shown."""

    def impossible(name: str) -> pwd.struct_passwd:
        raise ValueError("embedded null byte")

    monkeypatch.setattr(pwd, "getpwnam", impossible)
    with pytest.raises(Refusal):
        identity_of("a\0b", gives(5000))
