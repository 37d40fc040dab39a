"""The YAML files of simulated machines: boards and topologies, read strictly.

Every error is a `ConfigError` with the file and the line. The simulated inventory plays what is read here, and the
tests' NVML library is fed from it, so that both tell of the same machine.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ds01_spawner.core.devices import Health, MigInstance, Profile
from ds01_spawner.core.errors import ConfigError
from ds01_spawner.core.mig import parse_profile

_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_GPU_UUID = re.compile(rf"GPU-{_UUID}")
_MIG_UUID = re.compile(rf"MIG-({_UUID}|GPU-{_UUID}/[0-9]+/[0-9]+)")
_CUDA = re.compile(r"([0-9]{1,3})\.([0-9]{1,2})")
_STATES = (Health.OK, Health.DRAINING, Health.LOST)
_MAP_TAG = "tag:yaml.org,2002:map"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class BoardProfile:
    """A profile of a board with what only NVML's own answers need: its two numbers, SMs, decoders, maxima."""

    shape: Profile
    enum: int
    id: int
    sm: int
    max: int
    reported_max: int
    media: int


@dataclass(frozen=True, slots=True)
class Board:
    """A kind of GPU. `pci` is the device id with the vendor's in the low half; no profile means no MIG."""

    model: str
    pci: int
    memory_mib: int
    profiles: tuple[BoardProfile, ...]

    @property
    def axis(self) -> int:
        """Slots on the memory axis: as far as any profile reaches, 1 without MIG."""
        return max((max(p.shape.starts) + p.shape.size for p in self.profiles), default=1)

    @property
    def slices(self) -> int:
        """Compute slices: those of the widest profile, 1 without MIG."""
        return max((p.shape.slices for p in self.profiles), default=1)

    def profile(self, name: str) -> BoardProfile | None:
        """The profile of this name."""
        return next((p for p in self.profiles if p.shape.name == name), None)


