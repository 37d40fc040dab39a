"""The layouts that each board allows, enumerated from the stand-ins' tables and compared with known ones.

The tables feed both stand-ins, so a wrong start slot in them would make every test above them prove the wrong thing.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import chain

import pytest

from ds01_spawner.adapters.simulated_topology import Board
from ds01_spawner.core.devices import Device, Gpu, Inventory, MigInstance
from tests.fakes.mig_layouts import BOARDS, PLAIN, Layout, layouts, maximal

#: Seven-slice boards without double-memory 1g: `class@start` of every layout that nothing more fits into.
A100 = """
1@0 1@1 1@2 1@3 1@4 1@5 1@6 | 1@0 1@1 1@2 1@3 2@4 1@6 | 1@0 1@1 1@2 1@3 3@4 | 1@0 1@1 2@2 1@4 1@5 1@6
1@0 1@1 2@2 2@4 1@6 | 1@0 1@1 2@2 3@4 | 2@0 1@2 1@3 1@4 1@5 1@6 | 2@0 1@2 1@3 2@4 1@6 | 2@0 1@2 1@3 3@4
2@0 2@2 1@4 1@5 1@6 | 2@0 2@2 2@4 1@6 | 2@0 2@2 3@4 | 3@0 1@4 1@5 1@6 | 3@0 2@4 1@6 | 3@0 3@4
4@0 1@4 1@5 1@6 | 4@0 2@4 1@6 | 4@0 3@4 | 7@0
"""
A30 = "1@0 1@1 1@2 1@3 | 1@0 1@1 2@2 | 2@0 1@2 1@3 | 2@0 2@2 | 4@0"
RTX_PRO_6000 = "1@0 1@3 1@6 1@9 | 1@0 1@3 2@6 | 2@0 1@6 1@9 | 2@0 2@6 | 4@0"


def parsed(oracle: str) -> set[Layout]:
    lines = [line for line in oracle.replace("|", "\n").splitlines() if line.strip()]
    return {frozenset((f"{p.split('@')[0]}g", int(p.split("@")[1])) for p in line.split()) for line in lines}


def kinds(several: set[Layout]) -> set[tuple[str, ...]]:
    return {tuple(sorted(name for name, _ in layout)) for layout in several}


@pytest.mark.parametrize(
    ("name", "oracle"),
    [("a100-40", A100), ("a30", A30), ("rtx-pro-6000", RTX_PRO_6000)],
    ids=["A100", "A30", "RTX PRO 6000"],
)
def test_the_maximal_layouts(name: str, oracle: str) -> None:
    """A board's tables allow exactly the known layouts into which nothing more fits."""
    found = maximal(layouts(BOARDS[name], PLAIN[name]))
    assert {frozenset((profile.split(".")[0], start) for profile, start in layout) for layout in found} == parsed(
        oracle
    )
    assert len(found) == len(parsed(oracle)) == {"a100-40": 19}.get(name, 5)


@pytest.mark.parametrize(
    ("name", "extra", "figures"),
    [
        ("a100-40", (), (298, 19, 38, 14)),
        ("a100-40", ("1g.10gb",), (723, 78, 78, 38)),
        ("a30", (), (26, 5, 10, 4)),
        ("rtx-pro-6000", (), (26, 5, 10, 4)),
    ],
)
def test_the_figures_of_each_family(name: str, extra: tuple[str, ...], figures: tuple[int, int, int, int]) -> None:
    """States, maximal states, kinds of layout and kinds of maximal layout are the known numbers."""
    every = layouts(BOARDS[name], PLAIN[name] + extra)
    assert (len(every), len(maximal(every)), len(kinds(every)), len(kinds(maximal(every)))) == figures


@pytest.mark.parametrize("name", PLAIN)
def test_disjoint_claims_are_all_that_feasibility_needs(name: str) -> None:
    """Where the claims of two devices never meet, compute slices and each profile's maximum hold by themselves."""
    board = BOARDS[name]
    most = {profile.shape.name: profile.max for profile in board.profiles}
    for layout in layouts(board, PLAIN[name]):
        devices = _devices(board, layout)
        claims = list(chain.from_iterable(device.slots for device in devices))
        assert len(claims) == len(set(claims)) <= board.axis
        assert sum((device.gpueq for device in devices), Fraction(0)) <= 1
        assert all(sum(p == profile for p, _ in layout) <= most[profile] for profile, _ in layout)


@pytest.mark.parametrize(
    ("name", "axis", "slices"), [("a100-40", 8, 7), ("a30", 4, 4), ("rtx-pro-6000", 12, 4), ("t4", 1, 1)]
)
def test_the_axis_differs_by_board(name: str, axis: int, slices: int) -> None:
    """Slots and compute slices are each board's own: 8 and 7, 4 and 4, 12 and 4, and 1 and 1 without MIG."""
    assert (BOARDS[name].axis, BOARDS[name].slices) == (axis, slices)


def _devices(board: Board, layout: Layout) -> tuple[Device, ...]:
    shapes = {profile.shape.name: profile.shape for profile in board.profiles}
    instances = tuple(
        MigInstance(
            f"MIG-{name}@{start}",
            start,
            0,
            name,
            shapes[name].slices,
            shapes[name].memory_mib,
            start,
            shapes[name].size,
        )
        for name, start in sorted(layout)
    )
    gpu = Gpu("GPU-a", 0, board.model, board.memory_mib, "", True, board.axis, board.slices, (), instances)
    return Inventory("n1", (gpu,)).devices()
