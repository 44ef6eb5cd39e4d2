#!/bin/bash
# ICMP errors reach the zone of the flow that they speak of.
#
# Somewhere on the way the path takes no more than 1300 bytes: a route with a locked MTU, which the kernel honours when it
# forwards (ip_dst_mtu_maybe_forward in include/net/ip.h), while the hosts on either end still believe in 1500. So each
# transfer needs one "fragmentation needed" or "packet too big" that gets through, or it hangs. The narrow place is in
# turn a hop on either side of the router and the router's own next link on either side; the flows are told to zones by
# port, protocol, subnet or interface; untranslated, behind SNAT, behind DNAT. No error may be INVALID to conntrack on
# the way, and the flows must really sit in the zone.

. "$(dirname "$0")/lib.sh"
HOPS=1

by_port='{ protocol: [tcp, udp], ports: [5001, 5002] }'
by_protocol='{ protocol: [tcp, udp] }'
by_subnet='{ subnets: [10.1.0.0/24, "2001:db8:1::/64"] }'
by_interface='{ interfaces: [lan0] }'

narrow() { # HOST: no more than 1300 bytes from HOST towards its end of the path
    case $1 in
    hop1) route replace hop1 1 'dev down0' ;;
    hop2) route replace hop2 3 'dev down0' ;;
    router-client) route replace router 1 'via 10.5.0.2' 'via 2001:db8:5::2' ;;
    router-server) route replace router 3 'via 10.6.0.2' 'via 2001:db8:6::2' ;;
    esac
}
route() { # ACTION HOST NET VIA4 [VIA6]: a more specific route, so that the plain one comes back when it goes
    ip -n "$prefix-$2" route "$1" "10.$3.0.2/32" $4 mtu lock 1300
    ip -n "$prefix-$2" -6 route "$1" "2001:db8:$3::2/128" ${5:-$4} mtu lock 1300
}
widen() {
    local host
    for host in hop1:1 hop2:3 router:1 router:3; do
        ip -n "$prefix-${host%:*}" route del "10.${host#*:}.0.2/32" proto boot 2>/dev/null || :
        ip -n "$prefix-${host%:*}" -6 route del "2001:db8:${host#*:}::2/128" proto boot 2>/dev/null || :
    done
    for host in client1 server1; do # what they have learned of the path
        ip -n "$prefix-$host" route flush cache
        ip -n "$prefix-$host" -6 route flush cache
    done
}
watch_states() { # counts the ICMP errors by what conntrack says of them
    router nft -f - <<'NFT'
table inet watch {
    counter invalid { }
    counter related { }
    counter untracked { }
    chain errors {
        ct state invalid counter name invalid
        ct state related counter name related
        ct state new,untracked counter name untracked
    }
    chain prerouting {
        type filter hook prerouting priority mangle;
        icmp type { destination-unreachable, time-exceeded, parameter-problem } jump errors
        icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } jump errors
    }
    chain output {
        type filter hook output priority mangle;
        icmp type { destination-unreachable, time-exceeded, parameter-problem } jump errors
        icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } jump errors
    }
}
NFT
}
counter() { router nft -j list counter inet watch "$1" | jq '.nftables[].counter.packets // empty'; }
more_related() { (($(counter related) > $1)); }

start() { # MATCH NAT
    local match=$1 nat=$2
    setup
    four=10.3.0.2 six=2001:db8:3::2
    case $nat in
    snat) nat_table 'chain post { type nat hook postrouting priority srcnat; oifname wan0 masquerade; }' ;;
    dnat)
        four=10.5.0.1 six=2001:db8:5::1 # the router's own address stands for the server
        nat_table 'chain pre { type nat hook prerouting priority dstnat; iifname lan0 ip daddr 10.5.0.1 dnat ip to 10.3.0.2;
                   iifname lan0 ip6 daddr 2001:db8:5::1 dnat ip6 to 2001:db8:3::2; }' ;;
    esac
    policy <<<"{ version: 1, zones: [ { name: z, id: 10, match: [ $match ] } ] }"
    daemon_start
    watch_states
    serve server1 tcp:5001 udp:5001
}
crosses() { # PLACE upload|download ADDRESS: the transfer ends, and an error was RELATED on its way
    local related
    narrow "$1"
    related=$(counter related)
    traffic client1 "$2" "tcp:$3:5001" 200000
    more_related "$related"
    widen
}
paths_are_discovered() { # MATCH NAT
    local address place
    start "$1" "$2"
    for address in "$four" "[$six]"; do
        crosses hop2 upload "$address"
        crosses router-server upload "$address"
        crosses hop1 download "$address"
        crosses router-client download "$address"
        narrow hop2
        traffic client1 discover "udp:$address:5001" 1400
        widen
    done
    equals 'orig 10' zone_of_entry tcp "$four"
    equals 'orig 10' zone_of_entry tcp "$six"
    equals 0 counter invalid
    equals 0 counter untracked
}
# Port unreachable about a packet of the original direction (the server has no such port), then about a reply (the client
# has closed its port: a second socket on the server's port stands for the late answer).
others_are_related() { # MATCH NAT
    local address from
    start "$1" "$2"
    for address in "$four" "[$six]"; do
        refused client1 "udp:$address:5002"
        once client1 "udp:$address:5001,sport=4001"
        from=10.1.0.2
        [[ $2 == snat ]] && from=10.6.0.1
        if [[ $address == \[* ]]; then
            from=[2001:db8:1::2]
            [[ $2 == snat ]] && from=[2001:db8:6::1]
        fi
        refused server1 "udp:$from:4001,sport=5001"
    done
    equals 'orig 10' zone_of_entry udp "$four"
    equals 'orig 10' zone_of_entry udp "$six"
    equals 0 counter invalid
    equals 0 counter untracked
}

# Every kind with every translation; in a virtual machine, where a process takes a tenth of a second to start, each
# kind and each translation once.
combinations=({port,protocol,subnet,interface}:{plain,snat,dnat})
[[ -n ${VM:-} ]] && combinations=(port:snat protocol:plain subnet:dnat interface:snat)
for combination in "${combinations[@]}"; do
    kind=${combination%:*} nat=${combination#*:} match=by_${combination%:*}
    eval "test_mtu_by_${kind}_$nat() { paths_are_discovered '${!match}' $nat; }"
    eval "test_unreachable_by_${kind}_$nat() { others_are_related '${!match}' $nat; }"
done

run_tests "$@"
