"""The deployment: reads config/hub.env and the environment, and wires every part together. No logic.

Environment wins over config/hub.env; every key is described in config/hub.env.example. What is a trait and has no key
there goes into config/site_config.py, which is run with `c` after the defaults and before the parts are made:

    c.DS01Hub.memory_reserve = 0.2
"""

from pathlib import Path

from ds01_spawner import api
from ds01_spawner.adapters.site_environ import site_environ
from ds01_spawner.hub import DS01Hub
from ds01_spawner.settings import read_settings
from ds01_spawner.spawner import DS01Spawner

HERE = Path(__file__).resolve().parent
s = read_settings(site_environ(), HERE)
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

# The hub.
c.JupyterHub.spawner_class = DS01Spawner
c.JupyterHub.bind_url = f"http://{s.bind}:{s.port}"
c.JupyterHub.db_url = f"sqlite:///{s.state}/hub/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = str(s.secrets / "cookie_secret")
c.JupyterHub.template_vars = {"announcement": s.announcement}
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = api.server_limit
# Containers are counted by our ledger, for the target user; a waiting request must not take a spawn slot.
c.JupyterHub.concurrent_spawn_limit = 0
c.JupyterHub.custom_scopes = api.CUSTOM_SCOPES
c.JupyterHub.load_roles = api.roles(s.admins)

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

# The site's own, which may change any of the above.
if s.site_config.exists():
    exec(compile(s.site_config.read_text(encoding="utf-8"), s.site_config, "exec"))  # noqa: S102  # the admin's file

# Made last, from all of that. The hub's API answers on the containers' bridge, never on a public address.
ds01 = DS01Spawner.ds01 = DS01Hub(config=c)
ds01.open()
c.JupyterHub.hub_bind_url = f"http://{ds01.gateway}:{ds01.hub_port}"
c.JupyterHub.extra_handlers = api.handlers(ds01)
