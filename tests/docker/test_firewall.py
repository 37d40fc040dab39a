"""What real containers reach through the packet filter: the two ports of the host, the internet, and nobody else.

Runs only inside the test engine's own network namespace (`tests/engine.sh exec`): it changes packet filter rules.
Beyond the bridge lies a namespace with addresses of three kinds: private, metadata and public.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import docker
import pytest

from ds01_spawner.adapters import firewall as module
from ds01_spawner.adapters.engine import DockerEngine
from ds01_spawner.adapters.firewall import Firewall
from ds01_spawner.core.errors import FirewallUnavailable
from tests.docker.conftest import Box

BRIDGE = "br-fw-test"
NETWORK = "ds01-fw-test"
HUB, PUBLIC, SSH = 18081, 18000, 10022
PRIVATE, METADATA, INTERNET = "10.98.7.2", "169.254.169.254", "203.0.113.2"
#: Says hello to whoever connects: an answer is proof of reachability, silence of nothing.
SERVER = """
import socket, sys, threading
def serve(port):
    s = socket.create_server(("0.0.0.0", port))
    if port == PORTS[-1]: print("ready", flush=True)
    while True:
        c, _ = s.accept()
        c.sendall(b"hello\\n"); c.close()
PORTS = [int(p) for p in sys.argv[1:]]
for p in PORTS[:-1]: threading.Thread(target=serve, args=(p,), daemon=True).start()
serve(PORTS[-1])
"""


def sh(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def rules() -> str:
    return sh("iptables", "-S") + sh("ip6tables", "-S")


@pytest.fixture(scope="module")
def world() -> Iterator[None]:
    """A namespace beyond this one, with servers, and servers on this host."""
    lab = os.environ.get("DS01_TEST_LAB")
    if not lab:
        pytest.skip("not in a test lab: run it by tests/engine.sh exec")
    beyond = f"{lab}-beyond"
    with ExitStack() as stack:
        subprocess.run(["ip", "netns", "del", beyond], capture_output=True, check=False)
        sh("ip", "netns", "add", beyond)
        stack.callback(sh, "ip", "netns", "del", beyond)
        for command in (
            f"ip link add dsbeyond type veth peer name eth0 netns {beyond}",
            "ip addr add 10.98.7.1/24 dev dsbeyond",
            "ip addr add 203.0.113.1/24 dev dsbeyond",
            "ip link set dsbeyond up",
            f"ip -n {beyond} addr add {PRIVATE}/24 dev eth0",
            f"ip -n {beyond} addr add {INTERNET}/24 dev eth0",
            f"ip -n {beyond} addr add {METADATA}/32 dev lo",
            f"ip -n {beyond} link set lo up",
            f"ip -n {beyond} link set eth0 up",
            f"ip -n {beyond} route add default via 10.98.7.1",
            f"ip route add {METADATA}/32 via {PRIVATE}",
        ):
            sh(*command.split())
        _serve(stack, ["nsenter", f"--net=/run/netns/{beyond}"], (53, 80, 443))
        _serve(stack, [], (HUB, PUBLIC, SSH))
        yield


def _serve(stack: ExitStack, inside: Sequence[str], ports: Sequence[int]) -> None:
    command = [*inside, sys.executable, "-c", SERVER, *map(str, ports)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    stack.enter_context(server.stdout)
    stack.callback(server.wait)
    stack.callback(server.kill)
    assert server.stdout.readline() == "ready\n"


@pytest.fixture
async def gateway(world: None, engine: DockerEngine) -> str:
    """The containers' network."""
    return await engine.ensure_network(NETWORK, bridge=BRIDGE)


@pytest.fixture
def filters(gateway: str) -> Iterator[Any]:
    """Makes firewalls and puts them in force; they are gone after the test."""
    made: list[Firewall] = []

    def make(**settings: Any) -> Firewall:
        firewall = Firewall(BRIDGE, gateway, **{"ports": (HUB, PUBLIC), "dns": (), **settings})
        made.append(firewall)
        firewall.apply()
        return firewall

    yield make
    for firewall in made:
        firewall.remove()


