"""`python -m ds01_spawner.admin.bridge`: makes the containers' network if missing and prints its gateway's address.

`./run` needs the address before the hub is up: the proxy sends requests without a route to the hub's error page there.
"""

from __future__ import annotations

import argparse
import sys

import docker

from ds01_spawner.adapters.engine_network import ensure_bridge
from ds01_spawner.core.errors import ConfigError


def main() -> int:
    """Print the gateway's address; 1 and the reason where there can be none."""
    parser = argparse.ArgumentParser(prog="bridge", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", required=True, help="name of the containers' network")
    name = parser.parse_args().network
    try:
        print(ensure_bridge(docker.from_env().api, name, f"br-{name}"[:15]))
    except (ConfigError, docker.errors.DockerException) as problem:
        print(f"no containers' network: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
