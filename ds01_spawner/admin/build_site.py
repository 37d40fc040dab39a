"""What a site's network asks of an image build: CA bundle, pip and apt settings, proxies.

Settings come from `DS01_BUILD_*`; where those are silent, from what this host itself uses. They are written into a
folder that a build mounts read-only: pip and apt settings may hold credentials, so nothing of them may end in an image.
Used by `base_environment`.
"""

from __future__ import annotations

import ast
import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

DEFAULT_MIRROR = "http://deb.debian.org/debian"
DEFAULT_SECURITY = "http://deb.debian.org/debian-security"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
HOST_CA = Path("/etc/ssl/certs/ca-certificates.crt")
CA_SETTINGS = ("DS01_BUILD_CA_BUNDLE", "SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PROXY_SETTINGS = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
# The only pip settings that say where packages come from; all others are this host's own business.
PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries", "find-links")

APT_KEYS = tuple(f"Acquire::{key}" for key in ("http", "https", "Retries", "Check-", "ForceIPv"))


def apt_sources(mirror: str, security: str) -> str:
    """Debian 12 with its updates and security updates."""
    return f"deb {mirror} bookworm main\ndeb {mirror} bookworm-updates main\ndeb {security} bookworm-security main\n"


PUBLIC_APT_SOURCES = apt_sources(DEFAULT_MIRROR, DEFAULT_SECURITY)


def apt_mirror() -> str:
    """Where Debian packages come from: as set, else the Debian mirror that this host uses, else the public one."""
    return os.environ.get("DS01_BUILD_APT_MIRROR") or host_archive(security=False) or DEFAULT_MIRROR


def security_mirror() -> str:
    """The same for security updates: by Debian's convention a mirror's sibling folder."""
    wanted = os.environ.get("DS01_BUILD_APT_MIRROR", "").rstrip("/")
    if wanted.endswith("/debian"):
        return wanted + "-security"
    return host_archive(security=True) or DEFAULT_SECURITY


def host_archive(security: bool) -> str | None:
    """The Debian archive in this host's apt sources, in either of apt's two formats."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(path.read_text(errors="replace") for path in files if path.is_file())
    for url in re.findall(r"^(?:URIs:|deb(?:\s+\[[^\]]*\])?)\s+(https?://\S+)", text, re.MULTILINE):
        is_security = "security" in url.rstrip("/").rsplit("/", 1)[-1]
        if "debian" in url.rstrip("/").rsplit("/", 1)[-1] and is_security == security:
            return str(url).rstrip("/")
    return None


def keyring_option() -> list[str]:
    """debootstrap's own default is the host's keyring, which on another distribution is not Debian's."""
    return [f"--keyring={KEYRING}"] if KEYRING.is_file() else []


def ca_bundle() -> Path | None:
    """The certificates that this host trusts: a lab's proxy often has its own."""
    for name in CA_SETTINGS:
        path = Path(os.environ.get(name) or "/nonexistent")
        if path.is_file():
            return path
    return HOST_CA if HOST_CA.is_file() else None


def pip_settings() -> dict[str, str]:
    """Where this host's pip looks for packages, from its files and its environment, without what is local to it."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found: dict[str, str] = {}
    for line in sorted(listing.splitlines()):  # ":env:" sorts first, files must not override it
        name, _, value = line.partition("=")
        key = re.split(r"[.]", name, maxsplit=1)[-1]
        if key in PIP_KEYS and key not in found:
            words = [word for word in str(ast.literal_eval(value)).split() if is_reachable_from_a_container(word, key)]
            if words:
                found[key] = "\n".join(words)
    return found


def is_reachable_from_a_container(word: str, key: str) -> bool:
    """Paths and file: addresses exist on this host only."""
    return "://" in word and not word.startswith("file:") if key.endswith(("-url", "-links")) else True


def write_pip_conf(path: Path) -> None:
    """Writes the pip settings for a build: as set, else this host's."""
    given = os.environ.get("DS01_BUILD_PIP_CONF")
    if given:
        shutil.copyfile(given, path)
        return
    settings = configparser.RawConfigParser()
    settings["global"] = pip_settings()
    with path.open("w") as file:
        settings.write(file)


def write_apt(folder: Path, seen_at: str) -> None:
    """Writes apt's sources and settings; `folder` is seen by the build as `seen_at`."""
    (folder / "sources.list").write_text(apt_sources(apt_mirror(), security_mirror()))
    lines = [
        f'Dir::Etc::SourceList "{seen_at}/sources.list";',
        'Dir::Etc::SourceParts "-";',
        'APT::Install-Recommends "false";',
        'Acquire::Languages "none";',
    ]
    if shutil.which("apt-config"):
        dump = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False).stdout
        lines += [line for line in dump.splitlines() if line.startswith(APT_KEYS) and ' ""' not in line]
    passwords = Path("/etc/apt/auth.conf")
    if passwords.is_file():
        shutil.copyfile(passwords, folder / "auth.conf")
        lines.append(f'Dir::Etc::Netrc "{seen_at}/auth.conf";')
    (folder / "apt.conf").write_text("\n".join(lines) + "\n")


def build_environment(folder: Path, seen_at: str) -> dict[str, str]:
    """The variables that make pip, apt and TLS in a build use what `folder` has, and this host's proxies."""
    environment = {"PIP_CONFIG_FILE": f"{seen_at}/pip.conf", "APT_CONFIG": f"{seen_at}/apt.conf"}
    if (folder / "ca.crt").exists():
        for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            environment[name] = f"{seen_at}/ca.crt"
    for name in PROXY_SETTINGS:
        for spelling in (name, name.upper()):
            if spelling in os.environ:
                environment[spelling] = os.environ[spelling]
    return environment


def write(folder: Path, seen_at: str) -> None:
    """Writes all settings into `folder`, which the build sees as `seen_at`; a shell reads `environment` there first."""
    write_pip_conf(folder / "pip.conf")
    write_apt(folder, seen_at)
    bundle = ca_bundle()
    if bundle:
        shutil.copyfile(bundle, folder / "ca.crt")
    variables = build_environment(folder, seen_at)
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    (folder / "environment").write_text("".join(lines))
