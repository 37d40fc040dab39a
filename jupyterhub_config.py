"""The deployment: reads config/hub.env and the environment, and wires every part together. No logic.

Environment wins over config/hub.env; every key is described in config/hub.env.example.
"""

import os
from pathlib import Path

from dotenv import dotenv_values

from ds01_spawner.hub import DS01Hub
from ds01_spawner.settings import read_settings
from ds01_spawner.spawner import DS01Spawner

HERE = Path(__file__).resolve().parent
s = read_settings({**dotenv_values(HERE / "config" / "hub.env"), **os.environ}, HERE)
c = get_config()  # noqa: F821  # traitlets puts it there

# The parts of ours.
c.DS01Hub.root = str(s.root)
c.DS01Hub.instance = s.instance
c.DS01Hub.resource_limits = str(s.resource_limits)
c.DS01Hub.ledger_url = s.ledger_url
c.DS01Hub.network = s.network
c.DS01Hub.egress = s.egress
c.DS01Hub.egress_allow = list(s.egress_allow)
c.DS01Hub.hub_port = s.hub_port
c.DS01Hub.proxy_port = s.port
c.DS01Hub.simulated_gpus = s.simulated_gpus
ds01 = DS01Spawner.ds01 = DS01Hub(config=c)
ds01.open()

# The hub: its API answers on the containers' bridge, never on a public address.
c.JupyterHub.spawner_class = DS01Spawner
c.JupyterHub.bind_url = f"http://{s.bind}:{s.port}"
c.JupyterHub.hub_bind_url = f"http://{ds01.gateway}:{s.hub_port}"
c.JupyterHub.db_url = f"sqlite:///{s.state}/hub/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = str(s.secrets / "cookie_secret")
c.JupyterHub.template_vars = {"announcement": s.announcement}
c.JupyterHub.allow_named_servers = True
# Containers are counted by our ledger, for the target user; a ticket must not take a spawn slot.
c.JupyterHub.concurrent_spawn_limit = 0
c.JupyterHub.extra_handlers = ds01.handlers()
c.JupyterHub.custom_scopes = ds01.custom_scopes
c.JupyterHub.load_roles = ds01.roles(s.admins)

# A restart of the hub cuts nobody off: containers stay, and the proxy is a process of its own.
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{s.proxy_api_port}"
c.ConfigurableHTTPProxy.auth_token = (s.secrets / "proxy_token").read_text(encoding="ascii").strip()

# Who gets in.
c.JupyterHub.authenticator_class = s.authenticator
c.Authenticator.admin_users = set(s.admins)
c.Authenticator.allow_all = s.allow_all
c.Authenticator.allowed_users = set(s.users)
c.PAMAuthenticator.open_sessions = False
if s.authenticator == "shared-password":
    c.SharedPasswordAuthenticator.user_password = s.shared_password
    c.SharedPasswordAuthenticator.admin_password = s.admin_password
