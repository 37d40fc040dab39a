"""The wall: what a form or REST may ask for, and how a refusal reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ds01_spawner.core.errors import Reason, Refusal
from ds01_spawner.core.grant import Availability, ClassAvailability
from ds01_spawner.core.limits import Limits, ResolvedLimits, Source
from ds01_spawner.core.requests import GpuKind, GpuRequest, Request
from ds01_spawner.options_form import form_model, from_form, parse, summary

ENVIRONMENTS = ("base", "alice/thesis-image")
ANYTHING = ResolvedLimits("ana", None, Limits())
ONLY_BASE = ResolvedLimits(
    "ana", "students", Limits(environments=("base",)), {"environments": Source("groups.students", 9)}
)


def test_no_options_mean_the_default_environment_without_gpu() -> None:
    """An empty body is a valid request."""
    assert parse({}, ANYTHING, ENVIRONMENTS) == Request("base")


def test_a_whole_request() -> None:
    """The three keys are read; the hub's own `profile` is ignored."""
    options = {"environment": "base", "gpu": "1g", "count": 2, "profile": "whatever"}
    assert parse(options, ANYTHING, ENVIRONMENTS) == Request("base", GpuRequest(GpuKind.MIG_CLASS, 1), 2)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cpus": 64}, Reason.OPTIONS),
        ({"image": "evil:latest"}, Reason.OPTIONS),
        ({"devices": ["MIG-1"]}, Reason.OPTIONS),
        ({"gpu": "MIG-5c7a"}, Reason.OPTIONS),
        ({"gpu": 1}, Reason.OPTIONS),
        ({"gpu": ["1g"]}, Reason.OPTIONS),
        ({"gpu": "9g"}, Reason.OPTIONS),
        ({"gpu": "-1g"}, Reason.OPTIONS),
        ({"gpu": "1g", "count": "2"}, Reason.OPTIONS),
        ({"gpu": "1g", "count": True}, Reason.OPTIONS),
        ({"gpu": "1g", "count": -1}, Reason.OPTIONS),
        ({"gpu": "1g", "count": 0}, Reason.OPTIONS),
        ({"gpu": "1g", "count": 10**30}, Reason.OPTIONS),
        ({"gpu": "1g", "count": float("nan")}, Reason.OPTIONS),
        ({"gpu": "1g", "count": None}, Reason.OPTIONS),
        ({"count": 2}, Reason.OPTIONS),
        ({"environment": "bob/private-image"}, Reason.ENVIRONMENT),
        ({"environment": 7}, Reason.ENVIRONMENT),
        ({"environment": "alice/thesis-image"}, Reason.ENVIRONMENT),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options: dict[str, Any], reason: Reason) -> None:
    """Each refusal has its reason and says what would work."""
    with pytest.raises(Refusal) as refusal:
        parse(options, ONLY_BASE, ENVIRONMENTS)
    assert refusal.value.reason is reason
    assert any(word in refusal.value.message for word in ("Allowed", "must be", "Choose", "leave it"))


def test_no_environment_at_all_is_said() -> None:
    """A user who may start nothing is told so."""
    with pytest.raises(Refusal, match="none"):
        parse({}, ONLY_BASE, ("other",))


def test_form_fields_become_options() -> None:
    """Lists of text become one value each; the form's token is not an option."""
    form = {"environment": ["base"], "gpu": ["1g"], "count": ["2"], "_xsrf": ["x"]}
    assert from_form(form) == {"environment": "base", "gpu": "1g", "count": 2}


def test_form_without_gpu_drops_the_count() -> None:
    """The count field is always sent; it means nothing without a GPU."""
    assert from_form({"gpu": ["none"], "count": ["3"]}) == {"gpu": None}


@pytest.mark.parametrize("form", [{"count": ["two"]}, {"count": ["-1"]}, {"count": ["9999"]}, {"gpu": ["1g", "2g"]}])
def test_malformed_fields_are_refused(form: dict[str, list[str]]) -> None:
    """A form can be forged as well as REST."""
    with pytest.raises(Refusal):
        from_form(form)


def test_form_says_why_something_is_not_allowed() -> None:
    """Every choice that can't be taken has its reason beside it, in the allocator's own words."""
    offered = Availability((ClassAvailability("1g", 0, 7, "all in use"), ClassAvailability("full", 4, 4)))
    model = form_model(ANYTHING, ENVIRONMENTS, replace(offered, simulated=True))
    assert [(c.value, c.refused) for c in model.choices] == [("none", ""), ("1g", "all in use"), ("full", "")]
    assert model.choices[1].label.startswith("Simulated 1g MIG slice")
    assert model.max_count == 1


def test_form_while_no_gpu_is_given() -> None:
    """A freeze is told on top, with its reason."""
    model = form_model(ANYTHING, ENVIRONMENTS, Availability(frozen="the engine doesn't answer"))
    assert "the engine doesn't answer" in model.notice


def test_unlimited_is_written_as_a_word() -> None:
    """None is "unlimited" for people, in the form and in the admin panel's line."""
    limits = Limits(max_cpus=None, memory=None, max_mig_instances=None, max_containers_per_user=None)
    model = form_model(ResolvedLimits("a", None, limits), ENVIRONMENTS, Availability((ClassAvailability("1g", 7, 7),)))
    assert {value for _, value, _ in model.limits} == {"unlimited"}
    assert model.max_count == 7
    assert summary(Request("base"), ResolvedLimits("a", None, limits)) == "base, CPU only, no memory limit, all CPUs"
