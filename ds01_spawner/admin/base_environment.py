"""Builds the base environment: the image that every user's container starts from, or is built on.

    python -m ds01_spawner.admin.base_environment [--force] [--print-tag] [--json]

It works through the engine's API alone (no docker command), with a container registry or without one: where none
answers, the root file system comes from Debian's packages. `images/base/install.sh` then runs in a container, which
becomes the image. What a site needs for that (its CA bundle, pip and apt settings, proxies) is only mounted into it,
so that none of it can stay in the image.

`run` and `test` call this. Images that users build are the builder's, not made here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from docker.models.containers import Container
from docker.types import Mount

from ds01_spawner.admin import build_site

REPOSITORY = "ds01/base"
CONTRACT = "1"
CONTENT_LABEL = "ds01.base.content"
REGISTRY_BASE = "debian:12-slim"
LOCAL_BASE = "ds01/debian:12"
SOURCE = Path(__file__).resolve().parents[2] / "images" / "base"
BUILD_DIR = "/run/ds01-build"
SITE_DIR = "/run/ds01-site"
PULL_SILENCE_SECONDS = 30  # a registry that says nothing for so long counts as not reachable
BUILD_SILENCE_SECONDS = 900
IMAGE_CHANGES = [
    'ENTRYPOINT ["tini","--","ds01-start"]',
    "CMD []",
    "ENV PATH=/opt/ds01/bin:/usr/local/bin:/usr/bin:/bin",
    "ENV LANG=C.UTF-8",
    "ENV LC_ALL=C.UTF-8",
    "ENV SHELL=/bin/bash",
    "WORKDIR /",
    f"LABEL ds01.contract={CONTRACT}",
]


class BuildError(Exception):
    """The base environment could not be built; the text says why, with the last lines of output."""


def say(text: str) -> None:
    """Progress goes to standard error, since standard output may be read by a program."""
    print(f"  base environment: {text}", file=sys.stderr, flush=True)


def content_hash(source: Path = SOURCE) -> str:
    """The image's identity: names, modes and bytes of all that it is made from, and how it is started."""
    digest = hashlib.sha256("\n".join(IMAGE_CHANGES).encode())
    for path in sorted(p for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        executable = "x" if path.stat().st_mode & 0o100 else "-"
        digest.update(f"\0{path.relative_to(source)}\0{executable}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def find_image(client: docker.DockerClient, tag: str) -> str | None:
    """The id of the image with this tag, if the engine has it."""
    try:
        return str(client.images.get(tag).id)
    except ImageNotFound:
        return None


def debian_image(client: docker.DockerClient) -> str:
    """A minimal Debian 12, from the registry if one answers, else made from packages."""
    for tag in (REGISTRY_BASE, LOCAL_BASE):
        if find_image(client, tag):
            say(f"Debian 12 is here already: {tag}")
            return tag
    say(f"asking the registry for {REGISTRY_BASE}")
    patient = docker.from_env(timeout=PULL_SILENCE_SECONDS)
    try:
        patient.images.pull(REGISTRY_BASE)
        return REGISTRY_BASE
    except (DockerException, OSError) as error:
        say(f"no registry ({short(error)}): making Debian 12 from packages, about a minute")
    finally:
        patient.close()
    import_debian(client)
    return LOCAL_BASE


def short(error: Exception) -> str:
    """An engine's error in a few words."""
    text = str(getattr(error, "explanation", None) or error)
    return text if len(text) < 90 else text[:40] + " ... " + text[-45:]


def import_debian(client: docker.DockerClient) -> None:
    """Bootstraps Debian 12 into a temporary folder and imports it as an image."""
    with tempfile.TemporaryDirectory(prefix="ds01-debian-") as folder:
        root = Path(folder) / "root"
        log = Path(folder) / "log"
        command = ["debootstrap", "--variant=minbase", "--include=ca-certificates"]
        command += [*build_site.keyring_option(), "bookworm", str(root), build_site.apt_mirror()]
        with log.open("wb") as output:
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise BuildError("debootstrap failed:\n" + last_lines(log.read_text(errors="replace").splitlines()))
        forget_host(root)
        archive = subprocess.Popen(["tar", "--numeric-owner", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
        assert archive.stdout is not None
        client.api.import_image_from_stream(archive.stdout, repository=LOCAL_BASE.split(":")[0], tag="12")
        if archive.wait() != 0 or not find_image(client, LOCAL_BASE):
            raise BuildError("the engine did not take the Debian root file system")


def forget_host(root: Path) -> None:
    """debootstrap copies names of this host and its mirror into the new root: they are nobody's business."""
    for name in ("etc/resolv.conf", "etc/hostname", "etc/machine-id"):
        (root / name).write_text("")
    (root / "etc/apt/sources.list").write_text(build_site.PUBLIC_APT_SOURCES)
    for folder in ("var/cache/apt/archives", "var/lib/apt/lists", "var/log"):
        for path in (root / folder).rglob("*"):
            if path.is_file():
                path.unlink()


def build_network(client: docker.DockerClient) -> str:
    """The network of the build: as set, else the engine's own bridge, else (no bridge) the host's."""
    wanted = os.environ.get("DS01_BUILD_NETWORK", "")
    if wanted:
        return wanted
    return "bridge" if client.networks.list(names=["bridge"]) else "host"


@contextmanager
def build_container(client: docker.DockerClient, base: str, site: Path) -> Iterator[Container]:
    """A container from `base` that runs install.sh. What it is given comes by mounts on a tmpfs, which no commit keeps.

    The environment is read from a file, since a container's own is part of what is committed. The job is the
    container's first process and not an exec, which in a chroot would run outside of the container.
    """
    container = client.containers.create(
        base,
        entrypoint=[],
        command=["sh", "-c", f". {SITE_DIR}/environment && exec sh {BUILD_DIR}/install.sh"],
        init=True,
        network_mode=build_network(client),
        tmpfs={"/run": ""},
        mounts=[
            Mount(BUILD_DIR, str(SOURCE), type="bind", read_only=True),
            Mount(SITE_DIR, str(site), type="bind", read_only=True),
        ],
    )
    try:
        yield container
    finally:
        container.remove(force=True, v=True)


def run_install(container: Container) -> None:
    """Runs the container to its end, shows the steps of install.sh, and on failure says its last lines."""
    container.start()
    tail: list[str] = []
    rest = ""
    for chunk in container.logs(stream=True, follow=True):
        *lines, rest = (rest + chunk.decode(errors="replace")).split("\n")
        for line in lines:
            if line.startswith("==> "):
                say(line.removeprefix("==> "))
        tail = [*tail, *lines][-40:]
    code = container.wait()["StatusCode"]
    if code != 0:
        raise BuildError(f"install.sh ended with {code}:\n" + last_lines([*tail, rest]))


def last_lines(lines: list[str]) -> str:
    """What to show of a log that ended badly."""
    return "\n".join(f"    | {line}" for line in lines[-25:])


def build(client: docker.DockerClient, content: str) -> str:
    """Builds the image for this content and returns its id."""
    base = debian_image(client)
    with tempfile.TemporaryDirectory(prefix="ds01-site-") as folder:
        build_site.write(Path(folder), SITE_DIR)
        with build_container(client, base, Path(folder)) as container:
            run_install(container)
            say("writing the image")
            changes = [*IMAGE_CHANGES, f"LABEL {CONTENT_LABEL}={content}"]
            image = container.commit(repository=REPOSITORY, tag=content, changes=changes)
    return str(image.id)


def ensure(client: docker.DockerClient, force: bool = False) -> dict[str, Any]:
    """Makes the image for the current content unless it exists; `latest` always names it."""
    started = time.monotonic()
    content = content_hash()
    tag = f"{REPOSITORY}:{content}"
    image_id = None if force else find_image(client, tag)
    built = image_id is None
    if image_id is None:
        image_id = build(client, content)
    client.images.get(image_id).tag(REPOSITORY, "latest")
    seconds = round(time.monotonic() - started, 1)
    say(f"built {tag} in {seconds} s" if built else f"{tag} is up to date")
    return {"tag": tag, "id": image_id, "built": built, "seconds": seconds}


def main() -> int:
    """Command line: build if needed, print the tag."""
    parser = argparse.ArgumentParser(prog="base_environment", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--force", action="store_true", help="build even if the image for this content exists")
    parser.add_argument("--print-tag", action="store_true", help="only print the tag of the current content")
    parser.add_argument("--json", action="store_true", help="print tag, id and time taken as JSON")
    options = parser.parse_args()
    if options.print_tag:
        print(f"{REPOSITORY}:{content_hash()}")
        return 0
    try:
        result = ensure(docker.from_env(timeout=BUILD_SILENCE_SECONDS), options.force)
    except (BuildError, APIError, DockerException) as error:
        print(f"The base environment could not be built: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result) if options.json else result["tag"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
