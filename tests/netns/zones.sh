#!/bin/bash
# The packet that opens a flow chooses its zone: each match key, IPv4 and IPv6, and the first zone in order wins.
#
# One policy with a zone for each kind of match, one exchange for each row of a table, and the conntrack table read at the end.
# The rows: who opens the flow, the flow, and the zone it must sit in ("-": none).

. "$(dirname "$0")/lib.sh"

# Rows on standard input. Each host opens all its flows in one go, then one look at the conntrack table answers for all rows.
sit_in_zones() {
    local host flow zone proto address port from wanted is problems=0
    local -A flows=() ids=()
    local rows
    mapfile -t rows
    for row in "${rows[@]}"; do
        read -r host flow zone <<<"$row"
        flows[$host]+="$flow "
        [[ $zone == - ]] || ids[$zone]=${ids[$zone]:-$(zone_id "$zone")}
    done
    for host in "${!flows[@]}"; do once "$host" ${flows[$host]} || problems=1; done
    entries=$(for family in ipv4 ipv6; do router conntrack -L -f $family 2>/dev/null; done)
    for row in "${rows[@]}"; do
        read -r host flow zone <<<"$row"
        proto=${flow%%:*} address=${flow#*:} port=
        [[ $proto != icmp ]] && port=${address##*:} address=${address%:*}
        address=${address#[} address=${address%]}
        from=$(address_of "$host" "$address")
        is=$(grep -E "src=$from dst=$address .*${port:+dport=$port }" <<<"$entries" | grep -E "^(ipv. +[0-9]+ )?${proto}" | zone_words)
        [[ $zone == - ]] && wanted=none || wanted="orig ${ids[$zone]}"
        [[ $is == "$wanted" ]] || { echo "expected '$wanted', got '$is': $row" && problems=1; }
    done
    return $problems
}
address_of() { # HOST PEER: the address of HOST that it uses towards PEER
    local net
    case $1 in
    client?) net=${1#client} ;;
    server?) net=$((2 + ${1#server})) ;;
    router) [[ $2 =~ ^10\.([0-9])|^2001:db8:([0-9]) ]] && net=${BASH_REMATCH[1]}${BASH_REMATCH[2]} ;;
    esac
    [[ $1 == router ]] && local host=1 || local host=2
    if [[ $2 == *:* ]]; then echo "2001:db8:$net::$host"; else echo "10.$net.0.$host"; fi
}

test_every_key() {
    setup
    policy <<'YAML'
version: 1
zones:
  - { name: mark, match: [ { mark: 0x500/0xff00 } ] }
  - { name: markport, match: [ { mark: 0x7, protocol: tcp, ports: [7001] } ] }
  - { name: web, match: [ { protocol: tcp, ports: [80, 443, 8000-8100] } ] }
  - { name: both-protocols, match: [ { protocol: [tcp, 17], ports: [4172] } ] }
  - { name: dns, match: [ { protocol: udp, ports: [53] }, { protocol: tcp, ports: [53] } ] }
  - { name: to-server2, match: [ { destination: [10.4.0.2/32, "2001:db8:4::2"], protocol: tcp } ] }
  - { name: from-client2, match: [ { source: [10.2.0.0/24, "2001:db8:2::/64"], protocol: tcp } ] }
  - { name: either, match: [ { subnets: [10.4.0.0/24, "2001:db8:4::/64"], protocol: udp, ports: [6000-6010] } ] }
  - { name: link-port, match: [ { interfaces: [lan1], protocol: udp, ports: [5000] } ] }
  - { name: all-keys, match: [ { interfaces: [lan1, "eth*"], protocol: udp, ports: [5001, 5003-5005],
                                 source: 10.2.0.0/16, destination: [10.3.0.0/24, 10.4.0.0/24] } ] }
  - { name: ping, match: [ { protocol: [icmp, ipv6-icmp], interfaces: [lan0] } ] }
  - { name: wildcard, match: [ { interfaces: ["lan*"], protocol: udp } ] }
  - { name: own, match: [ { interfaces: ["wan1"] } ] }
YAML
    router nft -f - <<'NFT'
table inet marks {
    chain prerouting {
        type filter hook prerouting priority -350;
        tcp dport 7000 meta mark set 0xa05ab
        tcp dport 7001 meta mark set 7
        tcp dport 7002 meta mark set 0x605
    }
}
NFT
    daemon_start
    serve server1 tcp:80,443,8000,8050,8100,8101,4172,53,22,7000,7001,7002 udp:4172,53,5000,5001,5002,5004,6000,6010,6011
    serve server2 tcp:22,80 udp:5003,6000,6011
    serve client1 tcp:22
    sit_in_zones <<'ROWS'
client1 tcp:10.3.0.2:80 web
client1 tcp:10.3.0.2:443 web
client1 tcp:10.3.0.2:8000 web
client1 tcp:10.3.0.2:8050 web
client1 tcp:10.3.0.2:8100 web
client1 tcp:10.3.0.2:8101 -
client1 tcp:[2001:db8:3::2]:8050 web
client1 tcp:[2001:db8:3::2]:8101 -
client1 tcp:10.3.0.2:4172 both-protocols
client1 udp:10.3.0.2:4172 both-protocols
client1 udp:[2001:db8:3::2]:4172 both-protocols
client1 tcp:10.3.0.2:53 dns
client1 udp:10.3.0.2:53 dns
client1 tcp:10.3.0.2:7000 mark
client1 tcp:[2001:db8:3::2]:7000 mark
client1 tcp:10.3.0.2:7001 markport
client1 tcp:10.3.0.2:7002 -
client1 tcp:10.4.0.2:22 to-server2
client1 tcp:[2001:db8:4::2]:22 to-server2
client1 tcp:10.4.0.2:80 web
client2 tcp:10.3.0.2:22 from-client2
client2 tcp:[2001:db8:3::2]:22 from-client2
client2 tcp:10.3.0.2:80 web
client2 tcp:10.4.0.2:22 to-server2
client1 tcp:10.3.0.2:22 -
client1 udp:10.4.0.2:6000 either
client1 udp:[2001:db8:4::2]:6000 either
server2 udp:10.3.0.2:6000 either
server2 udp:[2001:db8:3::2]:6010 either
server2 udp:10.3.0.2:6011 own
client1 udp:10.3.0.2:6010 wildcard
client2 udp:10.3.0.2:5000 link-port
client1 udp:10.3.0.2:5000 wildcard
client2 udp:10.3.0.2:5001 all-keys
client2 udp:10.3.0.2:5004 all-keys
client2 udp:10.4.0.2:5003 all-keys
client2 udp:10.3.0.2:5002 wildcard
client2 udp:[2001:db8:3::2]:5001 wildcard
client1 icmp:10.3.0.2 ping
client1 icmp:[2001:db8:3::2] ping
client2 icmp:10.3.0.2 -
client2 icmp:[2001:db8:3::2] -
router tcp:10.4.0.2:22 to-server2
router udp:10.4.0.2:6011 own
router tcp:10.3.0.2:80 web
router tcp:10.3.0.2:22 -
router icmp:[2001:db8:4::2] own
server1 tcp:10.1.0.2:22 -
ROWS
}

test_first_match_wins() {
    local zones order
    setup
    serve server1 tcp:80,81 udp:80
    zones=('{ name: port, match: [ { protocol: tcp, ports: [80] } ] }' '{ name: net, match: [ { subnets: 10.1.0.0/16 } ] }'
           '{ name: link, match: [ { interfaces: [lan0], protocol: tcp } ] }')
    for order in '0 1 2' '1 2 0' '2 0 1'; do
        read -r a b c <<<"$order"
        policy <<<"{ version: 1, zones: [ ${zones[a]}, ${zones[b]}, ${zones[c]} ] }"
        [[ -e $work/daemon/control ]] && daemon_reload || daemon_start
        router conntrack -F 2>/dev/null
        case $order in
        '0 1 2') sit_in_zones <<<$'client1 tcp:10.3.0.2:80 port\nclient1 tcp:10.3.0.2:81 net\nclient1 udp:10.3.0.2:80 net' ;;
        '1 2 0') sit_in_zones <<<$'client1 tcp:10.3.0.2:80 net\nclient1 tcp:[2001:db8:3::2]:80 link' ;;
        '2 0 1') sit_in_zones <<<$'client1 tcp:10.3.0.2:80 link\nclient2 tcp:10.3.0.2:80 port\nclient1 udp:10.3.0.2:80 net' ;;
        esac
    done
}

test_overlapping_subnets() { # the first zone in order, not the longest prefix; a hole keeps its own zone
    setup
    policy <<'YAML'
version: 1
zones:
  - { name: hole, match: [ { source: 10.1.0.0/30 } ] }
  - { name: wide, match: [ { source: [10.0.0.0/8, "2001:db8::/32"] } ] }
  - { name: shadowed, match: [ { source: ["2001:db8:2::/64"] } ] }
YAML
    daemon_start
    serve server1 tcp:80
    sit_in_zones <<<$'client1 tcp:10.3.0.2:80 hole\nclient2 tcp:10.3.0.2:80 wide\nclient2 tcp:[2001:db8:3::2]:80 wide'
}

test_direction_both() {
    setup
    policy <<<'{ version: 1, zones: [ { name: voice, direction: both, match: [ { protocol: udp } ] } ] }'
    daemon_start
    serve server1 udp:5060
    once client1 udp:10.3.0.2:5060 'udp:[2001:db8:3::2]:5060'
    equals "both $(zone_id voice)" zone_of_entry udp 10.3.0.2
    equals "both $(zone_id voice)" zone_of_entry udp 2001:db8:3::2
    not grep -q UNREPLIED <(router conntrack -L -p udp 2>/dev/null)
}

test_ipv6_fragments_and_large_packets() { # defragmentation comes before the zone rules, so a fragment has its port
    setup
    policy <<<'{ version: 1, zones: [ { name: big, match: [ { protocol: udp, ports: [9000] } ] } ] }'
    daemon_start
    serve server1 udp:9000
    traffic client1 big udp:10.3.0.2:9000 6000
    traffic client1 big 'udp:[2001:db8:3::2]:9000' 6000
    equals "orig $(zone_id big)" zone_of_entry udp 10.3.0.2
    equals "orig $(zone_id big)" zone_of_entry udp 2001:db8:3::2
}

run_tests "$@"
