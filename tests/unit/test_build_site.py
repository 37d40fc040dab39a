"""What a site's settings become in an image build: all that it needs, and nothing that is only this host's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ds01_spawner.admin import build_site


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*build_site.CA_SETTINGS, "DS01_BUILD_PIP_CONF", "DS01_BUILD_APT_MIRROR", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in build_site.PROXY_SETTINGS:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def pip_says(monkeypatch: pytest.MonkeyPatch, listing: str) -> None:
    answer = subprocess.CompletedProcess([], 0, stdout=listing)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: answer)


def test_local_pip_addresses_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container has none of this host's folders: paths and file: addresses would only break its build."""
    pip_says(
        monkeypatch,
        "global.extra-index-url='file:///mirror/simple https://pypi.lab.example/simple'\n"
        "global.find-links='/wheels'\nglobal.cert='/etc/lab.pem'\nglobal.timeout='60'\n",
    )
    assert build_site.pip_settings() == {"extra-index-url": "https://pypi.lab.example/simple", "timeout": "60"}


def test_pip_environment_wins_over_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in pip itself."""
    pip_says(monkeypatch, "global.index-url='https://file.example/'\n:env:.index-url='https://env.example/'\n")
    assert build_site.pip_settings() == {"index-url": "https://env.example/"}


def test_a_given_pip_conf_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also what we would not have found ourselves."""
    given = tmp_path / "given.conf"
    given.write_text("[global]\nindex-url = https://user:word@pypi.lab.example/simple\n")
    monkeypatch.setenv("DS01_BUILD_PIP_CONF", str(given))
    build_site.write_pip_conf(tmp_path / "pip.conf")
    assert (tmp_path / "pip.conf").read_text() == given.read_text()


@pytest.mark.parametrize(
    ("mirror", "security"),
    [
        ("http://mirror.lab.example/debian", "http://mirror.lab.example/debian-security"),
        ("http://mirror.lab.example/debian/", "http://mirror.lab.example/debian-security"),
    ],
)
def test_a_mirror_has_security_updates_beside_it(monkeypatch: pytest.MonkeyPatch, mirror: str, security: str) -> None:
    """By Debian's convention for mirrors."""
    monkeypatch.setenv("DS01_BUILD_APT_MIRROR", mirror)
    assert (build_site.apt_mirror(), build_site.security_mirror()) == (mirror, security)


def test_a_shell_reads_back_what_was_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Proxies with odd characters too, and the CA bundle under each name that tools look for."""
    bundle = tmp_path / "lab.pem"
    bundle.write_text("certificates")
    monkeypatch.setenv("DS01_BUILD_CA_BUNDLE", str(bundle))
    monkeypatch.setenv("https_proxy", "http://me:it's $HOME@proxy.lab.example:3128")
    site = tmp_path / "site"
    site.mkdir()
    build_site.write(site, str(site))
    script = f'. {site}/environment && printf "%s|%s" "$https_proxy" "$(cat "$PIP_CERT")"'
    output = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert output == "http://me:it's $HOME@proxy.lab.example:3128|certificates"