class Client:
    """A container that tries addresses."""

    def __init__(self, box: Box, network: str = NETWORK) -> None:
        self._box = box
        self.id = box.shell(HostConfig={"NetworkMode": network})
        found = box.api.inspect_container(self.id)["NetworkSettings"]["Networks"][network]
        self.ip = str(found["IPAddress"])

    def reaches(self, address: str, port: int) -> bool:
        command = f"nc -w 3 {address} {port} </dev/null"
        return self._box.execute(self.id, "sh", "-c", command)[1] == "hello\n"

    def serve(self, port: int) -> None:
        loop = f"while true; do echo hello | nc -l -p {port}; done"
        assert self._box.execute(self.id, "sh", "-c", f"({loop}) >/dev/null 2>&1 &")[0] == 0


@pytest.fixture
def client(gateway: str, box: Box) -> Client:
    """One container on the network."""
    return Client(box)


def test_without_the_firewall_all_is_open(client: Client, gateway: str) -> None:
    """What the tests below find closed is closed by our rules and by nothing else."""
    assert all(client.reaches(gateway, port) for port in (HUB, PUBLIC, SSH))
    assert all(client.reaches(address, 80) for address in (PRIVATE, METADATA, INTERNET))


def test_of_the_host_two_ports_answer(client: Client, gateway: str, filters: Any) -> None:
    """The hub's API and the public port; not its SSH, and not by another of its addresses."""
    filters()
    assert client.reaches(gateway, HUB)
    assert client.reaches(gateway, PUBLIC)
    assert not client.reaches(gateway, SSH)
    assert not client.reaches("10.98.7.1", HUB)
    assert not client.reaches("10.98.7.1", SSH)


def test_private_and_metadata_addresses_are_closed_and_the_internet_open(client: Client, filters: Any) -> None:
    """By default: the way out, past the site's own network."""
    filters()
    assert client.reaches(INTERNET, 80)
    assert not client.reaches(PRIVATE, 80)
    assert not client.reaches(METADATA, 80)


def test_an_allowed_network_and_port_are_reachable(client: Client, filters: Any) -> None:
    """A mirror in the site's network; only its port where one is named."""
    filters(allow=("10.98.7.0/24:443",))
    assert client.reaches(PRIVATE, 443)
    assert not client.reaches(PRIVATE, 80)
    filters(allow=("10.98.7.0/24",))
    assert client.reaches(PRIVATE, 80)


def test_the_resolver_answers_questions_only(client: Client, filters: Any) -> None:
    """A resolver in the site's network is reachable on its port and no other."""
    filters(dns=(PRIVATE,))
    assert client.reaches(PRIVATE, 53)
    assert not client.reaches(PRIVATE, 80)


def test_none_closes_every_way_out(client: Client, gateway: str, filters: Any) -> None:
    """Only the hub is left."""
    filters(egress="none", dns=(PRIVATE,))
    assert not client.reaches(INTERNET, 80)
    assert not client.reaches(PRIVATE, 53)
    assert client.reaches(gateway, HUB)


def test_all_opens_every_way_out_but_not_the_host(client: Client, gateway: str, filters: Any) -> None:
    """The site's network, not the machine itself."""
    filters(egress="all")
    assert client.reaches(PRIVATE, 80)
    assert client.reaches(METADATA, 80)
    assert not client.reaches(gateway, SSH)


def test_containers_do_not_reach_each_other_and_the_host_reaches_them(client: Client, box: Box, filters: Any) -> None:
    """The network's own setting closes it, the hub still gets through."""
    filters(egress="all")
    neighbour = Client(box)
    neighbour.serve(8888)
    assert _host_reaches(neighbour.ip, 8888)
    assert not client.reaches(neighbour.ip, 8888)


