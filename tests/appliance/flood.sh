#!/bin/bash
# A minute of TCP's first packets from random addresses through the router: who is established notices nothing. His
# decisions stay, the module takes no memory for flows that never were, D-Bus answers, pressure is told of once each way.
. "$(dirname "$0")/lib.sh"

seconds=60
cat >/etc/ctcached/ctcached.yaml <<'YAML'
version: 1
conntrack:
  max: 32768
zones:
  - name: app
    match: [{ protocol: [tcp, udp], ports: [5000-5009] }]
  - name: web
    match: [{ protocol: tcp, ports: [80, 443] }]
YAML
unreclaimable() { grep -E ^SUnreclaim /proc/meminfo | grep -oE '[0-9]+'; }
told() { grep -cE "\"Pressure\":\{\"type\":\"s\",\"data\":\"$1\"" /tmp/signals; } # WORD
peak() { # of the table, and how long the bus takes to answer, until the flood ends
    local begun took count
    while kill -0 "${ongoing[flood]}" 2>/dev/null; do
        begun=$(now_ms)
        count=$(manager ConntrackCount) || { bad "D-Bus does not answer" && return; }
        took=$(within "$begun")
        ((took > slowest)) && slowest=$took
        ((count > most)) && most=$count
    done
}

title "established flows, and then a flood"
network 80 5000 5001
# To whom nobody answers; the router knows a way back, so that its reverse path filter lets it in.
ip route add 10.128.0.0/9 via 10.1.0.2
wan ip route add blackhole 10.128.0.0/9
check "reload" systemctl reload ctcached
check "the table has 32,768 entries" until_so eval '[[ $(manager ConntrackMax) == 32768 ]]'
busctl --json=short --match="type='signal',path='/org/ctcached1'" monitor >/tmp/signals 2>/dev/null &
signals=$!
begin live-udp keep udp 10.2.0.2 5000
begin live-tcp keep tcp 10.2.0.2 5001
begin live-udp6 keep udp fd00:2::2 5000
until_so eval '(($(zone app cache_hits) > 300))'
hits=$(zone app cache_hits) misses=$(zone app cache_misses)
decisions=$(manager CacheDecisions) learned=$(statistic cache_learned) memory=$(unreclaimable) most=0 slowest=0
begin flood flood 10.2.0.2 80 $seconds
peak
end flood "the flood"
hits=$(($(zone app cache_hits) - hits)) misses=$(($(zone app cache_misses) - misses))
check "the table was full: $most of 32768" test "$most" -gt 32000
check "established flows: $hits hits, $misses misses meanwhile" test "$hits" -gt 500 -a "$misses" -le 6
check "nothing was learned from it: $decisions decisions before, $(manager CacheDecisions) after; $(($(statistic cache_learned) - learned)) directions" \
    test "$(manager CacheDecisions)" -le "$decisions" -a "$(($(statistic cache_learned) - learned))" -le 6
check "D-Bus answered all the while, at the latest after $slowest ms" test "$slowest" -lt 15000
# A table that fills between two looks of the daemon goes to critical at once.
check "pressure: told 'warn' $(told warn) times, 'critical' $(told critical)" test "$(told warn)" -le 1 -a "$(told critical)" = 1
end live-udp "the UDP flow"
end live-tcp "the TCP flow"
end live-udp6 "the UDP flow over IPv6"
check "the zone web is flushed" busctl call org.ctcached1 /org/ctcached1/zone/web org.ctcached1.Zone Flush
check "then there is no pressure, told of once" until_so eval '(($(told ok) == 1))'
given_back() { (($(unreclaimable) - memory < 4096)); }
check "the kernel's memory is as before" until_so given_back
good "but for $(($(unreclaimable) - memory)) KiB"
kill $signals
exit $((failures > 0))
