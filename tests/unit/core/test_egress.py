"""The packet filter's rules as data: a small interpreter of them says what becomes of a packet."""

from __future__ import annotations

import ipaddress
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.egress import (
    Allowed,
    Chain,
    Policy,
    chains,
    chains6,
    make_policy,
    nameservers,
    parse_allowed,
    removal_script,
    restore_script,
)
from ds01_spawner.core.errors import ConfigError

GATEWAY = "10.99.0.1"
PORTS = (8081, 8000)


def policy(egress: str = "internet", **changes: Any) -> Policy:
    settings: dict[str, Any] = {"egress": egress, "allow": (), "dns": ("192.168.7.7",), **changes}
    return make_policy("br-ds01", GATEWAY, PORTS, **settings)


def verdict(
    chain: Chain, to: str, port: int = 443, protocol: str = "tcp", *, out: str = "eth0", old: bool = False
) -> str:
    """What the first matching rule does with a packet; `CONTINUE` where none matches."""
    for rule in chain.rules:
        words = dict(itertools.pairwise(rule))
        if (
            words.get("-o", out) == out
            and words.get("-p", protocol) == protocol
            and words.get("--dport", str(port)) == str(port)
            and ipaddress.ip_address(to) in ipaddress.ip_network(words.get("-d", "0.0.0.0/0"))
            and ("--ctstate" not in words or old)
        ):
            return words["-j"]
    return "CONTINUE"


# -- to the host


@pytest.mark.parametrize("egress", ["internet", "none", "all"])
def test_of_the_host_only_the_two_ports_answer(egress: str) -> None:
    """The hub's API and the public port, on TCP, at the gateway's address, in each mode."""
    inward, _ = chains(policy(egress))
    assert [verdict(inward, GATEWAY, port) for port in PORTS] == ["ACCEPT", "ACCEPT"]
    assert verdict(inward, GATEWAY, 22) == "REJECT"
    assert verdict(inward, GATEWAY, 8081, "udp") == "REJECT"
    assert verdict(inward, "192.168.0.5", 8081) == "REJECT"


@given(st.integers(1, 65535), st.ip_addresses(v=4), st.sampled_from(["tcp", "udp", "icmp"]))
def test_no_other_packet_reaches_the_host(port: int, to: ipaddress.IPv4Address, protocol: str) -> None:
    """For every port, address and protocol: accepted only if it is named."""
    inward, _ = chains(policy())
    named = (str(to) == GATEWAY and protocol == "tcp" and port in PORTS) or (str(to) == "192.168.7.7" and port == 53)
    assert (verdict(inward, str(to), port, protocol) == "ACCEPT") <= named


def test_answers_to_the_hub_pass() -> None:
    """The hub opens connections to containers; their answers come back."""
    inward, _ = chains(policy())
    assert verdict(inward, GATEWAY, 50000, old=True) == "ACCEPT"


def test_a_host_that_is_its_own_resolver_answers_questions() -> None:
    """Name resolution works where the machine's resolver is the machine; without a way out there is none."""
    assert verdict(chains(policy())[0], "192.168.7.7", 53, "udp") == "ACCEPT"
    assert verdict(chains(policy("none"))[0], "192.168.7.7", 53, "udp") == "REJECT"


# -- beyond the host

PRIVATE = ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "169.254.169.254", "127.0.0.1",
           "224.0.0.251", "0.0.0.0", "255.255.255.255"]  # fmt: skip


@pytest.mark.parametrize("to", PRIVATE)
def test_private_and_metadata_addresses_are_closed_in_internet_mode(to: str) -> None:
    """The site's own network and the cloud's metadata are out of reach, the internet is not."""
    _, forward = chains(policy())
    assert verdict(forward, to) == "REJECT"
    assert verdict(forward, to, protocol="icmp") == "REJECT"
    assert verdict(forward, "93.184.216.34") == "RETURN"
    assert verdict(forward, "172.32.0.1") == "RETURN"


