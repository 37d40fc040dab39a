"""What a spawn asks for: an environment, and no GPU, a full GPU, a MIG class or a size of memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from ds01_spawner.core.errors import Reason, Refusal

_CLASS = re.compile(r"([1-7])g")
_AT_LEAST = re.compile(r">=([1-9][0-9]{0,3})GB")
GPU_SYNTAX = "nothing (CPU only), 'full', a MIG class from '1g' to '7g', or a size such as '>=20GB'"


class GpuKind(StrEnum):
    """The three ways to ask for a GPU."""

    FULL = "full"
    MIG_CLASS = "class"
    AT_LEAST = "at-least"


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """One kind of device. `amount`: compute slices for a class, gigabytes (10^9 bytes) for a size, else 0."""

    kind: GpuKind
    amount: int = 0

    def __str__(self) -> str:
        if self.kind is GpuKind.FULL:
            return "full"
        return f"{self.amount}g" if self.kind is GpuKind.MIG_CLASS else f">={self.amount}GB"


def parse_gpu(text: str) -> GpuRequest:
    """Read `full`, `1g` … `7g` or `>=20GB`; anything else is a `Refusal` that says what is allowed."""
    if text == "full":
        return GpuRequest(GpuKind.FULL)
    if found := _CLASS.fullmatch(text):
        return GpuRequest(GpuKind.MIG_CLASS, int(found[1]))
    if found := _AT_LEAST.fullmatch(text):
        return GpuRequest(GpuKind.AT_LEAST, int(found[1]))
    raise Refusal(Reason.OPTIONS, f"gpu: {text[:40]!r} is not a GPU request. Allowed: {GPU_SYNTAX}.", key="gpu")


@dataclass(frozen=True, slots=True)
class Request:
    """What one spawn asks for. `count` is the number of devices; it is 1 where `gpu` is None and then means nothing."""

    environment: str
    gpu: GpuRequest | None = None
    count: int = 1

    @property
    def devices(self) -> int:
        """How many devices this asks for."""
        return self.count if self.gpu else 0

    def __str__(self) -> str:
        return "CPU only" if self.gpu is None else f"{self.count} x {self.gpu}"
