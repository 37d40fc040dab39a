"""Every layout that a board allows, enumerated from the stand-ins' tables of start slots."""

from __future__ import annotations

from pathlib import Path

from ds01_spawner.adapters.simulated_topology import Board, read_boards

FILE = Path(__file__).parents[2] / "config" / "simulated" / "boards.yaml"
BOARDS = read_boards(FILE, FILE.read_text(encoding="utf-8"))

Place = tuple[str, int]
Layout = frozenset[Place]

#: Of each board the profiles that differ in slices: no media variants, no double-memory 1g.
PLAIN = {
    "a100-40": ("1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"),
    "a30": ("1g.6gb", "2g.12gb", "4g.24gb"),
    "rtx-pro-6000": ("1g.24gb", "2g.48gb", "4g.96gb"),
}


def places(board: Board, names: tuple[str, ...]) -> list[tuple[Place, frozenset[int]]]:
    """Each place that one of these profiles may take, with the slots that it covers."""
    shapes = [profile.shape for profile in board.profiles if profile.shape.name in names]
    return [((s.name, start), frozenset(range(start, start + s.size))) for s in shapes for start in s.starts]


def layouts(board: Board, names: tuple[str, ...]) -> set[Layout]:
    """Every set of instances whose slots are disjoint."""
    found: set[tuple[Layout, frozenset[int]]] = {(frozenset(), frozenset())}
    for place, slots in places(board, names):
        found |= {(layout | {place}, used | slots) for layout, used in found if not used & slots}
    return {layout for layout, _ in found}


def maximal(all_of_them: set[Layout]) -> set[Layout]:
    """Those into which nothing more fits."""
    return {layout for layout in all_of_them if not any(layout < other for other in all_of_them)}
