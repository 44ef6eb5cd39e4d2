#!/bin/bash
# What the daemon promises in numbers: start, memory, large policies, Describe beside a large conntrack table.
#
# The limits are for a release build on a machine of today: times in a virtual machine without hardware support are only
# told, and a sanitized build (CTCACHED_SANITIZED) is left out. Run with VERBOSE=1 to see the figures.

. "$(dirname "$0")/lib.sh"
[[ -z ${CTCACHED_SANITIZED:-} ]] || { echo "SKIP figures: a sanitized build has its own" && exit 77; }

at_most() { # WHAT VALUE LIMIT
    echo "$1: $2 (limit $3)"
    (($2 <= $3)) || [[ $1 == millisecond* && -n ${VM:-} ]]
}
many() { # N single addresses in 100 zones
    /usr/bin/python3 -S -c '
import sys
n = int(sys.argv[1])
print("version: 1\nzones:")
for zone in range(100):
    hosts = ", ".join(f"10.{100 + zone}.{i // 256}.{i % 256}" for i in range(n // 100))
    print(f"  - {{ name: z{zone}, match: [ {{ source: [ {hosts} ] }} ] }}")' "$1"
}

test_start_and_memory() { # the best of five starts: the others show what else the machine does
    local best=100000 took
    setup
    cp "$tests/../policies/virtual-desktops.yaml" "$work/policy.yaml"
    for _ in 1 2 3 4 5; do
        daemon_start
        took=$(grep '^ready after' "$work/daemon/events" | tail -n1 | grep -oE '[0-9]+')
        ((took < best)) && best=$took
        at_most 'resident KiB' "$(awk '/VmRSS/ { print $2 }' "/proc/$(daemon_pid)/status")" $((16 * 1024))
        end_daemon TERM
    done
    at_most 'milliseconds from start to READY=1' "$best" 100
}
test_ten_thousand_elements() {
    local best=100000 took began
    setup
    policy < <(many 10000)
    for _ in 1 2 3 4 5; do
        began=$(now_ms)
        router "$CTCACHED" --config "$work/policy.yaml" --state-dir "$work/none" --check
        took=$(($(now_ms) - began))
        ((took < best)) && best=$took
    done
    at_most 'milliseconds to parse and plan 10,000 elements, with the start of the process' "$best" 100
    monitor mon
    daemon_start
    router nft -f - <<<'add table inet after; delete table inet after'
    wait_until 20 grep -q 'delete table inet after' "$work/mon.out"
    stop mon
    equals 1 grep -c "^# new generation.*$(basename "$CTCACHED")" "$work/mon.out" # one transaction
    equals 10000 grep -c '^' <(router nft -j list table inet ctcached | jq -c '.nftables[].map.elem[]?')
    at_most 'resident KiB with 10,000 elements' "$(awk '/VmRSS/ { print $2 }' "/proc/$(daemon_pid)/status")" $((64 * 1024))
}
test_describe_beside_a_large_table() {
    local output entries=200000
    [[ -n ${VM:-} ]] && entries=20000
    setup
    (($(router sysctl -n net.netfilter.nf_conntrack_max) > entries)) || skip "nf_conntrack_max is below $entries"
    router sysctl -qw net.netfilter.nf_conntrack_udp_timeout=600
    server1 nft -f - <<<'table inet quiet { chain in { type filter hook input priority 0; udp dport 1-65535 drop
    }
    }'
    policy <<<'{ version: 1, zones: [ { name: z, match: [ { protocol: udp } ] } ] }'
    background bus router dbus-daemon --session --nofork --nopidfile --address="unix:path=$work/bus"
    wait_until 10 test -S "$work/bus"
    daemon_options=(--bus "unix:path=$work/bus")
    daemon_start
    traffic client1 flood 10.3.0.2 $entries
    (($(router sysctl -n net.netfilter.nf_conntrack_count) >= entries * 95 / 100))
    wait_until 10 shows org.ctcached1 busctl --address="unix:path=$work/bus" list
    output=$(router /usr/bin/python3 -S "$tests/lib/describe.py" "unix:path=$work/bus" 1000)
    echo "with $(router sysctl -n net.netfilter.nf_conntrack_count) entries: $output"
    # A dump of the table takes several times as long.
    at_most 'milliseconds of the slowest call' "${output##*=}" 100
}

run_tests "$@"
