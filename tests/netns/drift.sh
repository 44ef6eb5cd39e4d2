#!/bin/bash
# Foreign hands on the daemon's table: noticed, logged with what changed and by whom, and undone.
#
# An owned table refuses it (EPERM), which is the better answer, and then nothing may have changed. So that there is
# something to repair, the daemon runs with nobody to keep its socket: then it owns its table only where the kernel
# lets an owned table outlive its owner (Linux >= 6.9, not Debian 12's own).

. "$(dirname "$0")/lib.sh"

started() {
    setup
    policy <<'YAML'
version: 1
zones:
  - { name: web, match: [ { protocol: tcp, ports: [80, 443] } ] }
  - { name: office, match: [ { source: [10.1.0.0/24, 10.7.0.0/16] } ] }
YAML
    daemon_by_hand
    whole=$(table)
}
# Without counters; its parts in order of their text, as one that was repaired is listed last.
table() { router nft -s list table inet ctcached | sed '1d; $d' | awk 'BEGIN { RS = ""; ORS = "\0" } { print }' | sort -z | tr '\0' '\n'; }
same_again() { [[ $(table 2>/dev/null) == "$whole" ]]; }
# COMMAND...: a foreign change; refused (the test ends well), or repaired; how fast is told, not judged
undone() {
    local began
    began=$(now_ms)
    if owned; then
        not router "$@" 2>"$work/why" && grep -q 'not permitted' "$work/why" && same_again
        echo "the kernel refused it" && return
    fi
    router "$@"
    wait_until 10 same_again || { diff <(echo "$whole") <(table) >&2 || :; return 1; }
    echo "repaired in $(($(now_ms) - began)) ms"
    wait_until 10 grep -qE 'nftables: repaired' "$work/by-hand.out"
    grep -qE 'nftables: .*nft' "$work/by-hand.out" # who did it
}
map_with() { table | awk -v key="$1" '/^\tmap/ { name = $2 } index($0, key) { print name; exit }'; }

test_element_deleted() {
    started
    undone nft delete element inet ctcached "$(map_with 443)" '{ tcp . 443 }'
}
test_element_added() {
    started
    undone nft add element inet ctcached "$(map_with 443)" "{ tcp . 25 : $(zone_id web) }"
}
test_element_of_another_zone() {
    started
    undone nft "delete element inet ctcached $(map_with 443) { tcp . 443 };
        add element inet ctcached $(map_with 443) { tcp . 443 : $(zone_id office) }"
}
test_interval_removed() {
    started
    undone nft delete element inet ctcached "$(map_with 10.7.0.0/16)" '{ 10.7.0.0/16 }'
}
test_zone_name_removed() {
    started
    undone nft delete element inet ctcached zones "{ $(zone_id web) }"
}
test_rule_added() {
    started
    undone nft insert rule inet ctcached prerouting accept
}
test_rules_flushed() {
    started
    undone nft flush chain inet ctcached output
}
test_chain_deleted() {
    started
    undone nft delete chain inet ctcached "$(table | awk '/^\tchain/ { name = $2 } /type nat/ { print name; exit }')"
}
test_table_deleted() {
    started
    undone nft delete table inet ctcached
}
test_ruleset_flushed() { # which passes over an owned table without a word
    started
    if owned; then router nft flush ruleset && same_again; else undone nft flush ruleset; fi
}
test_foreign_chain_in_our_table() {
    started
    undone nft add chain inet ctcached mine
}
test_other_tables_are_not_ours() {
    started
    router nft add table inet other
    router nft 'add chain inet other c { type filter hook forward priority 0; }'
    router nft delete table inet other
    wait_until 5 kill -0 "$(<"$work/by-hand.pid")"
    not grep -qE 'nftables: .*(other|repaired)' "$work/by-hand.out"
}
test_a_stubborn_foreigner() { # changes it again and again: repaired each time, without a storm
    local before
    started
    for _ in 1 2 3 4; do
        router nft add element inet ctcached "$(map_with 443)" "{ tcp . 25 : $(zone_id web) }" 2>/dev/null || :
        wait_until 10 same_again
    done
    kill -0 "$(<"$work/by-hand.pid")"
}
test_owned_table_refuses() {
    setup
    policy <<<'{ version: 1, zones: [ { name: web, match: [ { protocol: tcp, ports: [80] } ] } ] }'
    daemon_start
    owned || skip "this kernel has no table owners"
    whole=$(table)
    not router nft delete table inet ctcached 2>"$work/why"
    grep -q 'not permitted' "$work/why"
    not router nft flush chain inet ctcached prerouting 2>/dev/null
    router nft flush ruleset
    same_again
}

run_tests "$@"
