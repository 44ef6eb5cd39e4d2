#!/bin/bash
# The cache without its module: what the daemon says of it, and that everything else works. With the module:
# tests/vm/daemon.py.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

zones='zones: [ { name: web, match: [ { protocol: tcp, ports: 80 } ] } ]'
manager() { property /org/ctcached1 Manager "$1"; }
started() { # MODE
    [[ ! -e /sys/module/nf_ctcache ]] || skip "nf_ctcache is loaded"
    setup
    policy <<<"{ version: 1, conntrack: { pressure: { interval: 1s } }, cache: { mode: $1 }, $zones }"
    start_bus
    daemon_start
    wait_until 10 on_bus
}
test_auto_runs_without() {
    started auto
    equals '"unavailable"' manager CacheState
    shows 'the module nf_ctcache is not loaded' manager CacheReason
    [[ -e /proc/modules ]] || shows 'this kernel has no loadable modules' manager CacheReason
    equals '"running"' manager State
    has_rules
    bus call org.ctcached1 /org/ctcached1 org.ctcached1.Manager Flush
    bus call org.ctcached1 /org/ctcached1/zone/web org.ctcached1.Zone Flush
    not shows cache_ manager Statistics
}
test_refused_signature() { # by a kernel that was booted with module.sig_enforce=1, and has a module that nobody signed
    [[ -n ${KMOD:-} && $(cat /sys/module/module/parameters/sig_enforce 2>/dev/null) == Y ]] ||
        skip "this kernel asks for no signature, or there is no module"
    install -D "$KMOD" "/lib/modules/$(uname -r)/updates/dkms/nf_ctcache.ko"
    depmod
    started auto
    shows 'is installed .*signature is refused \(EKEYREJECTED\)' manager CacheReason
    equals '"running"' manager State
    has_rules
}
test_off() {
    started off
    equals '"off"' manager CacheState
    equals '"cache.mode is off"' manager CacheReason
    equals '"running"' manager State
    daemon_stop
    router "$CTCACHED" --clear
}
test_flowtables_are_told_of() { # once, while they are there; not when nothing is to be cached
    started auto
    router nft 'add table ip fw; add flowtable ip fw ft { hook ingress priority 0; devices = { lan0, wan0 }; }' ||
        skip "this kernel has no flowtables"
    wait_until 10 shows 'flowtable ip fw ft' manager Degraded
    equals '"degraded"' manager State
    policy <<<"{ version: 1, cache: { mode: off }, $zones }"
    daemon_reload
    wait_until 10 equals '[]' manager Degraded
    policy <<<"{ version: 1, conntrack: { pressure: { interval: 1s } }, $zones }"
    daemon_reload
    wait_until 10 shows 'flowtable ip fw ft' manager Degraded
    router nft delete table ip fw
    wait_until 10 equals '[]' manager Degraded
    equals 2 grep -c 'flowtable ip fw ft' "$work/daemon/daemon.log"
}

run_tests "$@"
