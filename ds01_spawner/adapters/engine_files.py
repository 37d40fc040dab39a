"""Read one file of an image, by way of a container that is made and never started: the engine has no other way."""

from __future__ import annotations

import io
import posixpath
import secrets
import tarfile
from typing import Any

from docker import APIClient
from docker.errors import APIError, NotFound
from docker.utils import decode_json_header

from ds01_spawner.core.errors import EngineRefused

GONE, IN_PROGRESS = 404, 409
LABEL = "ds01.reads"
#: Seconds after which a helper is nobody's any more: reading takes one or two.
LEFT_BEHIND = 600
#: Bytes that a file may have: nothing that is read this way is larger.
MAX_SIZE = 1 << 20
MAX_LINKS = 5
#: The engine writes a file's mode as Go's bits.
GO_DIRECTORY = 1 << 31


def read_image_file(client: APIClient, image_id: str, path: str) -> bytes | None:
    """The file's content, None where there is none. Raises docker-py's errors, and EngineRefused for a huge one."""
    container = _never_started(client, image_id)
    try:
        _sweep(client, container)
        for _ in range(MAX_LINKS):
            found = _member(client, container, path)
            if not isinstance(found, str):
                return found
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), found))
        return None
    finally:
        _remove(client, container)


def _never_started(client: APIClient, image_id: str) -> str:
    name = f"ds01-reads-{image_id.rpartition(':')[2][:12]}-{secrets.token_hex(4)}"
    config = {"Image": image_id, "Entrypoint": ["-"], "Cmd": [], "NetworkDisabled": True, "Labels": {LABEL: ""}}
    return str(client.create_container_from_config(config, name)["Id"])  # type: ignore[no-untyped-call]  # docker-py leaves this one untyped


def _sweep(client: APIClient, mine: str) -> None:
    """Remove what a crash left behind: helpers that are much older than mine, by the engine's own clock."""
    helpers = {str(one["Id"]): int(one["Created"]) for one in client.containers(all=True, filters={"label": LABEL})}
    for helper, made in helpers.items():
        if helper != mine and made < helpers.get(mine, 0) - LEFT_BEHIND:
            _remove(client, helper)


def _remove(client: APIClient, container: str) -> None:
    try:
        client.remove_container(container, v=True, force=True)
    except APIError as error:
        if error.status_code not in {GONE, IN_PROGRESS}:
            raise


def _member(client: APIClient, container: str, path: str) -> bytes | str | None:
    """The content of a file, the target of a link, None where there is neither."""
    stat = _stat(client, container, path)
    if stat["mode"] & GO_DIRECTORY:
        return None
    if stat["size"] > MAX_SIZE:
        raise EngineRefused(f"{path} has {stat['size']} bytes, more than the {MAX_SIZE} that are read", 400)
    try:
        chunks, _ = client.get_archive(container, path)
    except NotFound as error:
        if str(error.explanation).lower().startswith("no such container"):
            raise  # the container itself is gone: that says nothing of the file
        return None
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        member = archive.next()
        if member is None or not (member.issym() or member.isreg()):
            return None
        if member.issym():
            return member.linkname
        content = archive.extractfile(member)
        return content.read() if content else None


def _stat(client: APIClient, container: str, path: str) -> dict[str, Any]:
    """Size and mode, before the content is asked for: an answer that isn't read to its end blocks the container.

    Zeros where the engine refuses: asked for the content, it says why.
    """
    url = f"{client.base_url}/v{client.api_version}/containers/{container}/archive"
    answer = client.head(url, params={"path": path}, timeout=client.timeout)
    found = decode_json_header(answer.headers["X-Docker-Container-Path-Stat"]) if answer.ok else {}
    return {"size": 0, "mode": 0, **found}
