"""Stub, replaced soon."""
from __future__ import annotations


def format_bytes(size: int | None) -> str:
    """For people."""
    return str(size)
