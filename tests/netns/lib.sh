# Throw-away networks for the netns suites.
#
#   client1 10.1.0.2 ---lan0-+        +-wan0--- server1 10.3.0.2        with HOPS=1 a further router on either side:
#                            | router |                                 client1 --- hop1 ---lan0 router wan0--- hop2 --- server1
#   client2 10.2.0.2 ---lan1-+        +-wan1--- server2 10.4.0.2        (hop1-router 10.5.0.0/24, hop2-router 10.6.0.0/24)
#
# IPv6 is the same with 2001:db8:N::. Hosts are functions: `client1 ip route`, `router nft list ruleset`. A suite is a
# script of functions test_x, run by `run_tests "$@"` (arguments: only these); each runs in a subshell with a network of
# its own, prints one line PASS, FAIL or SKIP, and its output only when it fails. Nothing sleeps: what must come is waited
# for by its state (`wait_until SECONDS COMMAND`). At the end of each test its daemon and servers are stopped by their
# pids, its namespaces deleted, and what it left behind (process, namespace, mount) is a failure of its own.
#
# The daemon runs below tests/lib/supervise.py, which plays systemd: see daemon_start and its kin. $CTCACHED names it.
# shellcheck shell=bash

set -u -o pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
suite=$(basename "$0" .sh)
hosts=(client1 client2 router server1 server2 hop1 hop2)
slow=3 # factor for deadlines, which cost time only where a test fails
[[ -n ${VM:-} ]] && slow=10 && export TRAFFIC_EVERY=0.3

skip() { echo "$*" && exit 77; }
fail() { echo "failed: $*" >&2 && exit 1; }

wait_until() { # SECONDS COMMAND...: polls until it succeeds
    local end
    end=$(($(now_ms) + ${1%.*} * slow * 1000))
    shift
    until "$@"; do
        (($(now_ms) < end)) || { echo "waited in vain for: $*" >&2 && return 1; }
        read -rt 0.02 <>"$work/never" || :
    done
}
now_ms() { local t=$EPOCHREALTIME && echo $((${t/./} / 1000)); }
not() { ! "$@"; }
equals() { [[ $("${@:2}") == "$1" ]] || { echo "expected '$1', got '$("${@:2}")' from: ${*:2}" >&2 && return 1; }; }

# PATTERN COMMAND...: its output has a line like this (a pipe into grep -q would kill the command, which pipefail reports)
shows() {
    local output
    output=$("${@:2}" 2>/dev/null) || return
    grep -qE -- "$1" <<<"$output"
}

# --- network ---

in_host() { nsenter --net="/run/netns/$prefix-$1" "${@:2}"; }
for host in "${hosts[@]}"; do eval "$host() { in_host $host \"\$@\"; }"; done
nat_table() { printf 'table inet test {\n%s\n}\n' "$1" | router nft -f -; } # the box's own rules, beside the daemon's

# The plan of a network: hosts and cables are noted first, then made by one `ip -batch` for all links and one for each
# host, since in a slow machine each process counts.
declare -A host_batch
links_batch=
add_host() {
    echo "$prefix-$1" >>"$work/namespaces"
    links_batch+="netns add $prefix-$1"$'\n'
    host_batch[$1]="link set lo up"$'\n'
}
# HOST LINK ADDRESS-HOST HOST LINK ADDRESS-HOST NET: a cable with addresses 10.NET.0.N and 2001:db8:NET::N
cable() {
    links_batch+="link add name $2 netns $prefix-$1 type veth peer name $5 netns $prefix-$4"$'\n'
    plug "$1" "$2" "$3" "$7"
    plug "$4" "$5" "$6" "$7"
}
plug() { # HOST LINK ADDRESS-HOST NET; no address of its own making, so nothing waits for duplicates to be detected
    host_batch[$1]+="link set $2 addrgenmode none
addr add 10.$4.0.$3/24 dev $2
addr add 2001:db8:$4::$3/64 dev $2 nodad
addr add fe80::$3/64 dev $2 nodad
link set $2 up
"
}
default_route() { # HOST NET GATEWAY-HOST
    host_batch[$1]+="route add default via 10.$2.0.$3
route add default via 2001:db8:$2::$3
"
}
route_to() { # HOST NET VIA-NET VIA-HOST
    host_batch[$1]+="route add 10.$2.0.0/24 via 10.$3.0.$4
route add 2001:db8:$2::/64 via 2001:db8:$3::$4
"
}
make() { # what was noted since the last time
    local host
    ip -batch - <<<"$links_batch"
    for host in "${!host_batch[@]}"; do ip -n "$prefix-$host" -batch - <<<"${host_batch[$host]}"; done
    links_batch=
    host_batch=()
}
forwarding() { in_host "$1" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; }