@dataclass(frozen=True, slots=True)
class TopologyGpu:
    """One GPU of a topology file. `mig_pending` is the mode after the next reset."""

    index: int
    uuid: str
    board: Board
    pci_bus: str
    mig: bool
    mig_pending: bool
    persistence: bool
    state: Health
    instances: tuple[MigInstance, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """A simulated machine."""

    driver: str
    cuda: tuple[int, int]
    gpus: tuple[TopologyGpu, ...]


def read_boards(path: Path, text: str) -> dict[str, Board]:
    """The boards of a `boards.yaml`. `path` is for messages. Raises ConfigError."""
    top = _load(path, text)
    boards = top.take("boards", _Table)
    found = {str(name): _board(boards.take(name, _Table)) for name in list(boards)}
    boards.close()
    top.close()
    return found


def read_topology(path: Path, text: str, boards: dict[str, Board]) -> Topology:
    """The machine that a topology file describes. `path` is for messages. Raises ConfigError."""
    top = _load(path, text)
    driver = top.take("driver", str)
    cuda = _CUDA.fullmatch(top.take("cuda", str))
    if not cuda:
        raise top.wrong("cuda", "must be a version in quotes such as '12.4'")
    gpus = tuple(_gpu(table, index, boards) for index, table in enumerate(top.tables("gpus")))
    top.unique("gpus", [gpu.uuid for gpu in gpus] + [i.uuid for gpu in gpus for i in gpu.instances])
    top.close()
    return Topology(driver, (int(cuda[1]), int(cuda[2])), gpus)


class _Table(dict[str, Any]):
    """A mapping of the file that knows its lines. Keys are taken out one by one; `close` refuses what is left."""

    def __init__(self, mark: yaml.Mark) -> None:
        super().__init__()
        self.file, self.line = str(mark.name), mark.line + 1
        self.lines: dict[str, int] = {}

    def wrong(self, key: str, message: str) -> ConfigError:
        """An error at a key of this mapping, or at the mapping's first line where it hasn't the key."""
        return ConfigError(message, file=self.file, line=self.lines.get(key, self.line), key=key)

    def take(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        """Take out one value of exactly this type; a key without a default must be there."""
        if key not in self:
            if default is None:
                raise self.wrong(key, "is missing")
            return default
        value = self.pop(key)
        if type(value) is not kind:
            names: dict[type, str] = {str: "a text", int: "a whole number", bool: "true or false", list: "a list"}
            raise self.wrong(key, f"must be {names.get(kind, 'a mapping')}, not {value!r:.60}")
        return value

    def count(self, key: str, default: int | None = None, *, least: int = 0) -> int:
        """Take out a whole number from `least` on."""
        value = self.take(key, int, default)
        if value < least:
            raise self.wrong(key, f"must be {least} or more, not {value}")
        return value

    def tables(self, key: str, *, optional: bool = False) -> list[_Table]:
        """Take out a list of mappings."""
        items = self.take(key, list, [] if optional else None)
        for item in items:
            if not isinstance(item, _Table):
                raise self.wrong(key, f"must be a list of mappings, not of {item!r:.60}")
        return items

    def unique(self, key: str, values: list[str]) -> None:
        """Refuse a value that comes twice."""
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise self.wrong(key, f"these come more than once: {', '.join(twice)}")

    def close(self) -> None:
        """Refuse the keys that nobody took."""
        for key in self:
            raise self.wrong(key, "is not a key that is known here")


class _Loader(yaml.SafeLoader):
    """The safe loader, with lines kept and repeated keys refused."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> _Table:
    table = _Table(node.start_mark)
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node, deep=True))
        if key in table:
            raise ConfigError("is given twice", file=table.file, line=key_node.start_mark.line + 1, key=key)
        table.lines[key] = key_node.start_mark.line + 1
        table[key] = loader.construct_object(value_node, deep=True)
    return table


_Loader.add_constructor(_MAP_TAG, _mapping)


def _load(path: Path, text: str) -> _Table:
    try:
        loader = _Loader(text)
        loader.name = str(path)  # the name in every mark
        top = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise ConfigError(f"is not YAML that we read: {error.problem}", file=str(path), line=line) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"is not YAML: {error}", file=str(path)) from error
    if not isinstance(top, _Table):
        raise ConfigError("must be a mapping with the keys of a simulated machine", file=str(path), line=1)
    if top.take("version", int) != 1:
        raise top.wrong("version", "must be 1")
    return top


def _board(table: _Table) -> Board:
    pci = table.take("pci", str)
    if not re.fullmatch(r"0x[0-9A-Fa-f]{8}", pci):
        raise table.wrong("pci", f"must be 0x and eight hexadecimal digits, not {pci!r}")
    memory = table.count("memory_mib", least=1)
    profiles = [_board_profile(entry) for entry in table.tables("profiles")]
    table.unique("profiles", [p.shape.name for p in profiles])
    profiles.sort(key=lambda profile: parse_profile(profile.shape.name))
    board = Board(table.take("model", str), int(pci, 16), memory, tuple(profiles))
    table.close()
    return board


def _board_profile(table: _Table) -> BoardProfile:
    name = table.take("name", str)
    try:
        parse_profile(name)
    except ValueError as error:
        raise table.wrong("name", str(error)) from error
    starts = table.take("starts", list)
    if not starts or any(type(start) is not int or start < 0 for start in starts):
        raise table.wrong("starts", f"must be a list of slots from 0 on, not {starts!r:.60}")
    slices, memory = table.count("slices", least=1), table.count("memory_mib", least=1)
    shape = Profile(name, slices, memory, table.count("size", least=1), tuple(sorted(starts)))
    most = table.count("max", least=1)
    profile = BoardProfile(
        shape, table.count("enum"), table.count("id"), table.count("sm", least=1), most,
        table.count("reported_max", most), table.count("media", 0),
    )  # fmt: skip
    table.close()
    return profile


def _gpu(table: _Table, index: int, boards: dict[str, Board]) -> TopologyGpu:
    board = boards.get(table.take("board", str))
    if board is None:
        raise table.wrong("board", f"is not a board of boards.yaml: {', '.join(boards)}")
    gpu_uuid = table.take("uuid", str)
    if not _GPU_UUID.fullmatch(gpu_uuid):
        raise table.wrong("uuid", f"must look like GPU-00000000-0000-4000-8000-000000000000, not {gpu_uuid!r}")
    mig = table.take("mig", bool, default=False)
    if mig and not board.profiles:
        raise table.wrong("mig", "this board knows no MIG")
    state = table.take("state", str, "ok")
    if state not in _STATES:
        raise table.wrong("state", f"must be one of {', '.join(_STATES)}, not {state!r}")
    gpu = TopologyGpu(
        index, gpu_uuid, board,
        table.take("pci_bus", str, f"00000000:{index + 1:02X}:00.0"),
        mig, table.take("mig_pending", bool, mig), table.take("persistence", bool, default=True),
        Health(state), _instances(table, gpu_uuid, board, mig),
    )  # fmt: skip
    table.close()
    return gpu


def _instances(table: _Table, gpu_uuid: str, board: Board, mig: bool) -> tuple[MigInstance, ...]:
    entries = table.tables("instances", optional=True)
    if entries and not mig:
        raise table.wrong("instances", "need `mig: true`")
    taken: set[int] = set()
    found = []
    for entry in entries:
        instance = _instance(entry, gpu_uuid, board)
        slots = set(range(instance.start or 0, (instance.start or 0) + (instance.size or 0)))
        if slots & taken:
            raise entry.wrong("start", f"slots {sorted(slots & taken)} belong to another instance of this GPU")
        taken |= slots
        found.append(instance)
    table.unique("instances", [f"gi {instance.gi}" for instance in found])
    return tuple(found)


def _instance(table: _Table, gpu_uuid: str, board: Board) -> MigInstance:
    name = table.take("profile", str)
    profile = board.profile(name)
    if profile is None:
        raise table.wrong("profile", f"this board has {', '.join(p.shape.name for p in board.profiles)}, not {name!r}")
    shape, start = profile.shape, table.count("start")
    if start not in shape.starts:
        raise table.wrong("start", f"{name} may start at {', '.join(map(str, shape.starts))}, not at {start}")
    # An instance that is made anew gets another UUID: raise `generation` to play that.
    born = f"{gpu_uuid}/{name}@{start}/{table.count('generation', 0)}"
    mig_uuid = table.take("uuid", str, f"MIG-{uuid.uuid5(uuid.NAMESPACE_OID, born)}")
    if not _MIG_UUID.fullmatch(mig_uuid):
        raise table.wrong("uuid", f"must look like MIG-00000000-0000-5000-8000-000000000000, not {mig_uuid!r}")
    gi = table.count("gi", start + 1)
    table.close()
    return MigInstance(mig_uuid, gi, 0, name, shape.slices, shape.memory_mib, start, shape.size)