def test_our_own_rule_keeps_containers_apart_too(world: None, box: Box, engine_api: docker.APIClient) -> None:
    """On a bridge that lets containers talk, the firewall alone stops them."""
    bridge = "br-fw-icc"
    network = engine_api.create_network(bridge, driver="bridge", options={"com.docker.network.bridge.name": bridge})
    gateway = engine_api.inspect_network(network["Id"])["IPAM"]["Config"][0]["Gateway"]
    firewall = Firewall(bridge, gateway, ports=(HUB,), egress="all", dns=())
    try:
        client, neighbour = Client(box, bridge), Client(box, bridge)
        neighbour.serve(8888)
        assert _host_reaches(neighbour.ip, 8888)
        assert client.reaches(neighbour.ip, 8888)
        firewall.apply()
        assert not client.reaches(neighbour.ip, 8888)
        assert _host_reaches(neighbour.ip, 8888)
    finally:
        firewall.remove()
        box.clean()
        engine_api.remove_network(network["Id"])


def _host_reaches(address: str, port: int) -> bool:
    for _ in range(100):  # the server in the container needs a moment to listen
        try:
            with socket.create_connection((address, port), timeout=5) as connection:
                return connection.recv(10) == b"hello\n"
        except ConnectionRefusedError:
            threading.Event().wait(0.05)
    return False


def test_asserting_again_changes_nothing_and_removal_leaves_nothing(gateway: str, filters: Any) -> None:
    """The same rules after each call; without them exactly what was there before."""
    before = rules()
    firewall = filters()
    once = rules()
    firewall.apply()
    assert rules() == once
    assert "DS01-br-fw-test-IN" in once
    firewall.remove()
    assert rules() == before
    firewall.remove()
    assert rules() == before


def test_rules_that_somebody_broke_are_put_back(client: Client, gateway: str, filters: Any) -> None:
    """A reload of the site's firewall, or a rule that comes before ours, holds until the next assertion."""
    firewall = filters()
    sh("iptables", "-F", "DS01-br-fw-test-IN")
    sh("iptables", "-I", "INPUT", "1", "-i", BRIDGE, "-j", "ACCEPT")
    try:
        assert client.reaches(gateway, SSH)
        firewall.apply()
        assert not client.reaches(gateway, SSH)
        assert client.reaches(gateway, HUB)
    finally:
        sh("iptables", "-D", "INPUT", "-i", BRIDGE, "-j", "ACCEPT")


def test_ipv6_of_the_bridge_is_closed(filters: Any) -> None:
    """Both ways, in its own table."""
    filters()
    listing = sh("ip6tables", "-S")
    assert f"-A INPUT -i {BRIDGE} -j DS01-{BRIDGE}-IN" in listing
    assert listing.count("-j DROP") >= 2


def test_a_firewall_that_cannot_be_set_is_an_error(
    gateway: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is started behind a wall that isn't there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FirewallUnavailable):
        Firewall(BRIDGE, gateway, ports=(HUB,), dns=()).apply()


def test_a_rule_that_the_kernel_refuses_leaves_the_old_ones_in_force(
    client: Client, gateway: str, filters: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All or nothing: a failed change never leaves an open gap."""
    firewall = filters()
    before = rules()
    monkeypatch.setattr(
        module.rules, "restore_script", lambda *_: f"*filter\n-F DS01-{BRIDGE}-IN\n-A NO-SUCH-CHAIN -j DROP\nCOMMIT\n"
    )
    with pytest.raises(FirewallUnavailable):
        firewall.apply()
    assert rules() == before
    assert not client.reaches(gateway, SSH)


def test_name_servers_come_from_the_first_file_that_has_any(tmp_path: Path) -> None:
    """Behind systemd's stub the second file has the servers that are really asked."""
    stub, real = tmp_path / "resolv.conf", tmp_path / "systemd.conf"
    stub.write_text("nameserver 127.0.0.53\n")
    real.write_text("nameserver 10.1.1.1\n")
    assert module.read_nameservers((stub, real)) == ("10.1.1.1",)
    assert module.read_nameservers((tmp_path / "none", stub)) == ()