setup() {
    local host
    for host in client1 client2 router server1 server2; do add_host $host; done
    if ((${HOPS:-0})); then
        add_host hop1 && add_host hop2
        cable client1 eth0 2 hop1 down0 1 1
        cable hop1 up0 2 router lan0 1 5
        cable router wan0 1 hop2 up0 2 6
        cable hop2 down0 1 server1 eth0 2 3
        default_route hop1 5 1 && default_route hop2 6 1
        route_to router 1 5 2 && route_to router 3 6 2
    else
        cable client1 eth0 2 router lan0 1 1
        cable router wan0 1 server1 eth0 2 3
    fi
    cable client2 eth0 2 router lan1 1 2
    cable router wan1 1 server2 eth0 2 4
    for host in client1:1 client2:2 server1:3 server2:4; do default_route "${host%:*}" "${host#*:}" 1; done
    make
    for host in router hop1 hop2; do [[ ! -e /run/netns/$prefix-$host ]] || forwarding $host; done
}

# --- processes ---

background() { # NAME HOST COMMAND...: its output in $work/NAME.out
    local name=$1 host=$2
    shift 2
    nsenter --net="/run/netns/$prefix-$host" "$@" >"$work/$name.out" 2>&1 &
    echo "$!" >>"$work/pids"
    echo "$!" >"$work/$name.pid"
}
stop() { # NAME
    kill "$(<"$work/$1.pid")" 2>/dev/null
    wait "$(<"$work/$1.pid")" 2>/dev/null || :
}
# As a module, so that its compiled form is kept; without site packages: in a slow machine both count.
python=(env PYTHONPATH="$tests/lib" /usr/bin/python3 -S -m)
traffic() { in_host "$1" "${python[@]}" traffic "${@:2}"; } # HOST COMMAND...
serve() { # HOST PORTS...
    local host=$1
    background "server-$host" "$host" "${python[@]}" traffic serve "${@:2}"
    wait_until 10 grep -qs ready "$work/server-$host.out"
}
once() { traffic "$1" once "${@:2}" </dev/null; } # HOST FLOW...
refused() { # HOST FLOW: the answer is an ICMP error or a reset
    local output
    output=$(once "$@") || :
    [[ $output == *refused* ]] || { echo "not refused: $output" >&2 && return 1; }
}
live() { # NAME HOST FLOW...: starts live flows and waits until all of them answer
    background "$1" "$2" "${python[@]}" traffic live "$work/$1.state" "${@:3}"
    wait_until 15 all_echo "$1" 3
}
all_echo() { [[ -e $work/$1.state ]] && jq -e --argjson n "$2" 'all(.[]; .echoes >= $n)' "$work/$1.state" >/dev/null; }
# NAME: every flow goes on, on the sockets that it has, with at least three more answers each
still_alive() {
    local before
    before=$(<"$work/$1.state")
    wait_until 10 more_echoes "$1" "$before" || { jq . "$work/$1.state" >&2 && return 1; }
}
more_echoes() {
    jq -e --argjson old "$2" 'to_entries | all(.[]; .value.broken == null and .value.echoes >= $old[.key].echoes + 3)' \
        "$work/$1.state" >/dev/null
}
longest_gap_ms() { jq '[.[].gap] | max * 1000 | floor' "$work/$1.state"; } # NAME

# --- the daemon ---

