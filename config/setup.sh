# shellcheck shell=sh disable=SC2034,SC2154 # variables are shared with the scripts that read this file
# What `run` and `test` share: making a bare Debian ready, step by step. POSIX sh, needs only Debian's minimal base.
# The reader sets `here` (the checkout) and `total_steps` first.

venv=$here/.venv
python=$venv/bin/python
proxy_program=$venv/chp/node_modules/.bin/configurable-http-proxy
proxy_version='>=5.3.0 <6'

fail() { echo "$(basename "$0"): $*" >&2; exit 1; }

# ---- root ------------------------------------------------------------------------------------------------------

# Names of the variables that a site's network and our settings need; values stay off every command line.
kept_variables() {
    env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p' | grep -E \
        '^(DS01_.*|PIP_.*|npm_config_.*|NPM_CONFIG_.*|https?_proxy|no_proxy|all_proxy|HTTPS?_PROXY|NO_PROXY|ALL_PROXY|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|NODE_EXTRA_CA_CERTS|DOCKER_HOST|LANG|TERM)$'
}

# as_root ARGS... : continues as root; runs the calling script again through sudo where needed.
as_root() {
    [ "$(id -u)" != 0 ] || return 0
    command -v sudo >/dev/null || fail "needs root: run it as root, or install sudo"
    # pip and npm look for a user's own settings in a home directory that root does not have.
    for file in "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf"; do
        if [ -z "${PIP_CONFIG_FILE:-}" ] && [ -f "$file" ]; then export PIP_CONFIG_FILE="$file"; fi
    done
    if [ -z "${npm_config_userconfig:-}" ] && [ -f "$HOME/.npmrc" ]; then export npm_config_userconfig="$HOME/.npmrc"; fi
    exec sudo --preserve-env="$(kept_variables | paste -sd, -)" "$here/$(basename "$0")" "$@"
}

# ---- telling how far it is -------------------------------------------------------------------------------------

exec 3>&1
setup_log=
current_step=
step_number=0

# step TITLE COMMAND... : runs it with its output in the log, and says how long it took. What must be seen goes to fd 3.
step() {
    current_step=$1; shift
    step_number=$((step_number + 1))
    [ -n "$setup_log" ] || { setup_log=$(mktemp /tmp/ds01-setup.XXXXXX); trap 'end_of_steps $?' EXIT; }
    begin=$(date +%s)
    printf '[%d/%d] %s ... ' "$step_number" "$total_steps" "$current_step"
    told=
    "$@" >>"$setup_log" 2>&1
    [ -z "$told" ] || printf '\n      '
    echo "$(($(date +%s) - begin)) s"
    current_step=
}

# A line below the step that is running.
tell() { printf '\n      %s' "$*" >&3; told=yes; }

# end_of_steps CODE : says why a step failed, and ends with that code.
end_of_steps() {
    code=$1
    if [ "$code" -ne 0 ] && [ -n "$current_step" ]; then
        printf '\n\nFailed: %s. The last lines of its output (all of it: %s):\n' "$current_step" "$setup_log" >&2
        tail -n 20 "$setup_log" | sed 's/^/    | /' >&2
    else
        rm -f "$setup_log"
    fi
    exit "$code"
}

# hash FILE... : of their contents and of this checkout's place, which an editable install contains.
hash() { { echo "$here"; cat "$@"; } | sha256sum | cut -c1-16; }

# ---- settings --------------------------------------------------------------------------------------------------

# load_settings FILE : KEY=VALUE lines into the environment; what the environment has already wins. Nothing is executed.
load_settings() {
    [ -f "$1" ] || return 0
    number=0
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        case $line in '' | '#'*) continue ;; esac
        key=${line%%=*}
        grep -qE "^#?$key=" "$here/config/hub.env.example" 2>/dev/null && [ "$key" != "$line" ] ||
            fail "$1, line $number: '$key' is not a setting; config/hub.env.example has them all"
        # The key is one of the known names by now, so this cannot run anything else.
        eval "is_set=\${$key+yes}"
        [ -n "$is_set" ] || export "$key=${line#*=}"
    done <"$1"
}

