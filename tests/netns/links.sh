#!/bin/bash
# Interfaces that are not there yet, come, go, or are named by their beginning.

. "$(dirname "$0")/lib.sh"

started() {
    setup
    policy <<'YAML'
version: 1
zones:
  - { name: lan, match: [ { interfaces: [lan0, lan9] } ] }
  - { name: vlans, match: [ { interfaces: ["vlan*"] } ] }
YAML
    daemon_start
    serve server1 udp:53
}
# A further client behind a link that did not exist before.
late_link() { # NAME NET
    cable client2 "to-$1" 2 router "$1" 1 "$2"
    make
    ip -n "$prefix-client2" route replace 10.3.0.0/24 via "10.$2.0.1"
}

test_missing_link_is_reported_not_fatal() {
    started
    logged 'warning.*lan9'
    not logged 'warning.*lan0'
    once client1 udp:10.3.0.2:53
    equals "orig $(zone_id lan)" zone_of_entry udp 10.3.0.2
}
test_link_that_comes_later() {
    started
    late_link lan9 9
    wait_until 5 logged 'zone lan: links now: .*lan9'
    once client2 udp:10.3.0.2:53
    equals "orig $(zone_id lan)" zone_of_entry udp 10.3.0.2
}
test_link_that_goes() {
    started
    router ip link del lan0
    wait_until 5 logged 'interface lan0 is gone'
    daemon_reload
}
test_wildcard_matches_links_to_come() { # the kernel matches; no reload, no change of the table
    started
    table=$(router nft -s list table inet ctcached)
    late_link vlan77 77
    once client2 udp:10.3.0.2:53
    equals "orig $(zone_id vlans)" zone_of_entry udp 10.3.0.2
    wait_until 5 logged 'zone vlans: links now: .*vlan77'
    equals "$table" router nft -s list table inet ctcached
}
test_renamed_link() {
    started
    late_link other 8
    once client2 udp:10.3.0.2:53
    equals none zone_of_entry udp 10.3.0.2
    router conntrack -F 2>/dev/null
    router ip link set other down
    router ip link set other name vlan8
    router ip link set vlan8 up
    wait_until 5 logged 'zone vlans: links now: .*vlan8'
    router ip addr replace 10.8.0.1/24 dev vlan8
    once client2 udp:10.3.0.2:53
    equals "orig $(zone_id vlans)" zone_of_entry udp 10.3.0.2
}
test_a_storm_of_links() {
    started
    for i in {1..100}; do echo "link add vlan$i type veth peer name p$i"; done | ip -n "$prefix-router" -batch -
    wait_until 10 logged 'vlan100'
    for i in {1..100}; do echo "link del vlan$i"; done | ip -n "$prefix-router" -batch -
    daemon_reload
}

run_tests "$@"
