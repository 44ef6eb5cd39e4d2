#!/bin/bash
# What an administrator does to a router in its life, inside the appliance, each step checked under a live flow: enable,
# edit, reload, a mistake, restarts of it and of its neighbours, the module gone and back, an upgrade, a crash, a reboot,
# removal and purge. $1 counts the boots: the second one goes on after the reboot.
. "$(dirname "$0")/lib.sh"
policy=/etc/ctcached/ctcached.yaml kept=/var/tmp/zones

zones() { busctl --json=short call org.ctcached1 /org/ctcached1 org.ctcached1.Manager Describe | grep -oE '\\"(id|name)\\":\\?"?[a-z0-9]+' | paste - - | sort; }
active() { [[ $(manager CacheState) == '"active"' ]]; }
hits_grow() { # within a minute, by traffic
    local before
    before=$(statistic cache_hits)
    until_so eval 'ask udp 10.2.0.2 5000 20 >/dev/null && (($(statistic cache_hits) > before))'
}
# A flow that lives all the while; its process says at the end what it lost.
live() { lan python3 "$here/traffic.py" keep udp 10.2.0.2 5000 >/tmp/live & live=$!; }
ended() { # TEXT
    pkill -TERM -f 'traffic.py keep' || bad "no live flow"
    if wait "$live"; then good "$1: $(</tmp/live)"; else bad "$1: $(</tmp/live)"; fi
}
write() {
    cat >$policy <<'YAML'
version: 1
zones:
  - name: web
    match: [{ protocol: tcp, ports: [80, 443] }]
    cache: all
  - name: dns
    match: [{ protocol: udp, ports: [53] }]
    cache: none
YAML
}

first_boot() {
    title "enabled, and what apt has installed runs"
    check "enabled" systemctl is-enabled --quiet ctcached
    check "active" systemctl is-active --quiet ctcached
    check "nothing failed" test -z "$(systemctl --failed --no-legend)"
    network 80 5000
    check "the cache is active" until_so active
    check "hits" hits_grow

    title "edit and reload"
    write
    live
    check "reload" systemctl reload ctcached
    check "two zones" until_so eval '(($(zones | wc -l) == 2))'
    zones >$kept
    check "hits" hits_grow
    ended "the live flow"

    title "a mistake"
    live
    sed -i 's/tcp, ports: \[80/tcp, ports: [80000/' $policy
    systemctl reload ctcached 2>/dev/null
    check "the journal names file, line and column" until_so eval "journalctl -u ctcached --no-pager | grep -q '$policy:4:[0-9]*: error'"
    check "it still runs" systemctl is-active --quiet ctcached
    check "the zones are as before" cmp -s $kept <(zones)
    write
    check "mended" systemctl reload ctcached
    ended "the live flow"

    title "neighbours restart"
    live
    systemctl restart dbus
    check "after dbus: the bus name is there" until_so eval 'manager State >/dev/null 2>&1'
    systemctl restart nftables
    check "after nftables, whose stop flushes the ruleset: the zones are there" until_so eval 'nft list table inet ctcached >/dev/null 2>&1'
    systemctl restart systemd-networkd
    check "hits" hits_grow
    check "running" until_so test "$(manager State)" = '"running"'
    ended "the live flow"

    title "it restarts, and dies"
    live
    systemctl restart ctcached
    check "after a restart: active" until_so active
    for signal in SEGV KILL; do
        pid=$(systemctl show -P MainPID ctcached)
        kill -$signal "$pid"
        check "after SIG$signal: another process" until_so eval '[[ $(systemctl show -P MainPID ctcached) != @(0|'"$pid"') ]]'
        check "active again" until_so active
    done
    check "the zones are as before" cmp -s $kept <(zones)
    systemctl stop ctcached
    ask udp 10.2.0.2 5000 50 >/dev/null || bad "traffic while it is stopped"
    systemctl start ctcached
    check "hits" hits_grow
    ended "the live flow"

    title "the module goes and comes back"
    live
    check "rmmod" rmmod nf_ctcache
    check "noticed" until_so eval '! active'
    check "modprobe" modprobe nf_ctcache
    check "configured again" until_so active
    check "hits of new flows" hits_grow
    ended "the live flow"

    title "the package is upgraded"
    live
    sed -i 's/cache: none/cache: [route]/' $policy
    check "apt installs the newer one" eval 'apt-get install -q -y -o Dpkg::Options::=--force-confold /share/newer/*.deb >/tmp/apt 2>&1 || { tail -20 /tmp/apt; false; }'
    check "active" until_so active
    check "the policy is the edited one" grep -q 'cache: \[route\]' $policy
    check "hits" hits_grow
    ended "the live flow"
    zones >$kept
}

second_boot() {
    title "after a reboot"
    check "active" until_so systemctl is-active --quiet ctcached
    check "nothing failed" test -z "$(systemctl --failed --no-legend)"
    check "the zones have the ids that they had" cmp -s $kept <(zones)
    network 80 5000
    check "hits" hits_grow

    title "removed and purged"
    check "removed" eval 'apt-get remove -q -y ctcached nf-ctcache-dkms >/tmp/apt 2>&1 || { tail -20 /tmp/apt; false; }'
    check "the policy stays" test -e $policy
    check "purged" eval 'apt-get purge -q -y ctcached nf-ctcache-dkms >/tmp/apt 2>&1 || { tail -20 /tmp/apt; false; }'
    check "nothing is left" test -z "$(find / -xdev \( -name '*ctcache*' -o -name 'org.ctcached1*' \) -not -path '/var/log/*' -not -path '/var/tmp/*' -not -path '/tmp/*' -not -path '/proc/*' -not -path '/sys/*' 2>/dev/null | tee /dev/stderr)"
    check "traffic goes on" eval 'ask udp 10.2.0.2 5000 20 >/dev/null'
}

if (($1 == 0)); then
    first_boot
    ((failures)) && exit 1
    systemctl reboot
else
    second_boot
    exit $((failures > 0))
fi
