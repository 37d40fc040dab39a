"""What a container may reach: the packet filter's rules as plain data.

Two chains for the containers' bridge. IN: from a container to this machine itself; only the ports named, and DNS.
FWD: from a container to anywhere else; never to a container of the same bridge. `RETURN` means that nothing here
stands against a packet: the site's own rules still see it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum

from ds01_spawner.core.errors import ConfigError

#: Closed in `internet` mode: private, shared, link-local with the metadata services, loopback, multicast, reserved.
CLOSED = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
DNS_PORT = 53
PORTS = range(1, 1 << 16)
_BRIDGE = re.compile(r"[a-z][a-z0-9-]{0,14}")
_ALLOWED = re.compile(r"(?P<network>[0-9.]+(?:/[0-9]+)?)(?::(?P<port>[0-9]+))?")


class Egress(StrEnum):
    """How far a container's packets go: the internet without private ranges, nowhere, or everywhere."""

    INTERNET = "internet"
    NONE = "none"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Allowed:
    """A network that stays reachable; one port of it (TCP and UDP), or all."""

    network: str
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for all containers of one bridge.

    `gateway` is the bridge's address on this machine and `host_ports` the TCP ports that answer there; `dns` the
    machine's own resolvers, which the engine's DNS asks from inside a container's network.
    """

    bridge: str
    gateway: str
    host_ports: tuple[int, ...]
    egress: Egress = Egress.INTERNET
    allow: tuple[Allowed, ...] = ()
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of ours, its rules in order, and the chains that may lead to it: the first one that there is does."""

    name: str
    hooks: tuple[str, ...]
    hook: tuple[str, ...]
    rules: tuple[tuple[str, ...], ...]


def parse_allowed(text: str) -> Allowed:
    """Read `10.1.2.0/24`, `10.1.2.3` or either with `:443`. Raises ConfigError that says what would be right."""
    found = _ALLOWED.fullmatch(text.strip())
    right = "Write an IPv4 network such as 10.1.2.0/24 or 10.1.2.3, with :PORT for one port only."
    if not found:
        raise ConfigError(f"{text!r} is not a network. {right}", key="egress_allow")
    try:
        network = ipaddress.IPv4Network(found["network"])
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a network: {error}. {right}", key="egress_allow") from None
    port = int(found["port"]) if found["port"] else None
    if port is not None and port not in PORTS:
        raise ConfigError(f"{text!r}: a port is from 1 to 65535. {right}", key="egress_allow")
    return Allowed(str(network), port)


def make_policy(
    bridge: str, gateway: str, host_ports: tuple[int, ...], *, egress: str, allow: tuple[str, ...], dns: tuple[str, ...]
) -> Policy:
    """A policy from settings, checked. Raises ConfigError."""
    if not _BRIDGE.fullmatch(bridge):
        raise ConfigError(f"{bridge!r} is not a bridge's name: a-z, 0-9 and -, at most 15", key="network")
    if egress not in set(Egress):
        raise ConfigError(f"{egress!r} is not one of {', '.join(Egress)}", key="egress")
    wrong = [port for port in host_ports if port not in PORTS]
    if wrong:
        raise ConfigError(f"{wrong[0]} is not a port from 1 to 65535", key="hub_port")
    return Policy(
        bridge, str(ipaddress.IPv4Address(gateway)), host_ports, Egress(egress), tuple(map(parse_allowed, allow)), dns
    )


