"""What one user may have, resolved, and where each value came from.

Three things differ: a key that is absent inherits, `None` means unlimited, and a value is a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class SharedFolder:
    """A host folder that a group sees under `/shared/<name>`."""

    name: str
    path: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """The rule that set a value: `user_overrides.alice`, `groups.students`, `defaults`, `built-in` or `host`."""

    rule: str
    line: int | None = None

    def __str__(self) -> str:
        return self.rule if self.line is None else f"{self.rule} (line {self.line})"


BUILT_IN = Source("built-in")


@dataclass(frozen=True, slots=True)
class Limits:
    """One user's limits. Sizes in bytes, durations in seconds, CPUs and GPU-equivalents exact; None is unlimited.

    The values here are the built-in ones: they hold where the YAML says nothing at all.
    """

    max_mig_instances: int | None = 1
    max_gpu_equivalents: Fraction | None = None
    allow_full_gpu: bool = True
    max_cpus: Fraction | None = Fraction(2)
    memory: int | None = 4 << 30
    memory_swap: int | None = 4 << 30
    shm_size: int | None = 64 << 20
    pids_limit: int | None = 4096
    storage_tmp: int | None = 1 << 30
    max_containers_per_user: int | None = 3
    idle_timeout: float | None = None
    max_runtime: float | None = None
    gpu_hold_after_stop: float | None = 0.0
    priority: int = 10
    environments: tuple[str, ...] | None = None
    share: int = 1
    shared: tuple[SharedFolder, ...] = ()


@dataclass(frozen=True, slots=True)
class ResolvedLimits:
    """`limits` of `user` with the source of every key, the group that counted and what the admin should know."""

    user: str
    group: str | None
    limits: Limits
    sources: Mapping[str, Source] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reason: str = ""

    def source(self, key: str) -> Source:
        """The rule behind one key."""
        return self.sources.get(key, BUILT_IN)
