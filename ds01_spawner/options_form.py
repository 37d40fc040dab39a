"""PURE: limits, devices and environments -> the form's model; a form or JSON -> a request.

REST bypasses the form, so `parse` is the wall: both ways end there, and it takes exactly
`{environment, gpu, count}`. `profile` is written by the hub for the admin panel and ignored on input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ds01_spawner.core.devices import FULL
from ds01_spawner.core.errors import Reason, Refusal
from ds01_spawner.core.grant import Availability, ClassAvailability
from ds01_spawner.core.limits import ResolvedLimits
from ds01_spawner.core.requests import GPU_SYNTAX, GpuRequest, Request, parse_gpu
from ds01_spawner.core.units import format_bytes

KEYS = ("environment", "gpu", "count")
#: No machine has more devices than this; a larger count is a mistake, whatever the limits say.
MOST_DEVICES = 64
CPU_ONLY = "none"


def parse(options: Mapping[str, Any], resolved: ResolvedLimits, environments: Sequence[str]) -> Request:
    """The request in a spawn's options. The first environment is the default. Raises Refusal; changes nothing."""
    given = {key: value for key, value in options.items() if key != "profile"}
    for key in given:
        if key == "image":
            raise _bad(
                "image", "an image can't be named directly. Choose an environment instead", allowed=list(environments)
            )
        if key not in KEYS:
            raise _bad(str(key)[:40], f"this option is unknown. Allowed are: {', '.join(KEYS)}", allowed=list(KEYS))
    gpu = _gpu(given.get("gpu"))
    return Request(
        _environment(given.get("environment"), resolved, environments), gpu, _count(given.get("count", 1), gpu)
    )


def _bad(key: str, message: str, **data: object) -> Refusal:
    return Refusal(Reason.OPTIONS, f"{key}: {message}.", key=key, **data)


def _gpu(value: object) -> GpuRequest | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise _bad("gpu", f"this must be text. Allowed: {GPU_SYNTAX}")
    return parse_gpu(value)


def _count(value: object, gpu: GpuRequest | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _bad("count", "this must be a whole number such as 1")
    if not 1 <= value <= MOST_DEVICES:
        raise _bad("count", f"this must be between 1 and {MOST_DEVICES}")
    if gpu is None and value != 1:
        raise _bad("count", "this counts GPU devices; without a GPU leave it at 1")
    return value


def _environment(value: object, resolved: ResolvedLimits, environments: Sequence[str]) -> str:
    allowed = allowed_environments(resolved, environments)
    if value is None and allowed:
        return allowed[0]
    if isinstance(value, str) and value in allowed:
        return value
    rule = str(resolved.source("environments")) if resolved.limits.environments is not None else "what this hub offers"
    shown = repr(value[:40]) if isinstance(value, str) else "this"
    raise Refusal(
        Reason.ENVIRONMENT,
        f"environment: {shown} is not an environment that you may start. "
        f"Allowed ({rule}): {', '.join(allowed) or 'none'}.",
        key="environment",
        allowed=list(allowed),
        rule=rule,
    )


def allowed_environments(resolved: ResolvedLimits, environments: Sequence[str]) -> tuple[str, ...]:
    """The environments that exist and that the user's limits allow, default first."""
    allowed = resolved.limits.environments
    return tuple(name for name in environments if allowed is None or name in allowed)


def from_form(form: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Form fields, lists of text, as options. Types are made here; what is allowed is decided by `parse`."""
    options: dict[str, Any] = {}
    for key, values in form.items():
        if key == "_xsrf":
            continue
        if len(values) != 1:
            raise _bad(str(key)[:40], "this was given more than once")
        options[key] = values[0]
    if options.get("gpu") in (CPU_ONLY, ""):
        options["gpu"] = None
    if "count" in options:
        options["count"] = _whole_number(options["count"])
    if options.get("gpu") is None:
        # The form always sends its count field; without a GPU it means nothing.
        options.pop("count", None)
    return options


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise _bad("count", "this must be a whole number such as 1")
    return int(text)


@dataclass(frozen=True, slots=True)
class Choice:
    """One line of the form's GPU list. `refused` says why it can't be chosen; empty where it can."""

    value: str
    label: str
    free: int = 0
    total: int = 0
    refused: str = ""


@dataclass(frozen=True, slots=True)
class FormModel:
    """What the spawn form shows: environments, GPUs with live availability, limits with their rules."""

    environments: tuple[str, ...]
    choices: tuple[Choice, ...]
    max_count: int
    limits: tuple[tuple[str, str, str], ...]
    simulated: bool = False
    notice: str = ""


def form_model(resolved: ResolvedLimits, environments: Sequence[str], offered: Availability) -> FormModel:
    """The form for one user. `offered` is what the allocator saw a moment ago."""
    most = max((found.total for found in offered.classes), default=1)
    allowed = resolved.limits.max_mig_instances
    return FormModel(
        allowed_environments(resolved, environments),
        (
            Choice(CPU_ONLY, "No GPU (CPU only)", refused=offered.cpu_refused),
            *(_choice(found, offered) for found in offered.classes),
        ),
        max(min(most, most if allowed is None else allowed), 1),
        _limit_rows(resolved),
        offered.simulated,
        f"No GPU can be given just now: {offered.frozen}." if offered.frozen else "",
    )


def _choice(found: ClassAvailability, offered: Availability) -> Choice:
    label = "Full GPU" if found.name == FULL else f"{found.name} MIG slice"
    # While nothing is given to anybody, the notice on top says why.
    refused = "not just now" if offered.frozen else found.refused
    return Choice(found.name, f"Simulated {label}" if offered.simulated else label, found.free, found.total, refused)


def _limit_rows(resolved: ResolvedLimits) -> tuple[tuple[str, str, str], ...]:
    limits = resolved.limits
    unlimited = "unlimited"
    rows = (
        ("CPUs", unlimited if limits.max_cpus is None else f"{float(limits.max_cpus):g}", "max_cpus"),
        ("Memory", unlimited if limits.memory is None else format_bytes(limits.memory), "memory"),
        (
            "GPU devices",
            unlimited if limits.max_mig_instances is None else str(limits.max_mig_instances),
            "max_mig_instances",
        ),
        (
            "Containers at once",
            unlimited if limits.max_containers_per_user is None else str(limits.max_containers_per_user),
            "max_containers_per_user",
        ),
    )
    return tuple((label, value, str(resolved.source(key))) for label, value, key in rows)


def summary(request: Request, resolved: ResolvedLimits) -> str:
    """One line for the admin panel's profile column: `base, 1 x 1g, 4 GiB, 2 CPUs`."""
    limits = resolved.limits
    memory = "no memory limit" if limits.memory is None else format_bytes(limits.memory)
    cpus = "all CPUs" if limits.max_cpus is None else f"{float(limits.max_cpus):g} CPUs"
    return f"{request.environment}, {request}, {memory}, {cpus}"
