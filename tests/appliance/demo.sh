#!/bin/bash
# The demonstration, inside the appliance: what an administrator does in the first five minutes, with real traffic.
. "$(dirname "$0")/lib.sh"
policy=/etc/ctcached/ctcached.yaml

title "A Debian 12 router: $(uname -r), booted in $(systemd-analyze time | grep -oE '= .*' | head -1 | cut -c3-)"
network 80 443 5000
show systemctl --no-pager --lines=4 status ctcached
check "the daemon runs" systemctl is-active --quiet ctcached
check "its cache is active" active
show cat /proc/modules | grep -E '^nf_ctcache' || bad "no module"

title "A policy: two zones"
show tee $policy <<'YAML'
version: 1
zones:
  - name: web
    match: [{ protocol: tcp, ports: [80, 443] }]
    cache: all
  - name: branch
    match: [{ destination: 10.3.0.0/24 }, { source: 10.3.0.0/24 }]
    cache: [route, ipsec]
YAML
show systemctl reload ctcached
check "generation 2 is in force" until_so test "$(manager Generation)" -ge 2

title "Traffic: TCP and UDP, IPv4 and IPv6, and through an IPsec tunnel (AES-GCM)"
before=$(statistic cache_hits)
for flow in "tcp 10.2.0.2 443" "tcp fd00:2::2 80" "udp 10.2.0.2 5000" "udp fd00:2::2 5000" "udp 10.3.0.2 5000" "tcp 10.3.0.2 5000"; do
    # shellcheck disable=SC2086
    result=$(ask $flow 300) && good "$flow: $result" || bad "$flow: $result"
done
begin live keep udp 10.2.0.2 5000

title "An edit, and a reload under a live flow"
sed -i 's/443]/443, 8080]/' $policy
show systemctl reload ctcached
ask tcp 10.2.0.2 443 100 >/dev/null || bad "traffic after the reload"
end live "the live flow"

title "What the daemon says of it: busctl"
show busctl --no-pager get-property org.ctcached1 /org/ctcached1 org.ctcached1.Manager CacheDecisions ConntrackCount ConntrackMax ConntrackBuckets
hits=$(($(statistic cache_hits) - before)) misses=$(statistic cache_misses)
printf '\n  hits %d, misses %d: hit rate %d %%\n' "$hits" "$misses" $((100 * hits / (hits + misses + 1)))
check "the cache was used" test "$hits" -gt 2000
check "nothing was wrong" test "$(statistic cache_mismatches)" = 0
title "How the table's size came about"
show busctl --no-pager get-property org.ctcached1 /org/ctcached1 org.ctcached1.Manager Sizing

printf '\n%s\n' "$( ((failures)) && echo "$failures failed" || echo "All of it worked.")"
! grep -q appliance.shell /proc/cmdline || echo "This is the router; \`ip netns exec lan bash\` is a host. \`poweroff\` ends it."
exit $((failures > 0))
