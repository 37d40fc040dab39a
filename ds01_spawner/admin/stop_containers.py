"""`python -m ds01_spawner.admin.stop_containers --instance NAME`: ends all containers of one hub, for `./run stop`.

Each gets its time to end by itself. Volumes, and so users' files, stay. The ledger learns of it when the hub starts
again and finds them gone.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

import docker
from docker.errors import DockerException, NotFound
from docker.models.containers import Container

INSTANCE_LABEL = "ds01.instance"
GRACE_SECONDS = 10
AT_ONCE = 8


def end(container: Container) -> str | None:
    """Stops and removes one container; what went wrong, if anything."""
    try:
        container.stop(timeout=GRACE_SECONDS)
        container.remove(force=True)
    except NotFound:
        return None  # somebody else was faster
    except DockerException as problem:
        return f"{container.name}: {problem}"
    return None


def main() -> int:
    """End them all, several at once; 1 if one is left."""
    parser = argparse.ArgumentParser(prog="stop_containers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--instance", required=True, help=f"value of the label {INSTANCE_LABEL}")
    instance = parser.parse_args().instance
    client = docker.from_env(timeout=60 + GRACE_SECONDS)
    containers = client.containers.list(
        all=True, filters={"label": f"{INSTANCE_LABEL}={instance}"}, ignore_removed=True
    )
    if not containers:
        print("Containers: none to stop")
        return 0
    print(f"Containers: stopping {len(containers)}, up to {GRACE_SECONDS} s each ...", flush=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        problems = [problem for problem in pool.map(end, containers) if problem]
    for problem in problems:
        print(f"  not stopped: {problem}", file=sys.stderr)
    print(f"Containers: {len(containers) - len(problems)} stopped")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
