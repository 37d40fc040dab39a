"""Read one file of an image, by way of a container that is made and never started: the engine has no other way."""

from __future__ import annotations

import io
import posixpath
import tarfile
from contextlib import suppress

from docker import APIClient
from docker.errors import APIError, NotFound

from ds01_spawner.core.errors import EngineRefused

CONFLICT = 409
#: Bytes that a file may have: nothing that is read this way is larger.
MAX_SIZE = 1 << 20
MAX_LINKS = 5
#: The engine writes a file's mode as Go's bits.
GO_DIRECTORY = 1 << 31


def read_image_file(client: APIClient, image_id: str, path: str) -> bytes | None:
    """The file's content, None where there is none. Raises docker-py's errors, and EngineRefused for a huge one."""
    container = _never_started(client, image_id)
    try:
        for _ in range(MAX_LINKS):
            found = _member(client, container, path)
            if not isinstance(found, str):
                return found
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), found))
        return None
    finally:
        with suppress(NotFound):
            client.remove_container(container, v=True, force=True)


def _never_started(client: APIClient, image_id: str) -> str:
    # One name for each image: what a crash left behind is found, and removed, by the next reader.
    name = f"ds01-reads-{image_id.rpartition(':')[2][:24]}"
    config = {"Image": image_id, "Entrypoint": ["-"], "Cmd": [], "NetworkDisabled": True}
    try:
        return str(client.create_container_from_config(config, name)["Id"])  # type: ignore[no-untyped-call]
    except APIError as error:
        if error.status_code != CONFLICT:
            raise
    with suppress(NotFound):
        client.remove_container(name, v=True, force=True)
    return str(client.create_container_from_config(config, name)["Id"])  # type: ignore[no-untyped-call]


def _member(client: APIClient, container: str, path: str) -> bytes | str | None:
    """The content of a file, the target of a link, None where there is neither."""
    try:
        chunks, stat = client.get_archive(container, path)
    except NotFound as error:
        if str(error.explanation).lower().startswith("no such container"):
            raise  # the container itself is gone: that says nothing of the file
        return None
    if stat["mode"] & GO_DIRECTORY:
        return None
    if stat["size"] > MAX_SIZE:
        raise EngineRefused(f"{path} has {stat['size']} bytes, more than the {MAX_SIZE} that are read", 400)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        member = archive.next()
        if member is None or not (member.issym() or member.isreg()):
            return None
        if member.issym():
            return member.linkname
        content = archive.extractfile(member)
        return content.read() if content else None
