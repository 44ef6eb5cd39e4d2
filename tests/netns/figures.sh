#!/bin/bash
# What start, large policies and Describe beside a large conntrack table cost: times are told, as figures; what is judged
# is what does not depend on what else the machine does: memory, transactions, and the messages exchanged with the kernel.
#
# A sanitized build (CTCACHED_SANITIZED) is left out: its memory is its own.

. "$(dirname "$0")/lib.sh"
VERBOSE=1
[[ -z ${CTCACHED_SANITIZED:-} ]] || { echo "SKIP figures: not of a sanitized build" && exit 77; }

resident() { # LIMIT in KiB
    local is
    is=$(awk '/VmRSS/ { print $2 }' "/proc/$(daemon_pid)/status")
    echo "resident: $is KiB (limit $1)"
    ((is <= $1))
}

test_start() {
    setup
    cp "$tests/../policies/virtual-desktops.yaml" "$work/policy.yaml"
    for _ in 1 2 3; do
        daemon_start
        resident $((16 * 1024))
        end_daemon TERM
    done
    echo "milliseconds from start to READY=1: $(grep -oP '^ready after \K[0-9]+' "$work/daemon/events" | xargs)"
}
test_ten_thousand_elements() {
    local began
    setup
    policy < <(many 10000)
    began=$(now_ms)
    router "$CTCACHED" --config "$work/policy.yaml" --state-dir "$work/none" --check
    echo "milliseconds of --check: $(($(now_ms) - began))"
    monitor mon
    daemon_start
    router nft -f - <<<'add table inet after; delete table inet after'
    wait_until 20 grep -q 'delete table inet after' "$work/mon.out"
    stop mon
    equals 1 grep -c "^# new generation.*$(basename "$CTCACHED")" "$work/mon.out" # one transaction
    equals 10000 grep -c '^' <(router nft -j list table inet ctcached | jq -c '.nftables[].map.elem[]?')
    resident $((64 * 1024))
}

# NAME: the netlink messages that one Describe costs, in order, in $work/NAME. A reload comes first, as what is shown is
# then old, and must be read anew whatever the time.
messages_of_describe() {
    daemon_reload
    background strace router strace -p "$(daemon_pid)" -e trace=network -o "$work/$1.calls"
    wait_until 10 grep -q attached "$work/strace.out"
    describe 1
    stop strace
    # Of an answer only the first header is written out, so the buffers count, whatever is in them.
    grep -oE '^(send|recv)[a-z]*\(|nlmsg_type=[^,]*' "$work/$1.calls" | grep -A1 -E '^(send|recv)' | grep nlmsg_type >"$work/$1"
}
describe() { router /usr/bin/python3 -S "$tests/lib/describe.py" "unix:path=$work/bus" "$1"; }
test_describe_beside_a_large_table() { # costs as many messages as beside an empty one: no dump
    local entries=200000
    [[ -n ${VM:-} ]] && entries=20000
    setup
    (($(router sysctl -n net.netfilter.nf_conntrack_max) > entries)) || skip "nf_conntrack_max is below $entries"
    router sysctl -qw net.netfilter.nf_conntrack_udp_timeout=600
    server1 nft -f - <<<'table inet quiet { chain in { type filter hook input priority 0; udp dport 1-65535 drop
    }
    }'
    policy <<'YAML'
version: 1
conntrack: { timeouts: { udp: 10m }, pressure: { interval: 1h } }
zones: [ { name: z, match: [ { protocol: udp } ] } ]
YAML
    start_bus
    daemon_start
    wait_until 10 on_bus
    messages_of_describe before
    traffic client1 flood 10.3.0.2 $entries
    (($(router sysctl -n net.netfilter.nf_conntrack_count) >= entries * 95 / 100))
    messages_of_describe after
    echo "netlink messages of one call: $(grep -c '' "$work/before")"
    grep -q CTNETLINK "$work/before" # they were seen at all
    diff "$work/before" "$work/after"
    echo "with $(router sysctl -n net.netfilter.nf_conntrack_count) entries: $(describe 1000)"
}

run_tests "$@"