many() { # N: a policy of single addresses in 100 zones
    /usr/bin/python3 -S -c '
import sys
n = int(sys.argv[1])
print("version: 1\nzones:")
for zone in range(100):
    hosts = ", ".join(f"10.{100 + zone}.{i // 256}.{i % 256}" for i in range(n // 100))
    print(f"  - {{ name: z{zone}, match: [ {{ source: [ {hosts} ] }} ] }}")' "$1"
}
policy() { cat >"$work/policy.yaml.new" && mv "$work/policy.yaml.new" "$work/policy.yaml"; }
events() { grep -cxE "$1" "$work/daemon/events" || :; } # how often this event was seen
more_events() { (($(events "$1") > $2)); }
command_daemon() { echo "$1" >"$work/daemon/control"; }
daemon_pid() { echo "$(<"$work/daemon/pid")"; }
daemon_log() { cat "$work/daemon/daemon.log"; }
# Extra arguments come from $daemon_options; the command line of the product is otherwise the same everywhere.
supervise() {
    [[ -n ${CTCACHED:-} && -x $CTCACHED ]] || skip "no daemon: CTCACHED names '${CTCACHED:-}'"
    mkdir -p "$work/daemon" "$work/state" "$work/run"
    mkfifo "$work/daemon/control"
    background supervisor router "${wrapper[@]}" "${python[@]}" supervise "$work/daemon" "$CTCACHED" \
        --config "$work/policy.yaml" --state-dir "${state_dir:-$work/state}" --runtime-dir "$work/run" "${daemon_options[@]}"
    wait_until 10 grep -qsx ready "$work/daemon/events"
}
wrapper=(env)
daemon_options=(--bus none)
daemon_start() { # starts it and waits for READY=1 (the first time: below a supervisor of its own)
    local ready
    [[ -e $work/daemon/control ]] || supervise
    ready=$(events 'notify READY=1') ended=$(events 'exit .*')
    command_daemon start
    wait_until 20 ready_or_dead "$ready" "$ended"
    more_events 'notify READY=1' "$ready" || { daemon_log >&2 && fail "the daemon ended before READY=1"; }
}
# A bus of its own for the daemon that is started next; `bus` is busctl on it.
start_bus() {
    background bus router dbus-daemon --session --nofork --nopidfile --address="unix:path=$work/bus"
    wait_until 10 test -S "$work/bus"
    daemon_options=(--bus "unix:path=$work/bus")
}
bus() { busctl --address="unix:path=$work/bus" "$@"; }
on_bus() { bus get-property org.ctcached1 /org/ctcached1 org.ctcached1.Manager State >/dev/null 2>&1; }
property() { bus --json=short get-property org.ctcached1 "$1" "org.ctcached1.$2" "$3" | jq -c .data; } # PATH INTERFACE NAME
daemon_by_hand() { # without a service manager
    [[ -n ${CTCACHED:-} && -x $CTCACHED ]] || skip "no daemon: CTCACHED names '${CTCACHED:-}'"
    mkdir -p "$work/state" "$work/run"
    background by-hand router env -u NOTIFY_SOCKET "$CTCACHED" --config "$work/policy.yaml" --state-dir "$work/state" \
        --runtime-dir "$work/run" "${daemon_options[@]}"
    wait_until 20 grep -q 'policy applied' "$work/by-hand.out"
}
ready_or_dead() { more_events 'notify READY=1' "$1" || more_events 'exit .*' "$2"; }
end_daemon() { # SIGNAL
    local ended
    ended=$(events 'exit .*')
    kill "-$1" "$(daemon_pid)"
    wait_until 20 more_events 'exit .*' "$ended"
}
daemon_stop() { # as systemctl stop does: the stored descriptors go, too
    end_daemon TERM
    command_daemon forget
    equals 'exit 0' tail -n1 <(grep ^exit "$work/daemon/events")
}
daemon_restart() { end_daemon TERM && daemon_start; } # as systemctl restart: the store is kept
daemon_kill() { end_daemon KILL; }
forget_store() {
    command_daemon forget
    wait_until 5 grep -qx forgot "$work/daemon/events"
}
daemon_reload() { # SIGHUP, and READY=1 again
    local ready
    ready=$(events 'notify READY=1')
    kill -HUP "$(daemon_pid)"
    wait_until 20 more_events 'notify READY=1' "$ready"
}
owned() { shows 'flags.*owner' router nft list table inet ctcached; }
has_rules() { shows 'zone set' router nft list table inet ctcached; }
logged() { grep -qE "$1" "$work/daemon/daemon.log"; }

# --- looking ---

zone_id() { # NAME -> id, from the kernel's own table
    router nft -j list set inet ctcached zones |
        jq -r --arg name "$1" '.nftables[].set.elem[]? | .elem? // . | select(.comment // "" | startswith($name + " ")) | .val'
}
# PROTO ADDRESS [FIELD=VALUE]...: zones of the entries to this original destination, in words "orig 10" or "both 10" or "none"
zone_of_entry() {
    local family=ipv4
    [[ $2 == *:* ]] && family=ipv6
    router conntrack -L -f $family -p "$1" --orig-dst "$2" 2>/dev/null | grep -E -- "${3:-.}" | zone_words
}
zone_words() { # of lines of conntrack(8)
    awk '{ zone = "none"; for (i = 1; i <= NF; i++) { if ($i ~ /^zone-orig=/) zone = "orig " substr($i, 11)
           if ($i ~ /^zone-reply=/) zone = "reply " substr($i, 12); if ($i ~ /^zone=/) zone = "both " substr($i, 6) } print zone }' | sort -u
}
statistic() { router conntrack -S | grep -oE "\\b$1=[0-9]+" | awk -F= '{ n += $2 } END { print n + 0 }'; } # NAME: sum over the CPUs
monitor() { # NAME: records what changes in the tables, from now on
    background "$1" router nft monitor
    wait_until 10 listens "$(<"$work/$1.pid")"
}
# The process has a NETLINK_NETFILTER (12) socket that is a member of some group.
listens() { awk -v pid="$1" '$2 == 12 && $3 == pid && $4 != "00000000" { found = 1 } END { exit !found }' "/proc/$1/net/netlink"; }
changes() { grep -v '^# new generation' "$work/$1.out" || :; } # NAME

