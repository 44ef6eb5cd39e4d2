#!/bin/bash
# A reload changes in the kernel what differs, and nothing else.
#
# `nft monitor` records every notification of the nf_tables subsystem while one thing of the policy changes; what it must
# show, and all that it may show, is that thing.

. "$(dirname "$0")/lib.sh"

start_with() {
    setup
    policy
    daemon_start
}
reloaded() { # the new policy on standard input; the monitor first, as the daemon sees a changed file by itself
    monitor mon
    policy
    daemon_reload
    # What follows the reload in the monitor shows that all of the reload has been seen.
    router nft -f - <<<'add table inet after; delete table inet after'
    wait_until 10 grep -q 'delete table inet after' "$work/mon.out"
    stop mon
    changes mon | grep -v ' inet after$' >"$work/changes" || :
    cat "$work/changes"
}
base='version: 1
zones:
  - { name: web, match: [ { protocol: tcp, ports: [80, 443, 25] } ] }
  - { name: office, match: [ { source: [10.1.0.0/24, 10.7.0.0/16, "2001:db8::/32"] } ] }'

test_nothing() {
    start_with <<<"$base"
    reloaded <<<"$base"
    [[ ! -s $work/changes ]]
}
test_one_element_added() {
    start_with <<<"$base"
    reloaded <<<"${base/25/25, 8443}"
    equals 1 grep -c '' "$work/changes"
    grep -qE '^(add|create) element inet ctcached .*8443' "$work/changes"
}
test_one_element_removed() {
    start_with <<<"$base"
    reloaded <<<"${base/, 25/}"
    equals 1 grep -c '' "$work/changes"
    grep -qE '^delete element inet ctcached .*25' "$work/changes"
}
test_one_of_ten_thousand() {
    start_with < <(many 10000)
    reloaded < <(many 10000 | sed '0,/10\.100\.0\.7,/s//10.200.0.7,/')
    not grep -vE '10\.(100|200)\.0\.7' "$work/changes"
    (($(grep -c '' "$work/changes") == 2))
}
test_one_prefix_moved_to_another_zone() {
    start_with <<<"$base"
    reloaded <<<"${base/10.7.0.0\/16, /}
  - { name: guests, match: [ { source: [10.7.0.0/16] } ] }"
    # One new zone in the set of names, and the prefix taken from one zone and given to the other.
    not grep -vE '10\.7\.0\.0|zones' "$work/changes"
}
test_reordering_without_effect() { # two zones whose matches never meet
    start_with <<<"$base"
    reloaded <<'YAML'
version: 1
zones:
  - { name: web, match: [ { protocol: tcp, ports: [25, 80, 443] } ] }
  - { name: office, match: [ { source: ["2001:db8::/32", 10.7.0.0/16, 10.1.0.0/24] } ] }
YAML
    [[ ! -s $work/changes ]]
}
test_settings_only() {
    start_with <<<"$base"
    reloaded <<<"$base
conntrack: { accounting: false }"
    [[ ! -s $work/changes ]]
}
test_three_triggers() { # a changed file reloads by itself; a signal is `reloaded` above; D-Bus is the bus suite's
    local before
    start_with <<<"$base"
    before=$(events 'notify READY=1')
    policy <<<"${base/25/25, 8443}"
    wait_until 5 more_events 'notify READY=1' "$before"
    shows 8443 router nft list table inet ctcached
    wait_until 5 logged 'policy file changed'
}
test_counters_survive() {
    local counted
    start_with <<<"$base"
    serve server1 tcp:80
    once client1 tcp:10.3.0.2:80
    policy <<<"${base/25/25, 8443}"
    daemon_reload
    shows "$(zone_id web) counter packets [1-9]" router nft list set inet ctcached zones
}

run_tests "$@"
