"""The peer: JupyterHub with stock DockerSpawner 14, and an image with our base environment's packages by plain pip.

Nothing is tuned and nothing is hobbled: pip's defaults, JupyterHub's own `jupyterhub-singleuser`, a volume as home, a
bridge of its own, the same memory and CPU limits as ours in the same run.
"""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from pathlib import Path

import docker
from docker.types import Mount

from ds01_spawner.admin import base_environment, build_site
from tests.running_hub import RunningHub

IMAGE = "ds01-bench/stock"
NETWORK = "ds01-bench-stock"
HOME = "/home/jovyan"
SCRIPT = f"""
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -qy install --no-install-recommends ca-certificates python3 python3-venv
python3 -m venv /opt/stock
/opt/stock/bin/pip install -r {base_environment.BUILD_DIR}/requirements.txt
useradd --create-home --home-dir {HOME} jovyan
"""
CHANGES = [
    "ENV PATH=/opt/stock/bin:/usr/local/bin:/usr/bin:/bin",
    "ENV LANG=C.UTF-8",
    "USER jovyan",
    f"WORKDIR {HOME}",
    'CMD ["jupyterhub-singleuser"]',
]
CONFIG = """
c = get_config()
c.JupyterHub.spawner_class = "docker"
c.DockerSpawner.image = "{image}"
c.DockerSpawner.network_name = "{network}"
c.DockerSpawner.use_internal_ip = True
c.DockerSpawner.remove = True
c.DockerSpawner.volumes = {{"{prefix}-{{username}}": "{home}"}}
c.DockerSpawner.prefix = "{prefix}"
c.DockerSpawner.mem_limit = "{memory}"
c.DockerSpawner.cpu_limit = {cpus}
# A start that is slow on a busy machine is to be counted, not to fail after the default 30 and 60 seconds.
c.DockerSpawner.http_timeout = 120
c.DockerSpawner.start_timeout = 180
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = "http://{gateway}:{hub_port}"
c.JupyterHub.cleanup_servers = False
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_api_port}"
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = "{password}"
c.Authenticator.allowed_users = {users}
c.JupyterHub.services = [{{"name": "tests", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [{{
    "name": "tests", "services": ["tests"], "scopes": ["admin:users", "admin:servers", "access:servers"],
}}]
"""


def ensure_image() -> str:
    """Build the image where its content isn't there yet; its tag."""
    client = docker.from_env(timeout=base_environment.BUILD_SILENCE_SECONDS)
    requirements = base_environment.SOURCE / "requirements.txt"
    content = hashlib.sha256("\n".join([SCRIPT, *CHANGES, requirements.read_text()]).encode()).hexdigest()[:12]
    tag = f"{IMAGE}:{content}"
    if base_environment.find_image(client, tag) is None:
        print(f"building the stock image {tag}", flush=True)
        _build(client, content)
    return tag


def _build(client: docker.DockerClient, content: str) -> None:
    base = base_environment.debian_image(client)
    with tempfile.TemporaryDirectory(prefix="ds01-stock-") as folder:
        build_site.write(Path(folder), base_environment.SITE_DIR)
        # The build's own settings are only mounted, and removed again: neither image has any of them.
        container = client.containers.create(
            base,
            command=["sh", "-c", f". {base_environment.SITE_DIR}/environment\n{SCRIPT}"],
            network_mode=base_environment.build_network(client),
            tmpfs={"/run": "", "/root/.cache": "", "/var/lib/apt/lists": "", "/var/cache/apt": ""},
            mounts=[
                Mount(base_environment.BUILD_DIR, str(base_environment.SOURCE), type="bind", read_only=True),
                Mount(base_environment.SITE_DIR, folder, type="bind", read_only=True),
            ],
        )
        try:
            base_environment.run_install(container)
            container.commit(repository=IMAGE, tag=content, changes=CHANGES)
        finally:
            container.remove(force=True, v=True)


def ensure_network() -> str:
    """A plain user-defined bridge; its gateway's address."""
    client = docker.from_env()
    found = client.networks.list(names=[f"^{NETWORK}$"]) or [client.networks.create(NETWORK, driver="bridge")]
    found[0].reload()
    return str(found[0].attrs["IPAM"]["Config"][0]["Gateway"])


class StockHub(RunningHub):
    """The same processes as ours, with JupyterHub's and DockerSpawner's defaults but for what a deployment must set."""

    memory = "700M"
    cpus = 2

    def _write_files(self) -> None:
        keys = self.state / "secrets"
        keys.mkdir(parents=True, mode=0o700)
        (keys / "proxy_token").write_text(secrets.token_hex(32))
        self.image = ensure_image()
        config = CONFIG.format(
            image=self.image,
            network=NETWORK,
            gateway=ensure_network(),
            prefix=f"stock-{self.instance}",
            home=HOME,
            memory=self.memory,
            cpus=self.cpus,
            port=self.port,
            hub_port=self.hub_port,
            proxy_api_port=self.proxy_api_port,
            password=self.password,
            users=set(self.users),
            token=self.token,
        )
        self.config.write_text(config)

    @property
    def config(self) -> Path:
        """A configuration of its own."""
        return self.root / "stock_config.py"

    def environment(self) -> dict[str, str]:
        """The test's own environment, and the proxy's token."""
        token = (self.state / "secrets/proxy_token").read_text()
        return {**super().environment(), "CONFIGPROXY_AUTH_TOKEN": token}

    def clean(self) -> None:
        """Take away its containers and volumes."""
        client = docker.from_env()
        for container in client.containers.list(all=True, filters={"name": f"^/stock-{self.instance}"}):
            container.remove(force=True, v=True)
        for volume in client.volumes.list(filters={"name": f"stock-{self.instance}"}):
            volume.remove(force=True)
