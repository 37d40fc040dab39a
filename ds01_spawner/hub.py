"""DS01Hub: the parts of one hub process, made in one place, and what the spawner and the API ask of them.

Built once by `jupyterhub_config.py`. Nothing else constructs an adapter.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from traitlets import Dict, Enum, Float, Int, List, Unicode
from traitlets.config import LoggingConfigurable

from ds01_spawner import options_form
from ds01_spawner.adapters.clock import system_clock
from ds01_spawner.adapters.engine import DockerEngine
from ds01_spawner.adapters.event_log import EventLog, fan_out
from ds01_spawner.adapters.firewall import Firewall
from ds01_spawner.adapters.host import UserFolders, read_host
from ds01_spawner.adapters.identity import IdentityFiles
from ds01_spawner.adapters.ledger import SqlLedger
from ds01_spawner.adapters.lock_file import LockFile
from ds01_spawner.adapters.metrics import Metrics
from ds01_spawner.adapters.nvml import NvmlInventory
from ds01_spawner.adapters.quota_yaml import QuotaFile
from ds01_spawner.adapters.seed_files import SeedFiles
from ds01_spawner.adapters.simulated_gpus import SimulatedInventory
from ds01_spawner.allocator import Allocator
from ds01_spawner.core import wire
from ds01_spawner.core.admission import Host
from ds01_spawner.core.errors import LedgerUnavailable
from ds01_spawner.core.grant import Availability
from ds01_spawner.core.limits import Limits, ResolvedLimits
from ds01_spawner.core.ports import Engine, GpuInventory
from ds01_spawner.core.principals import Principal
from ds01_spawner.core.quota import clamp, resolve
from ds01_spawner.core.report import Report
from ds01_spawner.core.usage import Usage, usage_of
from ds01_spawner.launch import Launcher, Site, shared_mounts
from ds01_spawner.lifecycle import ContainerLifecycle
from ds01_spawner.reconciler import Reconciler

T = TypeVar("T")


class DS01Hub(LoggingConfigurable):
    """What an admin configures, with the parts that this makes of it."""

    root = Unicode("/", help="Folder before var/lib/ds01 and var/log/ds01. Default /, the seed's own paths.").tag(
        config=True
    )
    instance = Unicode("main", help="Name of this install: containers of other instances are left alone.").tag(
        config=True
    )
    resource_limits = Unicode(help="The YAML file of limits. Read again at each start.").tag(config=True)
    ledger_url = Unicode("", help="SQLAlchemy URL of the ledger. Empty: SQLite under the root.").tag(config=True)
    network = Unicode("ds01", help="Name of the containers' bridge network, made when missing.").tag(config=True)
    egress = Enum(
        ["internet", "none", "all"],
        "internet",
        help="What containers reach outside: the internet without private ranges, nothing, or everything.",
    ).tag(config=True)
    egress_allow = List(Unicode(), help="Networks (CIDR) that stay reachable: a package mirror, a file server.").tag(
        config=True
    )
    hub_port = Int(8081, help="Port of the hub's API on the bridge's gateway.").tag(config=True)
    proxy_port = Int(8000, help="The public port, reachable from containers too.").tag(config=True)
    simulated_gpus = Unicode("", help="A file of config/simulated/ instead of the machine's GPUs.").tag(config=True)
    node = Unicode("local", help="Name of this machine in leases and device ids.").tag(config=True)
    environments = Dict(
        {"base": "ds01/base:latest"}, help="Environment name to image reference; the first is the default."
    ).tag(config=True)
    memory_reserve = Float(
        0.1,
        min=0,
        max=0.9,
        help="Part of the host's memory that no container gets. Default 0.1; less risks the host, more wastes it.",
    ).tag(config=True)
    first_uid = Int(
        200_000, min=1000, help="First uid for users without a system account. Change only before the first user."
    ).tag(config=True)
    reconcile_every = Float(
        15.0, min=1, help="Seconds between two comparisons of ledger, engine and GPUs. Each costs one listing."
    ).tag(config=True)
    ready_timeout = Float(
        90.0, min=5, help="Seconds that JupyterLab may take to answer after its container started."
    ).tag(config=True)
    data = Unicode("", help="Host folder seen read-only as /data. Empty: none.").tag(config=True)
    models = Unicode("", help="Host folder seen read-only as /models. Empty: none.").tag(config=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> DS01Hub:
        """Itself: traitlets copies the values of a configuration, and threads and sockets can't be copied."""
        return self

    # -- making the parts; tests put a fake in place of one

    def make_engine(self) -> Engine:
        """The users' container engine."""
        return DockerEngine()

    def make_inventory(self) -> GpuInventory:
        """The GPUs of this node, real or simulated."""
        if self.simulated_gpus:
            return SimulatedInventory(Path(self.simulated_gpus), self.node, system_clock)
        return NvmlInventory(self.node, clock=system_clock)

    def make_host(self) -> Host:
        """Memory and CPUs of this machine."""
        return read_host(self.memory_reserve)

    def open(self) -> None:
        """Make every part, the network and the firewall. Blocks; called once, before the hub serves.

        Raises ConfigError where the limits file was never readable, Unavailable where the engine or the ledger is.
        """
        os.umask(0o077)
        for folder in (self.state / "hub", self.state / "secrets", self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self.executor = ThreadPoolExecutor(8, thread_name_prefix="ds01")
        self.quota = QuotaFile(Path(self.resource_limits))
        self.host = self.make_host()
        self.engine = self.make_engine()
        self.inventory = self.make_inventory()
        self.label_key = _secret(self.state / "secrets/label_key")
        self._open_allocator()
        self.launcher = Launcher(
            self._site(),
            self.engine,
            self.allocator,
            self.lifecycle,
            UserFolders(self.state),
            IdentityFiles(self.state / "identity", self.engine),
        )
        self.gateway = self.open_network()
        with suppress(RuntimeError):
            # The hub reads its configuration on its loop: compare at once, not at the first start. Commands such as
            # `jupyterhub token` have no loop and start nothing.
            asyncio.get_running_loop()
            # Whatever another process left half done is nobody's: so there must not be another.
            self.lock = LockFile(self.state / "hub/lock")
            self.reconciler.start()

    def _open_allocator(self) -> None:
        self.metrics, self.seed_files = Metrics(), SeedFiles(Path(self.root))
        self.allocator = Allocator(
            SqlLedger(self.ledger_url or f"sqlite:///{self.state}/hub/ledger.sqlite"),
            self.inventory,
            clock=system_clock,
            node=self.node,
            host=self.host,
            events=fan_out(EventLog(self.logs / "events.jsonl"), self.metrics, self.seed_files),
        )
        self.lifecycle = ContainerLifecycle(
            self.allocator, self.engine, instance=self.instance, label_key=self.label_key
        )
        self.reconciler = Reconciler(
            self.allocator,
            self.engine,
            instance=self.instance,
            label_key=self.label_key,
            clock=system_clock,
            every=self.reconcile_every,
            observe=self.after_reconcile,
        )

    def after_reconcile(self, report: Report) -> None:
        """Called in a thread: metrics, the seed's files, and the packet filter, which others may have taken away."""
        self.metrics.observe(report)
        self.seed_files.export(report)
        self.assert_firewall()

    def assert_firewall(self) -> None:
        """Put the containers' packet filter in force again."""
        self.firewall.apply()

    def _site(self) -> Site:
        return Site(
            instance=self.instance,
            label_key=self.label_key,
            network=self.network,
            host=self.host,
            environments=self.environments,
            first_uid=self.first_uid,
            ready_timeout=self.ready_timeout,
            simulated=bool(self.simulated_gpus),
            shared=shared_mounts(self.data, self.models),
        )

    def open_network(self) -> str:
        """Make the bridge and close the host and the private networks to it; the gateway's address."""
        bridge = f"br-{self.network}"[:15]
        gateway = _now(self.engine.ensure_network(self.network, bridge=bridge))
        ports = (self.hub_port, self.proxy_port)
        self.firewall = Firewall(bridge, gateway, ports=ports, egress=self.egress, allow=self.egress_allow)
        self.firewall.apply()
        return gateway

    @property
    def state(self) -> Path:
        """Where everything that lasts is kept."""
        return Path(self.root) / "var/lib/ds01"

    @property
    def logs(self) -> Path:
        """Where logs are written."""
        return Path(self.root) / "var/log/ds01"

    # -- what the spawner asks

    @property
    def environment_names(self) -> tuple[str, ...]:
        """The environments that this hub offers, default first."""
        return tuple(self.environments)

    async def ready(self) -> None:
        """Returns when the first reconcile of this process is done; starts it where nobody did."""
        await self.reconciler.first()

    async def resolve(self, user: str, groups: Sequence[str]) -> ResolvedLimits:
        """The user's limits, from the file as it is now (or the last good one), lowered to what this machine has."""
        policy, problem = await asyncio.to_thread(self.quota.snapshot)
        resolved = clamp(resolve(policy, Principal(user, tuple(groups)), now=system_clock()), self.host)
        if problem is not None:
            resolved = replace(
                resolved, notes=(*resolved.notes, f"the limits file is broken, the last good one counts: {problem}")
            )
        return resolved

    async def usage(self, user: str) -> Usage:
        """What the user's live leases add up to."""
        return usage_of(await self.allocator.live(), user)

    async def devices(self) -> dict[str, Any]:
        """What is free by class, for anybody to see."""
        await self.ready()
        offered = await self.allocator.availability(ResolvedLimits("", None, Limits()))
        return wire.availability(offered)

    async def form(self, resolved: ResolvedLimits, *, admin: bool = False) -> options_form.FormModel:
        """The spawn form's content for one user; an admin is told too when the limits file is broken."""
        await self.ready()
        try:
            offered = await self.allocator.availability(resolved)
        except LedgerUnavailable:
            # A start without GPU works all the same.
            offered = Availability(frozen="the ledger gives no answer", simulated=bool(self.simulated_gpus))
        model = options_form.form_model(resolved, self.environment_names, offered)
        _, problem = await asyncio.to_thread(self.quota.snapshot)
        if admin and problem is not None:
            broken = f"The limits file is broken, so the last good one counts: {problem}."
            return replace(model, notice=f"{broken} {model.notice}".strip())
        return model


def _now(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from code that isn't async, whether or not a loop runs in this thread."""
    with ThreadPoolExecutor(1) as one:
        return one.submit(asyncio.run, work).result()


def _secret(file: Path) -> bytes:
    """A secret's bytes; made by `./run` with mode 0600."""
    return bytes.fromhex(file.read_text(encoding="ascii").strip())
