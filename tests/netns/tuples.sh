#!/bin/bash
# Equal tuples in two zones live side by side.
#
# Two customers behind lan0 and lan1 use the same address, and send from the same port to the same server: two flows with
# one tuple, told apart by their zone alone. With `original` the replies of both are looked up in zone 0, so the kernel must
# give one of them another reply tuple; it does so wherever a nat chain exists, which the daemon's table always brings.
# Without it the second flow's packets are dropped: the last test shows that this test can
# fail, and so why the chain is there.

. "$(dirname "$0")/lib.sh"

# client2 gets client1's addresses as well; the way back to it is chosen by the mark that its flows carry.
same_addresses() {
    setup
    ip -n "$prefix-client2" addr add 10.1.0.2/32 dev eth0
    ip -n "$prefix-client2" -6 addr add 2001:db8:1::2/128 dev eth0 nodad
    router sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lan1.rp_filter=0
    for family in -4 -6; do ip -n "$prefix-router" $family rule add fwmark 2 table 2; done
    ip -n "$prefix-router" route add 10.1.0.2/32 via 10.2.0.2 dev lan1 table 2
    ip -n "$prefix-router" -6 route add 2001:db8:1::2/128 via 2001:db8:2::2 dev lan1 table 2
    router nft -f - <<'NFT'
table inet back {
    chain prerouting {
        type filter hook prerouting priority mangle;
        iifname lan1 ct mark set 2
        iifname { wan0, wan1 } meta mark set ct mark
    }
}
NFT
    policy <<'YAML'
version: 1
zones:
  - { name: red, match: [ { interfaces: [lan0] } ] }
  - { name: blue, match: [ { interfaces: [lan1] } ] }
YAML
    serve server1 tcp:80 udp:53
}
flows4=(tcp:10.3.0.2:80,sport=4000,from=10.1.0.2 udp:10.3.0.2:53,sport=4000,from=10.1.0.2)
flows6=('tcp:[2001:db8:3::2]:80,sport=4000,from=2001:db8:1::2' 'udp:[2001:db8:3::2]:53,sport=4000,from=2001:db8:1::2')

side_by_side() {
    live red client1 "${flows4[@]}" "${flows6[@]}"
    live blue client2 "${flows4[@]}" "${flows6[@]}"
    still_alive red
    still_alive blue
    equals "$(printf 'orig %s\n' "$(zone_id red)" "$(zone_id blue)" | sort)" zone_of_entry tcp 10.3.0.2
    equals "$(printf 'orig %s\n' "$(zone_id red)" "$(zone_id blue)" | sort)" zone_of_entry udp 2001:db8:3::2
    equals 0 statistic insert_failed
    equals 0 statistic drop
}
test_routed() { same_addresses && daemon_start && side_by_side; }
test_masqueraded() {
    same_addresses
    nat_table 'chain post { type nat hook postrouting priority srcnat; oifname wan0 masquerade; }'
    daemon_start
    side_by_side
}
# Of a clash in zone 0 one flow must lose: this is what the empty nat chain is for.
test_without_nat_chain_they_clash() {
    same_addresses
    router nft -f - <<'NFT'
table inet bare {
    chain prerouting {
        type filter hook prerouting priority raw;
        ct original zone set iifname map { "lan0" : 1, "lan1" : 2 }
    }
}
NFT
    live red client1 "${flows4[1]}"
    output=$(once client2 "${flows4[1]}") || :
    [[ $output == broken* ]]
    equals 'orig 1' zone_of_entry udp 10.3.0.2 # the second one never got an entry
}

run_tests "$@"
