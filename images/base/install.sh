#!/bin/sh
# Turns a minimal Debian 12 into the base environment. Runs once, as root, in the container that becomes the image;
# this folder is mounted beside it. A line that starts with "==> " is shown to the person who waits.
set -eu
cd "$(dirname "$0")"
export DEBIAN_FRONTEND=noninteractive

echo "==> Debian's security updates"
apt-get -q update
apt-get -qy upgrade

echo "==> Debian packages: Python, git, ssh server, tools"
# No starting of services in a build.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
apt-get -qy install --no-install-recommends \
    ca-certificates python3 python3-venv git git-lfs openssh-client openssh-server openssh-sftp-server tini \
    bash curl tar gzip bzip2 xz-utils unzip less nano vim-tiny procps locales
rm /usr/sbin/policy-rc.d

echo "==> JupyterLab"
# With the system's packages visible, `pip install` of a user who may not write here falls back to ~/.local; the
# environment's own packages are found first, so nothing in ~/.local can break the server.
python3 -m venv --system-site-packages /opt/ds01
/opt/ds01/bin/pip install -q --no-cache-dir --no-compile -r requirements.txt
# Imported at every start of a server, it would build a grammar for 0.7 s, to check one format in event schemas that
# has no place here (international links). Without it that one check is left out.
/opt/ds01/bin/pip uninstall -qy rfc3987-syntax lark

echo "==> entry point and start hooks"
site_packages=$(/opt/ds01/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
install -m 644 ds01_fast_start.py "$site_packages"
install -m 755 jupyterhub-singleuser /opt/ds01/bin
install -D -m 644 -t /opt/ds01/etc/jupyter jupyter_server_config.json
install -D -m 755 -t /usr/local/bin ds01-start
install -D -m 755 -t /etc/ds01/start.d start.d/*
install -m 644 profile.sh /etc/profile.d/ds01.sh

echo "==> compiling and cleaning"
# "Unchecked", since no user can write here: nobody needs to look whether a source is newer than its compiled file.
/opt/ds01/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/ds01/lib /usr/lib/python3.11 || true
# Keys that the package made would be the same in every container.
rm -f /etc/ssh/ssh_host_*
# Files of the build and of the machine it ran on.
apt-get clean
rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/debconf/*-old /root/.cache /root/.config
: >/etc/machine-id
