#!/bin/sh
# A private Docker Engine for tests: own network namespace, own data, own sockets, so that nothing on this machine is disturbed.
#
#   tests/engine.sh up              make it, or clean it if it is already there
#   tests/engine.sh exec CMD...     run CMD in its network, with DOCKER_HOST set
#   tests/engine.sh restart [KILL]  restart the engine inside it, as a crash would with KILL
#   tests/engine.sh down            take away all that `up` made; downloaded and built images stay on disk
#   tests/engine.sh purge           down, and remove those too
#
# DS01_TEST_NAME (default ds01-test) names it: two labs with different names live side by side.
# DS01_TEST_DIR  (default /var/lib/NAME) holds the engine's data between runs.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
name=${DS01_TEST_NAME:-ds01-test}
data=${DS01_TEST_DIR:-/var/lib/$name}
run=/run/$name
netns=/run/netns/$name
socket=$run/docker.sock
hook_dir=$run/hook
log=$data/engine.log

fail() { echo "tests/engine.sh: $*" >&2; exit 1; }
say() { echo "test engine: $*"; }

[ "$(id -u)" = 0 ] || fail "needs root (run it through sudo)"
case $name in *[!a-z0-9-]* | '') fail "DS01_TEST_NAME may have a-z, 0-9 and - only" ;; esac

saved() { cat "$run/$1" 2>/dev/null || true; }

# The engine's own pid, or nothing: a pid file alone proves nothing, so the process must carry our socket's path.
engine_pid() {
    pid=$(saved engine.pid)
    if [ -n "$pid" ] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "-H unix://$socket"; then echo "$pid"; fi
}

answers() { [ -n "$(engine_pid)" ] && [ -S "$socket" ] && grep -qs 'API listen on' "$log"; }

# ---- network ---------------------------------------------------------------------------------------------------

# Prints the first N whose 10.97.N.0/24 nothing on this machine uses.
free_subnet() {
    used=$(ip -4 route show table all)
    n=1
    while echo "$used" | grep -q "10\.97\.$n\."; do n=$((n + 1)); done
    [ "$n" -lt 255 ] || fail "no free network among 10.97.0.0/16"
    echo "$n"
}

# add_rule / del_rule TABLE POSITION CHAIN MATCH... : each is safe to repeat.
add_rule() {
    table=$1 how=$2; shift 2
    iptables -w -t "$table" -C "$@" 2>/dev/null || iptables -w -t "$table" "$how" "$@"
}
del_rule() {
    table=$1; shift
    while iptables -w -t "$table" -D "$@" 2>/dev/null; do :; done
}

network_up() {
    n=$(free_subnet)
    veth=dst$n
    echo "$n" >"$run/subnet"
    ip netns add "$name"
    ip link add "$veth" type veth peer name eth0 netns "$name"
    ip addr add "10.97.$n.1/24" dev "$veth"
    ip link set "$veth" up
    inside ip link set lo up
    inside ip addr add "10.97.$n.2/24" dev eth0
    inside ip link set eth0 up
    inside ip route add default via "10.97.$n.1"
    # Left on afterwards, as every Docker Engine does: somebody else may rely on it by then.
    echo 1 >/proc/sys/net/ipv4/ip_forward
    add_rule nat -A POSTROUTING -s "10.97.$n.0/24" ! -o "$veth" -j MASQUERADE
    add_rule filter -I FORWARD -i "$veth" -j ACCEPT
    add_rule filter -I FORWARD -o "$veth" -j ACCEPT
}

network_down() {
    n=$(saved subnet)
    [ ! -e "$netns" ] || ip netns del "$name"
    [ -n "$n" ] || return 0
    veth=dst$n
    ip link del "$veth" 2>/dev/null || true
    del_rule nat POSTROUTING -s "10.97.$n.0/24" ! -o "$veth" -j MASQUERADE
    del_rule filter FORWARD -i "$veth" -j ACCEPT
    del_rule filter FORWARD -o "$veth" -j ACCEPT
}

inside() { nsenter --net="$netns" "$@"; }

# ---- engine ----------------------------------------------------------------------------------------------------

# A process that holds the lab's mount and network namespace, so that the engine can be restarted inside them.
# The fresh tmpfs keep this engine off the files of another engine and of another containerd (both have fixed paths).
hold_namespaces() {
    mkdir -p /run/docker /run/containerd
    setsid unshare --mount nsenter --net="$netns" sh -c '
        mount -t tmpfs none /run/docker && mount -t tmpfs none /run/containerd && : >"$0" && exec sleep infinity' \
        "$run/namespaces-ready" >>"$log" 2>&1 </dev/null &
    echo $! >"$run/holder.pid"
    wait_until "its namespaces were not made" test -e "$run/namespaces-ready"
    # A cgroup of its own is how `down` finds processes of containers that outlived a killed engine.
    echo "$name-$(od -An -N4 -tx4 /dev/urandom | tr -d ' ')" >"$run/cgroup"
}

