#!/bin/bash
# Sizes: read-only in a namespace other than the first, said once, and everything else goes on.
#
# In a virtual machine, whose first namespace is the test's to spoil, the daemon also runs there: max and buckets from
# memory, fixed numbers, and a value that somebody sets later is reported and left alone.

. "$(dirname "$0")/lib.sh"

sysctl_of() { sysctl -n "net.netfilter.nf_conntrack_$1"; }
test_read_only_in_a_namespace() {
    local max buckets
    setup
    max=$(router sysctl -n net.netfilter.nf_conntrack_max) buckets=$(router sysctl -n net.netfilter.nf_conntrack_buckets)
    policy <<<'{ version: 1, conntrack: { max: 100000, buckets: 65536 }, zones: [ { name: z, match: [ { protocol: tcp } ] } ] }'
    daemon_start
    logged 'nf_conntrack_max and nf_conntrack_buckets.*(read-only|first|namespace)'
    equals "$max" router sysctl -n net.netfilter.nf_conntrack_max
    equals "$buckets" router sysctl -n net.netfilter.nf_conntrack_buckets
    [[ -n $(zone_id z) ]]
    daemon_reload
}
test_accounting_and_timeouts_of_the_namespace() {
    setup
    policy <<<'{ version: 1, conntrack: { accounting: true, timeouts: { udp: 45s } }, zones: [ { name: z, match: [ { protocol: tcp } ] } ] }'
    daemon_start
    equals 1 router sysctl -n net.netfilter.nf_conntrack_acct
    equals 45 router sysctl -n net.netfilter.nf_conntrack_udp_timeout
}
test_arithmetic_is_shown() {
    setup
    policy <<<'{ version: 1, conntrack: { memory: 3% }, zones: [ { name: z, match: [ { protocol: tcp } ] } ] }'
    daemon_start
    logged 'conntrack table: 3 % of .* B an entry.*entries'
}

# The daemon in the machine's first namespace, whose sizes are its to set.
in_first_namespace() { # NAME: `router` and the daemon are then the machine itself
    [[ -n ${VM:-} ]] || skip "would change the sizes of this machine; runs in a virtual machine"
    # Far from any target, since small differences are left alone.
    sysctl -qw net.netfilter.nf_conntrack_max=8192 net.netfilter.nf_conntrack_buckets=8192
    in_host() { "${@:2}"; }
    background() {
        "${@:3}" >"$work/$1.out" 2>&1 &
        echo "$!" >>"$work/pids"
        echo "$!" >"$work/$1.pid"
    }
}
test_sizes_from_memory() {
    local memory max
    in_first_namespace
    policy <<<'{ version: 1, conntrack: { memory: 6.25% }, zones: [ { name: z, match: [ { protocol: tcp } ] } ] }'
    daemon_start
    memory=$(awk '/MemTotal/ { print $2 * 1024 }' /proc/meminfo)
    max=$(sysctl_of max)
    ((max >= 65536 && max <= memory / 16 / 256))
    equals "$max" sysctl_of buckets
    daemon_stop
    router "$CTCACHED" --clear
}
test_fixed_then_grown_then_shrunk() {
    in_first_namespace
    for max in 100000 400000 70000; do
        policy <<<"{ version: 1, conntrack: { max: $max }, zones: [ { name: z, match: [ { protocol: tcp } ] } ] }"
        [[ -e $work/daemon/control ]] && daemon_reload || daemon_start
        equals $max sysctl_of max
    done
    daemon_stop
    router "$CTCACHED" --clear
}
test_foreign_value_is_drift_not_a_fight() {
    in_first_namespace
    policy <<<'{ version: 1, conntrack: { max: 100000, pressure: { interval: 1s } }, zones: [ { name: z, match: [ { protocol: tcp } ] } ] }'
    daemon_start
    sysctl -qw net.netfilter.nf_conntrack_max=123456
    wait_until 5 logged '123,?456'
    equals 123456 sysctl_of max
    daemon_stop
    router "$CTCACHED" --clear
}

run_tests "$@"
