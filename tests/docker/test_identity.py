"""Who a user is inside a real container."""

from __future__ import annotations

from pathlib import Path

import pytest

from ds01_spawner.adapters.engine import DockerEngine
from ds01_spawner.adapters.identity import Identity, IdentityFiles, IdentityPaths
from tests.docker.conftest import Box


async def written(
    engine: DockerEngine, box: Box, folder: Path, name: str, identity: Identity
) -> tuple[str, IdentityPaths]:
    image_id = await engine.image_id(box.image)
    assert image_id is not None
    return image_id, await IdentityFiles(folder, engine).write(image_id, name, identity, home=f"/home/{name}")


def run(box: Box, identity: Identity, paths: IdentityPaths) -> str:
    mounts = [
        {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": True}
        for source, target in ((paths.passwd, "/etc/passwd"), (paths.group, "/etc/group"))
    ]
    host = {"Mounts": mounts, "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"]}
    return box.shell(User=f"{identity.uid}:{identity.gid}", HostConfig=host)


@pytest.mark.parametrize(
    ("name", "uid"), [("alice", 200_001), ("a.b@dom", 200_002), ("12345", 1_700_000_000), ("x" * 64, 1000)]
)
async def test_id_names_the_user_and_the_images_accounts_are_still_there(
    engine: DockerEngine, box: Box, tmp_path: Path, name: str, uid: int
) -> None:
    """`id` says name, uid and gid, and nothing of root; the image's own root keeps its name."""
    identity = Identity(uid, uid, system=False)
    _, paths = await written(engine, box, tmp_path, name, identity)
    container = run(box, identity, paths)
    assert box.execute(container, "id") == (0, f"uid={uid}({name}) gid={uid}({name}) groups={uid}({name})\n")
    assert box.execute(container, "id", "root")[1].startswith("uid=0(root) gid=0(root)")


async def test_the_files_are_readable_and_no_user_can_write_them(
    engine: DockerEngine, box: Box, tmp_path: Path
) -> None:
    """World-readable on the host whatever the hub's umask is; read-only inside."""
    identity = Identity(200_001, 200_001, system=False)
    _, paths = await written(engine, box, tmp_path / "identity", "alice", identity)
    assert [oct(path.stat().st_mode & 0o777) for path in (paths.passwd, paths.group)] == ["0o644", "0o644"]
    container = run(box, identity, paths)
    assert box.execute(container, "sh", "-c", "echo x >> /etc/passwd")[0] != 0


async def test_a_running_container_keeps_its_files_when_they_are_written_anew(
    engine: DockerEngine, box: Box, tmp_path: Path
) -> None:
    """Replaced as a whole, so nobody ever reads half a file."""
    identity = Identity(200_001, 200_001, system=False)
    _, paths = await written(engine, box, tmp_path, "alice", identity)
    container = run(box, identity, paths)
    _, again = await written(engine, box, tmp_path, "alice", Identity(200_009, 200_009, system=False))
    assert again == paths
    assert "uid=200001(alice)" in box.execute(container, "id")[1]
    assert b":200009:" in paths.passwd.read_bytes()


async def test_two_users_of_one_image_have_files_of_their_own(engine: DockerEngine, box: Box, tmp_path: Path) -> None:
    """One user's name is no business of another's container."""
    _, alice = await written(engine, box, tmp_path, "alice", Identity(200_001, 200_001, system=False))
    _, bob = await written(engine, box, tmp_path, "bob", Identity(200_002, 200_002, system=False))
    assert alice.passwd != bob.passwd
    assert b"bob" not in alice.passwd.read_bytes()
