"""The packet filter of the containers' bridge, by iptables-restore: whole chains at once, ours only.

Blocks for a moment: on the event loop call it in a thread. Needs root. Everything is asserted anew by each `apply`,
since a reload of the site's own firewall may take our chains away.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from ds01_spawner.core import egress as rules
from ds01_spawner.core.errors import FirewallUnavailable

#: Seconds for one call; iptables waits for its lock for at most LOCK of them.
DEADLINE = 20.0
LOCK = "10"
#: With systemd's stub resolver in the first file, the second one has the servers that the engine really asks.
RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))

#: There where the kernel has IPv6; where it has none, nothing needs to be closed.
IPV6 = Path("/proc/net/if_inet6")


class Firewall:
    """What containers on `bridge` may reach. `gateway` is the bridge's address on this machine.

    `ports`: TCP ports of this machine that they may reach at that address. `egress`: `internet` (private ranges
    closed), `none` or `all`. `allow`: networks that stay reachable, `10.1.2.0/24` or `10.1.2.3:443`, in each mode.
    `dns`: the machine's name servers, by default those of its resolv.conf. Raises ConfigError for impossible values.
    """

    def __init__(
        self,
        bridge: str,
        gateway: str,
        *,
        ports: Sequence[int],
        egress: str = "internet",
        allow: Sequence[str] = (),
        dns: Sequence[str] | None = None,
    ) -> None:
        servers = read_nameservers() if dns is None else tuple(dns)
        self.policy = rules.make_policy(bridge, gateway, tuple(ports), egress=egress, allow=tuple(allow), dns=servers)

    def apply(self) -> None:
        """Put the rules in force, first in line. Repeatable. Raises FirewallUnavailable; then nothing changed."""
        for tool, chains in self._tables():
            _restore(tool, rules.restore_script(chains, _listing(tool)))

    def remove(self) -> None:
        """Take out our chains and nothing else. Repeatable. Raises FirewallUnavailable."""
        for tool, chains in self._tables():
            _restore(tool, rules.removal_script(chains, _listing(tool)))

    def _tables(self) -> list[tuple[str, tuple[rules.Chain, ...]]]:
        tables: list[tuple[str, tuple[rules.Chain, ...]]] = [("iptables", rules.chains(self.policy))]
        if IPV6.exists():
            tables.append(("ip6tables", rules.chains6(self.policy)))
        return tables


def read_nameservers(files: Sequence[Path] = RESOLV_CONF) -> tuple[str, ...]:
    """The name servers that the engine asks for containers: of the first file that names any."""
    for file in files:
        if file.is_file() and (found := rules.nameservers(file.read_text(encoding="utf-8", errors="replace"))):
            return found
    return ()


def _listing(tool: str) -> str:
    return _run([tool, "--wait", LOCK, "-S"])


def _restore(tool: str, script: str) -> None:
    _run([f"{tool}-restore", "--noflush", "--wait", LOCK], script)


def _run(command: list[str], text: str = "") -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=DEADLINE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FirewallUnavailable(f"{command[0]} can't be run: {error}") from error
    if done.returncode != 0:
        raise FirewallUnavailable(f"{command[0]}: {done.stderr.strip() or done.returncode}")
    return done.stdout