def test_the_resolver_is_reachable_for_questions_only() -> None:
    """The engine asks it from inside the container's network; its other ports stay closed."""
    _, forward = chains(policy())
    assert [verdict(forward, "192.168.7.7", 53, p) for p in ("udp", "tcp")] == ["RETURN", "RETURN"]
    assert verdict(forward, "192.168.7.7", 22) == "REJECT"


@pytest.mark.parametrize("to", ["93.184.216.34", "192.168.7.7", "10.0.0.1"])
def test_nothing_is_reachable_in_none_mode(to: str) -> None:
    """Not even the resolver: questions carry data out."""
    assert verdict(chains(policy("none"))[1], to, 53, "udp") == "REJECT"


def test_everything_but_other_containers_is_reachable_in_all_mode() -> None:
    """`all` opens the site's network, never the neighbours."""
    _, forward = chains(policy("all"))
    assert verdict(forward, "10.0.0.1") == "RETURN"
    assert verdict(forward, "10.99.0.7", out="br-ds01") == "DROP"


@pytest.mark.parametrize("egress", ["internet", "none", "all"])
def test_containers_never_reach_each_other(egress: str) -> None:
    """No mode and no allowed network opens the way to a neighbour."""
    _, forward = chains(policy(egress, allow=("10.99.0.0/24",)))
    assert verdict(forward, "10.99.0.7", out="br-ds01") == "DROP"


@pytest.mark.parametrize("egress", ["internet", "none"])
def test_an_allowed_network_is_reachable(egress: str) -> None:
    """A package mirror in the site's network, or the only thing that is reachable at all."""
    _, forward = chains(policy(egress, allow=("10.5.0.0/16", "10.6.0.1:3142")))
    assert verdict(forward, "10.5.3.3", 22) == "RETURN"
    assert [verdict(forward, "10.6.0.1", 3142, p) for p in ("tcp", "udp")] == ["RETURN", "RETURN"]
    assert verdict(forward, "10.6.0.1", 22) == "REJECT"


def test_ipv6_is_closed_altogether() -> None:
    """The bridge has none, so what comes by it is not meant to."""
    for chain4, chain6 in zip(chains(policy("all")), chains6(policy("all")), strict=True):
        assert (chain6.name, chain6.hook) == (chain4.name, chain4.hook)
        assert chain6.rules == (("-j", "DROP"),)


# -- settings


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("10.1.2.0/24", Allowed("10.1.2.0/24")),
        (" 10.1.2.3 ", Allowed("10.1.2.3/32")),
        ("10.1.2.3:443", Allowed("10.1.2.3/32", 443)),
        ("10.0.0.0/8:53", Allowed("10.0.0.0/8", 53)),
    ],
)
def test_an_allowed_network_is_an_address_or_a_network_with_or_without_port(text: str, allowed: Allowed) -> None:
    """What an admin would write is read."""
    assert parse_allowed(text) == allowed


@pytest.mark.parametrize("text", ["", "mirror.lab", "10.1.2.3/24", "10.0.0.0/33", "10.0.0.1:0", "10.0.0.1:70000",
                                  "fd00::/8", "10.0.0.1 -j ACCEPT", "10.0.0.1:443\n-A INPUT"])  # fmt: skip
def test_what_is_no_network_is_refused_with_what_would_be_right(text: str) -> None:
    """A typing error is an error, and no text becomes a rule of its own."""
    with pytest.raises(ConfigError, match="IPv4 network such as"):
        parse_allowed(text)


@pytest.mark.parametrize(
    ("bridge", "ports", "egress"),
    [("Bad bridge", (80,), "all"), ("a" * 16, (80,), "all"), ("ds01", (0,), "all"), ("ds01", (80,), "some")],
)
def test_impossible_settings_are_refused(bridge: str, ports: tuple[int, ...], egress: str) -> None:
    """Nothing that iptables would stumble over, or read as something else, gets that far."""
    with pytest.raises(ConfigError):
        make_policy(bridge, GATEWAY, ports, egress=egress, allow=(), dns=())


