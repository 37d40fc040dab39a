"""What a spawn may ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.errors import Reason, Refusal
from ds01_spawner.core.requests import GPU_SYNTAX, GpuKind, GpuRequest, Request, parse_gpu

REQUESTS = (
    st.just(GpuRequest(GpuKind.FULL))
    | st.builds(GpuRequest, st.just(GpuKind.MIG_CLASS), st.integers(1, 7))
    | st.builds(GpuRequest, st.just(GpuKind.AT_LEAST), st.integers(1, 9999))
)


@given(REQUESTS)
def test_a_request_reads_back_from_its_text(request: GpuRequest) -> None:
    """`full`, `3g` and `>=20GB` are each one kind of device."""
    assert parse_gpu(str(request)) == request


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0g",
        "8g",
        "9g",
        "-1g",
        "2",
        "2G",
        "FULL",
        "full ",
        "1g\n",
        ">=0GB",
        ">=20gb",
        ">20GB",
        ">=20000GB",
        "٣g",
        "MIG-12",
        "0",
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    """Neither a device id nor a profile nor a bare number is a request."""
    with pytest.raises(Refusal) as refused:
        parse_gpu(text)
    assert refused.value.reason is Reason.OPTIONS
    assert GPU_SYNTAX in refused.value.message
    assert refused.value.data == {"key": "gpu"}


def test_a_long_text_is_cut_in_the_refusal() -> None:
    """Nobody fills the log through a refusal."""
    with pytest.raises(Refusal) as refused:
        parse_gpu("9" * 10_000)
    assert len(refused.value.message) < 250


def test_how_many_devices_a_request_means() -> None:
    """Without a GPU the count means nothing."""
    two = Request("base", GpuRequest(GpuKind.MIG_CLASS, 1), 2)
    assert (Request("base").devices, two.devices) == (0, 2)
    assert (str(Request("base")), str(two)) == ("CPU only", "2 x 1g")
