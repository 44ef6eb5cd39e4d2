#!/bin/bash
# Live flows do not notice what happens to the daemon or to its table.
#
# TCP, UDP and ICMP over IPv4 and IPv6, through zones, SNAT and DNAT, exchange a message twenty times a second on one socket
# each, while the policy is reloaded, the daemon restarted, stopped, killed, and foreign hands flush and delete. A flow that
# gets a reset, another translation, or no answer any more is broken. After each event the flows must still sit in the zones
# in which they were opened, and no packet of theirs may have opened a second entry.
#
# Where the kernel lets the table go (an owner's death without the descriptor store, or no owner: a daemon that is run by
# hand on Linux < 6.9), it must come back, and new flows find it.

. "$(dirname "$0")/lib.sh"

nat='chain pre { type nat hook prerouting priority dstnat; iifname lan0 ip daddr 10.1.0.1 tcp dport 8080 dnat ip to 10.4.0.2:80; }
     chain post { type nat hook postrouting priority srcnat; oifname { wan0, wan1 } masquerade; }'
flows=(tcp:10.3.0.2:80 tcp:10.1.0.1:8080 'tcp:[2001:db8:3::2]:80' udp:10.3.0.2:53 'udp:[2001:db8:3::2]:53' icmp:10.3.0.2
       'icmp:[2001:db8:3::2]')

running() {
    setup
    nat_table "$nat"
    policy <<'YAML'
version: 1
zones:
  - { name: web, match: [ { protocol: tcp, ports: [80, 8080] } ] }
  - { name: office, match: [ { subnets: [10.1.0.0/24, "2001:db8:1::/64"] } ] }
YAML
    serve server1 tcp:80 udp:53
    serve server2 tcp:80
    ${start_daemon:-daemon_start}
    live flows client1 "${flows[@]}"
    entries=$(zones_of_flows)
    grep -q orig <<<"$entries"
}
zones_of_flows() { # destination and zone of each entry of the live flows
    for family in ipv4 ipv6; do router conntrack -L -f $family 2>/dev/null; done |
        grep -E 'src=(10.1.0.2|2001:db8:1::2) ' | grep -oE '^[a-z0-9]+ |src=\S+ dst=\S+ |sport=\S+|zone\S*' | tr -d '\n' |
        sed 's/src=10.1.0.2\|src=2001:db8:1::2/\n&/g' | sort
}
unharmed() {
    still_alive flows
    equals "$entries" zones_of_flows
    equals 0 statistic insert_failed
}

test_reload() {
    running
    daemon_reload
    unharmed
    sed -i 's/8080/8080, 9090/' "$work/policy.yaml" # and with a change
    daemon_reload
    unharmed
}
test_zone_added_in_front() { # other rules, other maps; flows that live stay where they are
    running
    sed -i 's/^zones:/&\n  - { name: front, match: [ { mark: 1\/1, protocol: udp }, { source: 10.9.0.0\/16, interfaces: ["lan*"] } ] }/' \
        "$work/policy.yaml"
    daemon_reload
    unharmed
}
test_restart() { running && daemon_restart && unharmed; }
test_stop_and_start() {
    running
    daemon_stop
    has_rules
    unharmed
    not owned
    daemon_start
    unharmed
}
test_kill_with_store() {
    running
    daemon_kill
    has_rules
    unharmed
    daemon_start
    unharmed
}
# The kernel removes an owned table with its owner's socket, unless it may persist (Linux >= 6.9): a crash without a
# service manager that keeps the socket. The next start must put things right.
test_kill_without_store() {
    running
    daemon_kill
    forget_store
    if has_rules; then
        daemon_start
        unharmed
    else
        daemon_start
        has_rules
        echo "the table was away; what became of the flows: $(jq -c 'map_values(.broken)' "$work/flows.state")"
        once client1 tcp:10.3.0.2:80 udp:10.3.0.2:53 'tcp:[2001:db8:3::2]:80'
    fi
}
# As the box's own firewall script does it: everything away and its own rules anew, in one transaction.
flush_ruleset() { printf 'flush ruleset\ntable inet test {\n%s\n}\n' "$nat" | router nft -f -; }
test_foreign_flush() {
    running
    flush_ruleset
    wait_until 10 has_rules
    unharmed_or_repaired
}
test_foreign_delete() {
    running
    router nft delete table inet ctcached 2>/dev/null || owned
    wait_until 10 has_rules
    unharmed_or_repaired
}
unharmed_or_repaired() {
    if owned; then
        unharmed
        echo "the longest silence of a flow: $(longest_gap_ms flows) ms"
    else # a flow that spoke while the table was away met zone 0 and may have broken; new ones must not
        echo "repaired; what became of the flows: $(jq -c 'map_values(.broken)' "$work/flows.state")"
        once client1 tcp:10.3.0.2:80 udp:10.3.0.2:53 'tcp:[2001:db8:3::2]:80'
    fi
}
# Run by hand, with nobody to keep its socket, the daemon owns its table only where that survives it (Linux >= 6.9).
test_foreign_flush_by_hand() {
    start_daemon=daemon_by_hand
    running
    flush_ruleset
    wait_until 10 has_rules
    unharmed_or_repaired
}
test_kill_by_hand() {
    start_daemon=daemon_by_hand
    running
    kill -KILL "$(<"$work/by-hand.pid")"
    wait_until 5 not kill -0 "$(<"$work/by-hand.pid")" 2>/dev/null
    has_rules
    unharmed
    daemon_by_hand
    unharmed
}
test_many_times() {
    running
    for _ in 1 2 3; do
        daemon_reload && daemon_kill && daemon_start && daemon_restart
        flush_ruleset
    done
    unharmed
}

run_tests "$@"
