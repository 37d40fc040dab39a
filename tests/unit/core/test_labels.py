"""Signed labels: what is ours and what isn't."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ds01_spawner.core import labels
from ds01_spawner.core.leases import Owner
from tests.fakes.values import INSTANCE, KEY, a_lease, signed, slice_at, view_of

NAME = "main._.ana.x"
_texts = st.dictionaries(st.sampled_from(["ds01.user", "ds01.server", "ds01.lease", "ds01.new"]), st.text(), min_size=1)


def test_labels_tell_whose_container_it_is_and_of_which_lease() -> None:
    """What the reconciler reads back is what was written."""
    lease = a_lease(owner=Owner("ana", "gpu"), devices=(slice_at(0), slice_at(3)))
    made = labels.of_lease(lease, instance=INSTANCE, environment="base", spec="abc")
    assert labels.owner_of(made) == lease.owner
    assert labels.devices_of(made) == tuple(device.uuid for device in lease.devices)
    assert (made[labels.LEASE], made[labels.INSTANCE]) == ("L1", INSTANCE)
    assert (made[labels.ENVIRONMENT], made[labels.SPEC]) == ("base", "abc")
    assert labels.devices_of(labels.of_lease(a_lease(devices=()), instance=INSTANCE)) == ()
    assert labels.owner_of({}) == Owner("")


@given(_texts, st.binary(min_size=1))
def test_what_was_signed_verifies(values: dict[str, str], key: bytes) -> None:
    """Any labels, any key; labels of others beside ours don't matter."""
    made = labels.sign(values, key, name=NAME)
    assert labels.verify(made, key, name=NAME)
    assert labels.verify({**made, "org.other": "x"}, key, name=NAME)


@given(_texts, _texts)
def test_any_change_of_ours_is_seen(values: dict[str, str], changes: dict[str, str]) -> None:
    """A label changed or added, and the signature is worth nothing."""
    assume({**values, **changes} != values)
    made = labels.sign(values, KEY, name=NAME)
    assert not labels.verify({**made, **changes}, KEY, name=NAME)


@given(_texts)
def test_any_removal_is_seen(values: dict[str, str]) -> None:
    """A label taken away is a change too; without a signature nothing verifies."""
    made = labels.sign(values, KEY, name=NAME)
    for label in made:
        assert not labels.verify({k: v for k, v in made.items() if k != label}, KEY, name=NAME)


@pytest.mark.parametrize("signature", ["", "0" * 64, "ä", "\ud800"])
def test_a_made_up_signature_is_refused(signature: str) -> None:
    """Whatever text stands there, also one that is no ASCII."""
    try:
        made = {**signed(a_lease()), labels.SIGNATURE: signature}
        assert not labels.verify(made, KEY, name=NAME)
    except UnicodeEncodeError:
        pytest.fail("a label must not break the check")


def test_trust_needs_our_instance_our_key_and_its_own_name() -> None:
    """Labels copied to another container, of another install or with another key are not believed."""
    view = view_of(a_lease())
    assert labels.trusts(view, instance=INSTANCE, key=KEY)
    assert not labels.trusts(replace(view, name="main._.ana.copy"), instance=INSTANCE, key=KEY)
    assert not labels.trusts(view, instance="other", key=KEY)
    assert not labels.trusts(view, instance=INSTANCE, key=b"another key")
    assert not labels.trusts(replace(view, labels={}), instance=INSTANCE, key=KEY)