# default KEY VALUE : also for a key that is set to nothing.
default() {
    eval "value=\${$1:-}"
    export "$1=${value:-$2}"
}

# ---- packages --------------------------------------------------------------------------------------------------

# missing_packages COMMAND:PACKAGE... : the packages whose command (or /file) is not there.
missing_packages() {
    for pair in "$@"; do
        thing=${pair%%:*}
        if ! PATH="$PATH:/usr/sbin:/sbin" command -v "$thing" >/dev/null && ! [ -e "$thing" ]; then echo "${pair#*:}"; fi
    done
}

install_packages() {
    [ $# -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "please install: $* (this machine has no apt-get)"
    tell "installing: $*"
    DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND
    apt-get -q update
    apt-get -qy install --no-install-recommends "$@"
}

# hub_packages MORE... : what the hub needs, and more that is already known to be missing.
hub_packages() {
    # shellcheck disable=SC2046 # one word is one package
    install_packages $(missing_packages python3:python3 node:nodejs npm:npm iptables:iptables ip:iproute2 \
        debootstrap:debootstrap ps:procps /etc/ssl/certs/ca-certificates.crt:ca-certificates) \
        $(python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv) "$@"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed"
}

# python_packages EXTRA : the virtual environment with this checkout, installed again only when its needs change.
python_packages() {
    stamp=$venv/installed-$1-$(hash "$here/setup.py" "$here/pyproject.toml")
    if [ -e "$stamp" ] && "$python" -c ''; then return 0; fi
    # One that was made elsewhere, or by a Python that is gone, has wrong paths inside.
    if ! "$python" -c '' 2>/dev/null || ! grep -qF "$venv" "$venv/pyvenv.cfg"; then
        rm -rf "$venv"
        python3 -m venv "$venv"
    fi
    "$python" -m pip install --quiet --disable-pip-version-check --editable "${here}[$1]"
    rm -f "$venv/installed-$1-"*
    : >"$stamp"
}

proxy_package() {
    stamp=$venv/chp/installed-$(echo "$proxy_version" | cksum | cut -d' ' -f1)
    if [ -e "$stamp" ] && [ -x "$proxy_program" ]; then return 0; fi
    mkdir -p "$venv/chp"
    npm --prefix "$venv/chp" install --no-audit --no-fund --omit=dev "configurable-http-proxy@$proxy_version"
    : >"$stamp"
}

# ---- engine and base environment -------------------------------------------------------------------------------

engine_answers() { "$python" -c 'import docker; docker.from_env(timeout=10).ping()' 2>/dev/null; }

# Uses the engine that answers; installs and starts Debian's where there is none.
engine() {
    if engine_answers; then return 0; fi
    [ -z "${DOCKER_HOST:-}" ] || fail "no container engine answers at DOCKER_HOST=$DOCKER_HOST"
    # shellcheck disable=SC2046
    install_packages $(missing_packages dockerd:docker.io)
    if [ -d /run/systemd/system ]; then
        systemctl enable --now docker
    elif ! engine_answers; then
        mkdir -p /var/log/ds01
        tell "no systemd here: starting dockerd, log /var/log/ds01/engine.log"
        PATH="$PATH:/usr/sbin:/sbin" setsid dockerd >>/var/log/ds01/engine.log 2>&1 </dev/null 3>&- &
    fi
    tries=0
    until engine_answers; do
        tries=$((tries + 1))
        if [ "$tries" -gt 60 ]; then
            tail -n 15 /var/log/ds01/engine.log 2>/dev/null || true
            fail "the container engine was installed but does not answer"
        fi
        sleep 1
    done
}

base_environment() {
    echo >&3
    "$python" -m ds01_spawner.admin.base_environment 2>&3
    printf '      ' >&3
}
