"""The YAML files of simulated machines: what is wrong is an error with the file, the line and the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from ds01_spawner.adapters.simulated_gpus import SimulatedInventory
from ds01_spawner.core.devices import Health
from ds01_spawner.core.errors import ConfigError, InventoryUnavailable

SHIPPED = Path(__file__).parents[2] / "config" / "simulated"
GPU = "GPU-0a000000-0000-4000-8000-000000000000"
GOOD = f"""version: 1
driver: 550.163.01
cuda: "12.4"
gpus:
  - board: a100-40
    uuid: {GPU}
    mig: true
    instances:
      - {{profile: 3g.20gb, start: 0}}
      - {{profile: 1g.5gb, start: 6}}
"""
BOARD = """version: 1
boards:
  small:
    model: Small
    pci: "0x20B010DE"
    memory_mib: 1024
    profiles:
      - {name: 1g.5gb, enum: 0, id: 19, slices: 1, size: 1, starts: [0, 1], memory_mib: 512, sm: 14, max: 2}
"""


def inventory(folder: Path, text: str | bytes, boards: str | None = None) -> SimulatedInventory:
    file = folder / "machine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    boards_file = SHIPPED / "boards.yaml"
    if boards is not None:
        boards_file = folder / "boards.yaml"
        boards_file.write_text(boards, encoding="utf-8")
    return SimulatedInventory(file, "n1", lambda: 1.0, boards_file=boards_file)


def refused(folder: Path, text: str | bytes, boards: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        inventory(folder, text, boards)
    return str(caught.value).removeprefix(f"{folder}/")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1", "version: 2", "machine.yaml:1: version: must be 1"),
        ("version: 1\n", "", "machine.yaml:1: version: is missing"),
        ("driver: 550.163.01", "driver: 550", "machine.yaml:2: driver: must be a text, not 550"),
        ('cuda: "12.4"', "cuda: 12.4", "machine.yaml:3: cuda: must be a text, not 12.4"),
        ('cuda: "12.4"', 'cuda: "new"', "machine.yaml:3: cuda: must be a version in quotes such as '12.4'"),
        ("cuda:", "cudda:", "machine.yaml:1: cuda: is missing"),
        ("gpus:", "spare: 1\ngpus:", "machine.yaml:4: spare: is not a key that is known here"),
        ("    mig: true", "    mig: true\n    mig: true", "machine.yaml:8: mig: is given twice"),
        ("mig: true", "mig: 1", "machine.yaml:7: mig: must be true or false, not 1"),
        ("mig: true", "migg: true", "machine.yaml:8: instances: need `mig: true`"),
        ("board: a100-40", "board: t4", "machine.yaml:7: mig: this board knows no MIG"),
        ("board: a100-40", "board: v100", "machine.yaml:5: board: is not a board of boards.yaml"),
        (GPU, "GPU-1", "machine.yaml:6: uuid: must look like GPU-"),
        ("mig: true", "mig: true\n    state: broken", "machine.yaml:8: state: must be one of ok, draining, lost"),
        ("mig: true", "mig: true\n    state: unknown", "machine.yaml:8: state: must be one of ok, draining, lost"),
        ("3g.20gb", "5g.20gb", "machine.yaml:9: profile: this board has 1g.5gb"),
        ("start: 0", "start: 1", "machine.yaml:9: start: 3g.20gb may start at 0, 4, not at 1"),
        ("start: 6", "start: 3", "machine.yaml:10: start: slots [3] belong to another instance"),
        ("start: 6", "start: -1", "machine.yaml:10: start: must be 0 or more, not -1"),
        ("start: 6", "start: true", "machine.yaml:10: start: must be a whole number, not True"),
        ("start: 6", "start: 6, size: 1", "machine.yaml:10: size: is not a key that is known here"),
        ("start: 6", "start: 6, uuid: MIG-1", "machine.yaml:10: uuid: must look like MIG-"),
        ("start: 6", "start: 6, gi: 1", "machine.yaml:8: instances: these come more than once: gi 1"),
        ("- {profile: 1g.5gb, start: 6}", "- 1g.5gb", "machine.yaml:8: instances: must be a list of mappings"),
        ("    instances:\n", "    instances: 3\n    spare:\n", "machine.yaml:8: instances: must be a list, not 3"),
        ("version: 1", "version: !!python/object:os.system 1", "machine.yaml:1: is not YAML that we read"),
        ("    mig: true", "\tmig: true", "machine.yaml:7: is not YAML that we read"),
        ("gpus:", "gpus: [", "is not YAML that we read"),
        ("version: 1", "a: &a [*a]\nversion: 1", "machine.yaml:1: is not YAML that we read"),
        ("version: 1", "version: 1\x00", "machine.yaml: is not YAML"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Each mistake is refused with file, line, key and what would be right."""
    assert old in GOOD
    assert message in refused(tmp_path, GOOD.replace(old, new, 1))