# wait_until COMPLAINT CONDITION... : for at most 60 seconds.
wait_until() {
    complaint=$1; shift
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        if [ "$tries" -gt 600 ]; then tail -n 15 "$log" >&2; fail "$complaint; its log: $log"; fi
        sleep 0.1
    done
}

engine_up() {
    mkdir -p "$data/engine" "$run/exec"
    : >"$log"
    DS01_TEST_HOOK_DIR=$hook_dir PATH="$here/fakes/nvidia-hook:/usr/sbin:/sbin:$PATH" \
        setsid nsenter --target "$(saved holder.pid)" --mount --root --net dockerd \
        -H "unix://$socket" --data-root "$data/engine" --exec-root "$run/exec" --pidfile "$run/dockerd.pid" \
        --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$(saved cgroup)" \
        --bip 10.99.255.1/24 --default-address-pool base=10.99.0.0/17,size=24 \
        >>"$log" 2>&1 </dev/null &
    echo $! >"$run/engine.pid"
    wait_until "dockerd did not start" answers
}

# end_engine SIGNAL
end_engine() {
    pid=$(engine_pid)
    [ -n "$pid" ] || return 0
    kill "-$1" "$pid" 2>/dev/null || true
    tries=0
    while [ -e "/proc/$pid" ] && [ "$tries" -lt 150 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill -9 "$pid" 2>/dev/null || true
}

# Processes in this lab's cgroups: containers, also those whose engine died.
container_pids() {
    cgroup=$(saved cgroup)
    [ -n "$cgroup" ] || return 0
    find /sys/fs/cgroup -path "*/$cgroup/*" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -un
}

kill_containers() {
    tries=0
    while pids=$(container_pids) && [ -n "$pids" ] && [ "$tries" -lt 50 ]; do
        # shellcheck disable=SC2086 # one argument for each pid
        kill -9 $pids 2>/dev/null || true
        tries=$((tries + 1))
        sleep 0.1
    done
}

engine_down() {
    kill_containers
    end_engine TERM
    # What is left in this network namespace was started by the engine or by `exec`.
    if [ -e "$netns" ]; then
        for pid in $(ip netns pids "$name" 2>/dev/null); do
            [ "$pid" = $$ ] || kill -9 "$pid" 2>/dev/null || true
        done
    fi
    remove_cgroups
}

remove_cgroups() {
    cgroup=$(saved cgroup)
    [ -n "$cgroup" ] || return 0
    find /sys/fs/cgroup -depth -type d \( -path "*/$cgroup" -o -path "*/$cgroup/*" \) -exec rmdir {} + 2>/dev/null || true
}

# ---- commands --------------------------------------------------------------------------------------------------

down() {
    [ -d "$run" ] || return 0
    engine_down
    network_down
    rm -rf "$run"
    rmdir /run/docker /run/containerd 2>/dev/null || true
}

up() {
    command -v dockerd >/dev/null || [ -x /usr/sbin/dockerd ] || fail "no dockerd on this machine: apt-get install docker.io"
    down
    mkdir -p "$hook_dir" "$data"
    chmod 700 "$run" "$data"
    : >"$log"
    network_up
    hold_namespaces
    engine_up
    # Containers of an earlier run that crashed; images stay, they are the cache.
    rm_all_containers
    say "up: DOCKER_HOST=unix://$socket, network 10.97.$(saved subnet).0/24, log $log"
}

# No docker command is needed on the machine: the engine's API speaks HTTP, and python3 has a client for it.
rm_all_containers() {
    inside python3 - "$socket" <<'PY'
import http.client, json, socket, sys

class Engine(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])

def call(method, path):
    engine = Engine("engine")
    engine.request(method, path)
    return engine.getresponse().read()

for container in json.loads(call("GET", "/containers/json?all=1")):
    call("DELETE", f"/containers/{container['Id']}?force=1&v=1")
call("POST", "/networks/prune")
call("POST", "/volumes/prune?filters=%7B%22all%22%3A%7B%22true%22%3Atrue%7D%7D")
PY
}

run_inside() {
    [ $# -gt 0 ] || fail "exec needs a command"
    answers || fail "the engine is not up: run tests/engine.sh up"
    exec nsenter --net="$netns" env DOCKER_HOST="unix://$socket" DS01_TEST_LAB="$name" DS01_TEST_HOOK_DIR="$hook_dir" "$@"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
up) up ;;
down) down; say "down (images kept in $data)" ;;
purge) down; rm -rf --one-file-system "$data"; say "removed, with its data" ;;
exec) run_inside "$@" ;;
restart) end_engine "${1:-TERM}"; engine_up; say "restarted" ;;
*) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
