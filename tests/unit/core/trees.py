"""Limits files as tests write them: YAML text in, a tree or a policy of the pure core out."""

from __future__ import annotations

from textwrap import dedent

from ds01_spawner.adapters.quota_yaml import read_tree
from ds01_spawner.core.quota import parse, read
from ds01_spawner.core.quota_policy import QuotaPolicy

FILE = "limits.yaml"


def policy_of(text: str) -> QuotaPolicy:
    """The policy in a YAML text. Raises ConfigError."""
    return parse(read_tree(dedent(text), FILE), file=FILE)


def problems_of(text: str) -> list[tuple[int | None, str, str]]:
    """Line, key and message of everything that is wrong in a YAML text."""
    _, findings = read(read_tree(dedent(text), FILE), file=FILE)
    return [(finding.line, finding.key, finding.message) for finding in findings]
