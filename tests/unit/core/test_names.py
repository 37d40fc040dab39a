"""Slugs: always valid, never shared."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jupyterhub.slugs import is_valid_safe_slug

from ds01_spawner.core.errors import Reason, Refusal
from ds01_spawner.core.names import MAX_NAME, container_slug, engine_name, project_slug, user_slug

LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._@+~-]{0,127}", fullmatch=True)
SIMILAR = st.text("aA-_.x0", min_size=1, max_size=6).map(lambda text: "a" + text)
VALID = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,6}){0,3}", fullmatch=True).filter(lambda name: len(name) <= 30)
HOSTILE = [
    "",
    "../x",
    "..",
    ".hidden",
    "-rf",
    "a" * 300,
    "\u0430lice",  # a Cyrillic a
    "alic\u0435",
    "\uff41lice",  # a full-width a
    "al\u200bice",  # a zero-width space
    "\u202eecila",  # right to left
    "a\x00b",
    "a\nb",
    "alice\n",
    "a/b",
    "bob%2f",
    ";id",
    "$(id)",
    "a;id",
    "caf\u00e9",
]


@pytest.mark.parametrize("slug", [user_slug, container_slug, project_slug])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_with_the_rule(slug: object, name: str) -> None:
    """No path, option, look-alike, invisible or control character gets through, and the refusal says what would."""
    assert callable(slug)
    with pytest.raises(Refusal) as refused:
        slug(name)
    assert refused.value.reason is Reason.OPTIONS
    assert f"Allowed are 1 to {MAX_NAME} characters: the letters a to z, digits" in refused.value.message
    assert refused.value.message.isascii()
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 400


@pytest.mark.parametrize("name", ["a.b@dom", "12345", "u" * 64, "_svc", "Alice", "a+b", "x" * 128])
def test_unusual_user_names_work(name: str) -> None:
    """Mail addresses, numbers and long names are real user names."""
    slug = user_slug(name)
    assert LABEL.fullmatch(slug)
    assert len(slug) <= 40
    assert slug != name


def test_simple_names_stay() -> None:
    """Who is called alice finds alice everywhere."""
    assert [user_slug("alice"), container_slug("my-thesis"), project_slug("nlp2")] == ["alice", "my-thesis", "nlp2"]


def test_titles_may_have_spaces() -> None:
    """A project's pretty name becomes a readable slug with the hash of what was written."""
    assert re.fullmatch(r"my-thesis-x[0-9a-f]{10}", project_slug("My  Thesis"))
    assert re.fullmatch(r"n-2024-x[0-9a-f]{10}", container_slug("2024"))
    assert re.fullmatch(r"n-x[0-9a-f]{10}", container_slug("___"))
    with pytest.raises(Refusal):
        user_slug("a b")


@given(NAMES)
def test_user_slugs_are_dns_labels(name: str) -> None:
    """Whatever the hub accepts as a name fits tags, host names and folders."""
    assert LABEL.fullmatch(user_slug(name))
    assert "--" not in user_slug(name)


@given(NAMES)
def test_container_slugs_are_what_the_hub_takes(name: str) -> None:
    """JupyterHub's own check of server names accepts every slug."""
    assert is_valid_safe_slug(container_slug(name))


@given(SIMILAR | NAMES, SIMILAR | NAMES)
def test_two_users_never_share_a_slug(one: str, other: str) -> None:
    """Names that differ in case or punctuation alone stay apart."""
    assume(one != other)
    assert user_slug(one) != user_slug(other)


@given(NAMES)
def test_nobody_can_be_called_as_another_users_slug(name: str) -> None:
    """A user named like the hashed slug of another gets a hash too."""
    slug = user_slug(name)
    if slug != name:
        assert user_slug(slug) != slug


@given(VALID)
def test_a_valid_server_name_is_its_own_slug(name: str) -> None:
    """A slug that is typed again means the same container, also one that was made from a title."""
    assert container_slug(name) == name == project_slug(name)
    assert container_slug(container_slug(name + " X")) == container_slug(name + " X")


@given(VALID, st.integers(0, 1 << 32), st.text("0123456789abcdef", min_size=8, max_size=8))
def test_engine_names_carry_server_uid_and_nonce(server: str, uid: int, nonce: str) -> None:
    """Readable for an admin, and valid for the engine."""
    name = engine_name(server, uid, nonce)
    assert name == f"{server}._.{uid}.{nonce}"
    assert set(name) <= set(string.ascii_lowercase + string.digits + "_.-")


def test_the_default_server_is_called_main() -> None:
    """The hub's name for it is empty, which no engine takes; high uids work."""
    assert engine_name("", 1_700_000_000, "0123abcd") == "main._.1700000000.0123abcd"


@pytest.mark.parametrize(("uid", "nonce"), [(1, "0123abc"), (1, "0123ABCD"), (1, "../12345"), (-1, "0123abcd")])
def test_engine_names_are_made_of_checked_parts(uid: int, nonce: str) -> None:
    """A short nonce could be guessed; a negative uid is nobody."""
    with pytest.raises(ValueError, match="8 hexadecimal digits"):
        engine_name("main", uid, nonce)