@pytest.mark.parametrize("text", ["", "# nothing\n", "- 1\n", "text\n"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    """An empty file is no machine without GPUs; that is written `gpus: []`."""
    assert refused(tmp_path, text).startswith("machine.yaml:1: must be a mapping")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Bytes that aren't UTF-8 are an error of the file and not of the program."""
    assert "can't be read" in refused(tmp_path, b"\xff\xfe\x00")


def test_a_uuid_that_comes_twice_is_refused(tmp_path: Path) -> None:
    """Two GPUs with one UUID would share one set of claims."""
    assert GPU in refused(tmp_path, GOOD + f"  - board: t4\n    uuid: {GPU}\n")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0x20B010DE", "20B0", "boards.yaml:5: pci: must be 0x and eight hexadecimal digits"),
        ("memory_mib: 1024", "memory_mib: 0", "boards.yaml:6: memory_mib: must be 1 or more, not 0"),
        ("name: 1g.5gb", "name: small", "boards.yaml:8: name: 'small' is not a MIG profile"),
        ("starts: [0, 1]", "starts: []", "boards.yaml:8: starts: must be a list of slots"),
        ("starts: [0, 1]", "starts: [0, x]", "boards.yaml:8: starts: must be a list of slots"),
        ("sm: 14", "smm: 14", "boards.yaml:8: sm: is missing"),
        ("max: 2}", "max: 2, most: 2}", "boards.yaml:8: most: is not a key that is known here"),
        ("    model: Small", "    model: Small\n    axis: 8", "boards.yaml:5: axis: is not a key that is known here"),
        ("  small:", "  small: 1\n  other:", "boards.yaml:3: small: must be a mapping, not 1"),
    ],
)
def test_boards_are_read_as_strictly(tmp_path: Path, old: str, new: str, message: str) -> None:
    """The table of boards has a schema of its own, with lines."""
    assert old in BOARD
    assert message in refused(tmp_path, GOOD, BOARD.replace(old, new, 1))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A topology that isn't there is a mistake in the configuration, not a machine without GPUs."""
    with pytest.raises(ConfigError, match=r"none\.yaml: can't be read"):
        SimulatedInventory(tmp_path / "none.yaml", "n1", lambda: 1.0, boards_file=SHIPPED / "boards.yaml")


async def test_the_boards_beside_the_file_are_used(tmp_path: Path) -> None:
    """Without a name for the boards, `boards.yaml` in the topology's own folder is meant."""
    (tmp_path / "boards.yaml").write_text(BOARD, encoding="utf-8")
    (tmp_path / "machine.yaml").write_text(
        f'version: 1\ndriver: "1"\ncuda: "12.4"\ngpus: [{{board: small, uuid: {GPU}}}]\n', encoding="utf-8"
    )
    read = await SimulatedInventory(tmp_path / "machine.yaml", "n1", lambda: 1.0).read()
    assert [(gpu.model, gpu.axis) for gpu in read.gpus] == [("Simulated Small", 2)]


async def test_a_wrong_edit_is_no_answer(tmp_path: Path) -> None:
    """A file that goes wrong while the hub runs grants nothing and loses nothing; put right, it counts at once."""
    played = inventory(tmp_path, GOOD)
    assert len((await played.read()).devices()) == 2
    (tmp_path / "machine.yaml").write_text("gpus: {}\n", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(InventoryUnavailable, match=r"machine\.yaml:1: version: is missing"):
            await played.read()
    (tmp_path / "machine.yaml").write_text(GOOD.replace("mig: true", "mig: true\n    state: lost"), encoding="utf-8")
    assert [gpu.health for gpu in (await played.read()).gpus] == [Health.LOST]
