#!/bin/bash
# A zone's id outlives restarts, other orders, its own absence, and the loss of the state file.

. "$(dirname "$0")/lib.sh"

a='{ name: alpha, match: [ { protocol: tcp, ports: [1] } ] }'
b='{ name: beta, match: [ { protocol: tcp, ports: [2] } ] }'
c='{ name: gamma, match: [ { protocol: tcp, ports: [3] } ] }'
zones() { local IFS=, && policy <<<"{ version: 1, zones: [ $* ] }"; }
ids() { router nft list set inet ctcached zones | grep -oE '[0-9]+ [^"]*comment "[^"]*"' | sed -E 's/ counter.*comment//' | sort; }
ids_of() { ids | grep -E "$1" || :; }

start_with() {
    setup
    zones "$@"
    daemon_start
    before=$(ids)
}

test_restart() {
    start_with "$a" "$b" "$c"
    daemon_restart
    equals "$before" ids
    daemon_stop
    daemon_start
    equals "$before" ids
}
test_reorder() {
    start_with "$a" "$b" "$c"
    zones "$c" "$a" "$b"
    daemon_reload
    equals "$before" ids
    daemon_restart
    equals "$before" ids
}
test_absence() { # what was once given is not given to another
    local beta
    start_with "$a" "$b" "$c"
    beta=$(zone_id beta)
    zones "$a" "$c"
    daemon_reload
    zones "$a" "$c" '{ name: delta, match: [ { protocol: udp } ] }'
    daemon_reload
    [[ $(zone_id delta) != "$beta" ]]
    zones "$a" "$b" "$c" '{ name: delta, match: [ { protocol: udp } ] }'
    daemon_restart
    equals "$beta" zone_id beta
}
test_state_file_missing() {
    start_with "$c" "$b" "$a"
    end_daemon TERM
    rm -f "$work"/state/*
    zones "$a" "$b" "$c"
    daemon_start
    equals "$before" ids
    ls "$work"/state/zones.json
}
test_state_file_corrupt() {
    start_with "$c" "$b" "$a"
    for garbage in '' '{' 'null' '{"version": 1, "zones": [{"name": "alpha", "id": 0, "direction": "original"}]}' $'\xff\xfe'; do
        end_daemon TERM
        printf '%s' "$garbage" >"$work/state/zones.json"
        : >"$work/daemon/daemon.log"
        zones "$a" "$b" "$c"
        daemon_start
        equals "$before" ids
        logged 'zone ids: .*zones.json'
        jq -e '.zones | length == 3' "$work/state/zones.json"
    done
}
test_state_file_lost_after_kill() {
    start_with "$c" "$b" "$a"
    daemon_kill
    rm -f "$work"/state/*
    zones "$a" "$b" "$c"
    daemon_start
    equals "$before" ids
}
test_explicit_id_evicts() {
    local alpha
    start_with "$a" "$b"
    alpha=$(zone_id alpha)
    zones "$a" "$b" "{ name: owner, id: $alpha, match: [ { protocol: udp } ] }"
    daemon_reload
    equals "$alpha" zone_id owner
    [[ $(zone_id alpha) != "$alpha" ]]
}
test_recycled_zone_is_flushed() { # flows of the old owner do not appear in the new one
    start_with '{ name: old, id: 77, match: [ { protocol: udp, ports: [53] } ] }'
    serve server1 udp:53 tcp:80
    once client1 udp:10.3.0.2:53
    equals 'orig 77' zone_of_entry udp 10.3.0.2
    zones '{ name: new, id: 77, match: [ { protocol: tcp, ports: [80] } ] }'
    daemon_reload
    equals '' zone_of_entry udp 10.3.0.2
}

run_tests "$@"
