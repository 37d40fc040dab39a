"""What the bench measures, how pairs are compared, and how figures are written down.

A figure has samples of ours and, where there is a peer, of stock DockerSpawner, taken in turns: pair n is one of
each, right after one another, so that whatever else the machine does meets both. The ratio is the median of the
pairs' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

DOCS = Path(__file__).resolve().parents[2] / "docs"


@dataclass(frozen=True)
class Goal:
    """What a figure has to be, in words; `holds` is asked with the ratio, or the median where there is no peer."""

    text: str
    holds: Callable[[float], bool]


@dataclass(frozen=True)
class Figure:
    """Samples in `unit`. `stock` is empty where nothing can be compared.

    `by_stock` turns the ratio around: how many times as fast ours is. `of_median` marks a goal for our median itself.
    """

    name: str
    counted: str
    unit: str
    ours: Sequence[float]
    stock: Sequence[float] = ()
    goal: Goal | None = None
    by_stock: bool = False
    of_median: bool = False
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """The median of the pairs' ratios: ours by stock's, or stock's by ours where `by_stock` is set."""
        if not self.stock:
            return None
        pairs = zip(self.ours, self.stock, strict=True)
        return statistics.median(stock / ours if self.by_stock else ours / stock for ours, stock in pairs)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.goal is None:
            return None
        ratio = None if self.of_median else self.ratio
        return self.goal.holds(statistics.median(self.ours) if ratio is None else ratio)

    def as_dict(self) -> dict[str, Any]:
        """For the results file."""
        return {
            "name": self.name,
            "counted": self.counted,
            "unit": self.unit,
            "n": len(self.ours),
            "ours": _summary(self.ours),
            "stock": _summary(self.stock) if self.stock else None,
            "ratio": None if self.ratio is None else round(self.ratio, 3),
            "ratio_of": "stock / ours" if self.by_stock else "ours / stock",
            "goal": self.goal.text if self.goal else None,
            "met": self.met,
            "parts": {name: round(value, 3) for name, value in self.parts.items()},
        }


def _summary(samples: Sequence[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(samples), 3),
        "min": round(min(samples), 3),
        "max": round(max(samples), 3),
        "samples": [round(sample, 3) for sample in samples],
    }


def in_turns(pairs: int, ours: Callable[[int], Any], stock: Callable[[int], Any]) -> tuple[list[Any], list[Any]]:
    """Both measured `pairs` times, each first in every second pair."""
    mine: list[Any] = []
    theirs: list[Any] = []
    for number in range(pairs):
        for which, into in ((ours, mine), (stock, theirs))[:: 1 if number % 2 else -1]:
            into.append(which(number))
    return mine, theirs


def machine() -> dict[str, Any]:
    """The shape of this machine and its engine, without its name."""
    engine = docker.from_env().version()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory / (1 << 30), 1),
        "engine": engine["Version"],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def print_figures(figures: Sequence[Figure]) -> None:
    """For a person who runs one file."""
    rows = [figure.as_dict() for figure in figures]
    print("\n".join([*_table(rows), "", *_notes(rows)]))


def alone(measure: Callable[[int], Sequence[Figure]], pairs: int) -> None:
    """The `main` of a figure's own file: measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=pairs, help=f"how often each is measured (default {pairs})")
    print_figures(measure(parser.parse_args().pairs))


def write(figures: Sequence[Figure], shape: dict[str, Any], command: str, folder: Path = DOCS) -> None:
    """Put these into `figures.json`, with every sample, and `figures.md`; others that are there stay as they are."""
    about = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "command": command, "machine": shape}
    file = folder / "figures.json"
    rows = {row["name"]: row for row in (json.loads(file.read_text(encoding="utf-8")) if file.exists() else [])}
    rows |= {figure.name: {**figure.as_dict(), **about} for figure in figures}
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(list(rows.values()), indent=2) + "\n", encoding="utf-8")
    (folder / "figures.md").write_text("\n".join(_page(list(rows.values()))), encoding="utf-8")


def _page(rows: Sequence[dict[str, Any]]) -> list[str]:
    head = [
        "# Figures",
        "",
        "Made by `make bench`. All samples, with kernel and Python, are in `figures.json`.",
        "",
        "Beside stock DockerSpawner 14 in the same run on the same engine, in turns. A value is the median, with the "
        "smallest and the largest. The ratio is the median of the pairs' ratios.",
        "",
    ]
    runs = ["Measured:", ""]
    for row in rows:
        shape = row["machine"]
        runs.append(
            f"- {row['name']}: {row['date']}, `{row['command']}`, {shape['cores']} cores, {shape['memory_gib']} GiB, "
            f"Docker Engine {shape['engine']}, load {shape['load_before']} when it began."
        )
    return [*head, *_table(rows), "", *runs, "", *_notes(rows)]


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["| figure | n | ours | stock | ratio | goal | met |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2g} ({row['ratio_of']})"
        met = {None: "", True: "yes", False: "**no**"}[row["met"]]
        ours, stock = _cell(row["ours"], row["unit"]), _cell(row["stock"], row["unit"])
        lines.append(f"| {row['name']} | {row['n']} | {ours} | {stock} | {ratio} | {row['goal'] or ''} | {met} |")
    return lines


def _cell(summary: dict[str, Any] | None, unit: str) -> str:
    if summary is None:
        return ""
    digits = 2 if unit == "s" else 1
    middle, least, most = (f"{summary[key]:.{digits}f}" for key in ("median", "min", "max"))
    return f"{middle} {unit} ({least} to {most})"


def _notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["What is counted:", ""]
    for row in rows:
        lines.append(f"- {row['name']}: {row['counted']}")
        if row["parts"]:
            parts = ", ".join(f"{name} {value:.1f}" for name, value in row["parts"].items())
            lines.append(f"  Medians in {row['unit']}: {parts}.")
    return [*lines, ""]