def test_name_servers_are_read_without_loopback_and_ipv6() -> None:
    """The engine asks a loopback resolver by itself, and the bridge has no IPv6."""
    local = "# a\nnameserver 127.0.0.53\nnameserver fd00::1\nnameserver\nsearch lab\n"
    text = f"{local}nameserver 10.1.1.1 x\nnameserver 8.8.8.8"
    assert nameservers(text) == ("10.1.1.1", "8.8.8.8")


# -- what iptables is told

EMPTY = "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n"
DOCKER = EMPTY + "-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\n"


def hooks(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith(("-I", "-D"))]


def test_the_chains_are_hooked_in_first_before_dockers_rules() -> None:
    """Docker's own place for site rules is taken where there is one, FORWARD where there is none."""
    both = chains(policy())
    assert hooks(restore_script(both, DOCKER)) == [
        "-I INPUT 1 -i br-ds01 -j DS01-br-ds01-IN",
        "-I DOCKER-USER 1 -i br-ds01 -j DS01-br-ds01-FWD",
    ]
    assert hooks(restore_script(both, EMPTY))[1] == "-I FORWARD 1 -i br-ds01 -j DS01-br-ds01-FWD"


def test_hooks_in_their_place_are_left_alone() -> None:
    """Asserting the rules again changes nothing that is right."""
    there = DOCKER.replace("-A DOCKER-USER -j RETURN\n", "-A DOCKER-USER -i br-ds01 -j DS01-br-ds01-FWD\n")
    there += "-A INPUT -i br-ds01 -j DS01-br-ds01-IN\n-A INPUT -j ACCEPT\n"
    assert hooks(restore_script(chains(policy()), there)) == []


def test_hooks_out_of_place_are_moved_to_the_front() -> None:
    """A rule before ours could let everything in; a second hook, or one in the wrong chain, goes."""
    there = (
        DOCKER + "-A INPUT -j ACCEPT\n-A INPUT -i br-ds01 -j DS01-br-ds01-IN\n-A INPUT -i br-ds01 -j DS01-br-ds01-IN\n"
    )
    there += "-A FORWARD -i br-ds01 -j DS01-br-ds01-FWD\n"
    assert hooks(restore_script(chains(policy()), there)) == [
        "-D INPUT -i br-ds01 -j DS01-br-ds01-IN",
        "-D INPUT -i br-ds01 -j DS01-br-ds01-IN",
        "-I INPUT 1 -i br-ds01 -j DS01-br-ds01-IN",
        "-D FORWARD -i br-ds01 -j DS01-br-ds01-FWD",
        "-I DOCKER-USER 1 -i br-ds01 -j DS01-br-ds01-FWD",
    ]


def test_a_script_is_one_transaction_with_every_rule() -> None:
    """All rules or none: an error in one leaves the old ones in force."""
    both = chains(policy())
    lines = restore_script(both, EMPTY).splitlines()
    assert (lines[0], lines[-1]) == ("*filter", "COMMIT")
    assert lines.count("*filter") == 1
    added = [line for line in lines if line.startswith("-A")]
    assert added == [" ".join(("-A", chain.name, *rule)) for chain in both for rule in chain.rules]
    assert [line for line in lines if line.startswith(":")] == [f":{chain.name} - [0:0]" for chain in both]


def test_removal_takes_out_our_chains_and_hooks_and_no_more() -> None:
    """The site's rules and another bridge's stay."""
    there = DOCKER + "-A INPUT -i br-ds01 -j DS01-br-ds01-IN\n-A INPUT -i br-x -j DS01-br-x-IN\n-A INPUT -j LOG\n"
    lines = removal_script(chains(policy()), there).splitlines()
    assert lines == [
        "*filter",
        ":DS01-br-ds01-IN - [0:0]",
        ":DS01-br-ds01-FWD - [0:0]",
        "-D INPUT -i br-ds01 -j DS01-br-ds01-IN",
        "-X DS01-br-ds01-IN",
        "-X DS01-br-ds01-FWD",
        "COMMIT",
    ]