# --- running ---

cleanup() {
    local pid host mount
    # Read and write: waits for no reader, who may be gone.
    [[ -e $work/daemon/control ]] && { echo quit 1<>"$work/daemon/control"; } 2>/dev/null
    while read -r pid; do kill "$pid" 2>/dev/null; done <"$work/pids"
    while read -r pid; do wait "$pid" 2>/dev/null; done <"$work/pids"
    while read -r host; do
        for pid in $(ip netns pids "$host"); do
            echo "left behind in $host: process $pid $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)"
            kill -KILL "$pid" 2>/dev/null
        done
        ip netns delete "$host"
    done <"$work/namespaces"
    # Files, as ip(8) complains of other tests' namespaces that go while it lists them.
    compgen -G "/run/netns/$prefix-*" | sed 's/^/left behind: namespace /'
    while read -r mount; do
        echo "left behind: mount $mount"
        umount -l "$mount"
    done < <(awk -v work="$work" 'index($2, work) == 1 { print $2 }' /proc/self/mounts)
    rm -rf "$work"
}

run_one() { # TEST: in a subshell of its own
    prefix=ct$BASHPID
    work=$(mktemp -d "${TMPDIR:-/tmp}/ctcached-$suite.XXXXXX")
    mkfifo "$work/never"
    touch "$work/pids" "$work/namespaces"
    trap 'status=$?; trap "" TERM INT; set +e; trap - ERR; ((status == 0 || status == 77)) || show_state; cleanup >"$log.left" 2>&1; exit $status' EXIT
    trap 'trap "" TERM INT; exit 143' TERM INT # which may come twice, as timeout(1) passes it on
    set -eE
    trap 'echo "failed at line $LINENO: $BASH_COMMAND" >&2' ERR
    "$1"
}
show_state() {
    [[ -e $work/daemon/daemon.log ]] && { echo "--- daemon" && tail -n 40 "$work/daemon/daemon.log" && tail -n 20 "$work/daemon/events"; }
    [[ -e $work/by-hand.out ]] && { echo "--- daemon by hand" && tail -n 40 "$work/by-hand.out"; }
    [[ -e /run/netns/$prefix-router ]] && { echo "--- router" && router nft list ruleset | head -n 120 && router conntrack -L 2>/dev/null | head -n 40; }
}
run_tests() {
    local test log status failed=0 left began
    ((EUID == 0)) || { echo "SKIP $suite: needs root" && exit 77; }
    modprobe -a nf_conntrack nf_tables 2>/dev/null
    log=$(mktemp)
    for test in ${*:-$(declare -F | awk '$3 ~ /^test_/ { print $3 }')}; do
        began=$(now_ms)
        (run_one "$test") >"$log" 2>&1
        status=$?
        left=$(cat "$log.left" 2>/dev/null)
        rm -f "$log.left"
        if ((status == 77)) && [[ -z $left ]]; then
            echo "SKIP $suite/$test: $(tail -n1 "$log")"
        elif ((status)) || [[ -n $left ]]; then
            echo "FAIL $suite/$test ($(($(now_ms) - began)) ms)"
            { cat "$log" && echo "$left"; } | sed 's/^/     /'
            failed=1
        else
            echo "PASS $suite/$test ($(($(now_ms) - began)) ms)"
            [[ -n ${VERBOSE:-} ]] && sed 's/^/     /' "$log"
        fi
    done
    rm -f "$log"
    exit $failed
}
