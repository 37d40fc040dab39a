"""The error tree and the closed set of reasons."""

from __future__ import annotations

import pytest

from ds01_spawner.core import errors
from ds01_spawner.core.errors import HTTP_STATUS, ConfigError, DS01Error, Reason, Refusal


def test_every_reason_has_a_status_that_the_hub_may_answer() -> None:
    """4xx where the request must change, 5xx where it was not the request."""
    assert set(HTTP_STATUS) == set(Reason)
    assert set(HTTP_STATUS.values()) <= {400, 403, 500, 503}


def test_a_refusal_carries_reason_text_and_values() -> None:
    """The text is for the user, the values for the form and the API."""
    refusal = Refusal(Reason.BUSY, "All in use.", asked="1g", allowed=7)
    assert (str(refusal), refusal.message, refusal.http_status) == ("All in use.", "All in use.", 503)
    assert refusal.data == {"asked": "1g", "allowed": 7}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("no", file="f.yaml", line=3, key="memory"), "f.yaml:3: memory: no"),
        (ConfigError("no", file="f.yaml"), "f.yaml: no"),
        (ConfigError("no", key="DS01_PORT"), "DS01_PORT: no"),
        (ConfigError("no"), "no"),
    ],
)
def test_a_configuration_error_says_where(error: ConfigError, text: str) -> None:
    """Path and line first, as compilers do; parts that are unknown leave no gap."""
    assert str(error) == text


def test_an_engines_refusal_has_its_status() -> None:
    """404 and 409 lead to different next steps."""
    assert errors.EngineRefused("no such image", 404).status == 404


def test_all_errors_of_ours_have_one_base() -> None:
    """One `except` at each border catches what was raised on purpose, and nothing else."""
    ours = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, Exception)]
    assert len(ours) > 8
    assert all(issubclass(item, DS01Error) for item in ours)