def nameservers(resolv_conf: str) -> tuple[str, ...]:
    """The IPv4 name servers of a resolv.conf. Loopback ones are left out: the engine asks those itself."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ipaddress.IPv4Address(words[1])
        except ValueError:
            continue
        if not address.is_loopback:
            found.append(str(address))
    return tuple(found)


def chains(policy: Policy) -> tuple[Chain, Chain]:
    """The IPv4 chains of a policy."""
    return _inward(policy), _forward(policy)


def chains6(policy: Policy) -> tuple[Chain, Chain]:
    """The IPv6 chains: the bridge has no IPv6, so nothing passes."""
    inward, forward = chains(policy)
    drop = (("-j", "DROP"),)
    return (
        Chain(inward.name, inward.hooks, inward.hook, drop),
        Chain(forward.name, forward.hooks, forward.hook, drop),
    )


def _inward(policy: Policy) -> Chain:
    name = f"DS01-{policy.bridge}-IN"
    rules: list[tuple[str, ...]] = [("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")]
    rules += [
        ("-d", f"{policy.gateway}/32", "-p", "tcp", "-m", "tcp", "--dport", str(port), "-j", "ACCEPT")
        for port in policy.host_ports
    ]
    rules += _dns(policy, "ACCEPT")
    return Chain(name, ("INPUT",), ("-i", policy.bridge, "-j", name), (*rules, *_refuse()))


def _forward(policy: Policy) -> Chain:
    name = f"DS01-{policy.bridge}-FWD"
    rules: list[tuple[str, ...]] = [("-o", policy.bridge, "-j", "DROP")]
    rules += _dns(policy, "RETURN")
    rules += [rule for allowed in policy.allow for rule in _allow(allowed)]
    if policy.egress is Egress.INTERNET:
        rules += [rule for network in CLOSED for rule in _refuse("-d", network)]
    if policy.egress is Egress.NONE:
        rules += _refuse()
    return Chain(name, ("DOCKER-USER", "FORWARD"), ("-i", policy.bridge, "-j", name), (*rules, ("-j", "RETURN")))


def _dns(policy: Policy, target: str) -> list[tuple[str, ...]]:
    """Name resolution; with no way out there is none, since questions carry data out too."""
    if policy.egress is Egress.NONE:
        return []
    return [
        ("-d", f"{server}/32", "-p", protocol, "-m", protocol, "--dport", str(DNS_PORT), "-j", target)
        for server in policy.dns
        for protocol in ("udp", "tcp")
    ]


def _allow(allowed: Allowed) -> list[tuple[str, ...]]:
    if allowed.port is None:
        return [("-d", allowed.network, "-j", "RETURN")]
    return [
        ("-d", allowed.network, "-p", protocol, "-m", protocol, "--dport", str(allowed.port), "-j", "RETURN")
        for protocol in ("tcp", "udp")
    ]


def _refuse(*match: str) -> tuple[tuple[str, ...], ...]:
    """A refusal that is seen at once instead of a wait for a time-out."""
    return (
        (*match, "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"),
        (*match, "-j", "REJECT", "--reject-with", "icmp-port-unreachable"),
    )


def restore_script(wanted: tuple[Chain, ...], listing: str) -> str:
    """Input for `iptables-restore --noflush`, all or nothing: the chains anew, each hooked in as the first rule.

    `listing` is what `iptables -S` says now. A hook that is in its place stays; one elsewhere is taken out.
    """
    lines = ["*filter", *(f":{chain.name} - [0:0]" for chain in wanted)]
    for chain in wanted:
        lines += [_line("-A", chain.name, *rule) for rule in chain.rules]
        place = (_built_in(chain, listing), *chain.hook)
        rules = [rule for rule in _rules(listing) if rule[-2:] == ("-j", chain.name)]
        if rules != [place] or _first(listing, place[0]) != place:
            lines += [_line("-D", *rule) for rule in rules]
            lines.append(_line("-I", place[0], "1", *chain.hook))
    return "\n".join([*lines, "COMMIT", ""])


def removal_script(unwanted: tuple[Chain, ...], listing: str) -> str:
    """Input for `iptables-restore --noflush` that takes out these chains with all that leads to them, and no more."""
    lines = ["*filter", *(f":{chain.name} - [0:0]" for chain in unwanted)]
    for chain in unwanted:
        lines += [_line("-D", *rule) for rule in _rules(listing) if rule[-2:] == ("-j", chain.name)]
    lines += [_line("-X", chain.name) for chain in unwanted]
    return "\n".join([*lines, "COMMIT", ""])


def _line(*words: str) -> str:
    return " ".join(words)


def _rules(listing: str) -> list[tuple[str, ...]]:
    """The rules of an `iptables -S` listing: chain, then match and target."""
    return [tuple(line.split()[1:]) for line in listing.splitlines() if line.startswith("-A ")]


def _first(listing: str, chain: str) -> tuple[str, ...]:
    return next((rule for rule in _rules(listing) if rule[0] == chain), ())


def _built_in(chain: Chain, listing: str) -> str:
    """The chain to hook into: the first of its hooks that there is, the last one always being there."""
    there = {line.split()[1] for line in listing.splitlines() if line.startswith("-N ")}
    return next((hook for hook in chain.hooks if hook in there), chain.hooks[-1])
