#!/bin/bash
# What an administrator does to a router in its life, inside the appliance, each step checked under a live flow: enable,
# edit, reload, a mistake, restarts of it and of its neighbours, all ways to die, an upgrade, the module gone and back, a
# reboot, removal and purge. $1 counts the boots: the second one goes on after the reboot.
#
# Packets in the wrong zone are counted by a table of the test's own (watch).
. "$(dirname "$0")/lib.sh"
policy=/etc/ctcached/ctcached.yaml kept=/var/tmp/zones

zones() { busctl --json=short call org.ctcached1 /org/ctcached1 org.ctcached1.Manager Describe | grep -oE '\\"(id|name)\\":\\?"?[a-z0-9]+' | paste - - | sort; }
begin_live() { begin live keep udp 10.2.0.2 5000 4000; }
end_live() { end live "the live flow"; }
dkms_says() { dkms "$@" >/tmp/dkms 2>&1 || { tail -20 /tmp/dkms; false; }; }
write() {
    cat >$policy <<'YAML'
version: 1
zones:
  - name: web
    match: [{ protocol: tcp, ports: [80, 443] }]
    cache: all
  - name: app
    id: 40
    match: [{ protocol: udp, ports: [5000-5009] }]
  - name: dns
    match: [{ protocol: udp, ports: [53] }]
    cache: none
YAML
}

# Each forwarded packet of the zone app, and those that are elsewhere.
watch() {
    nft -f - <<'NFT'
table inet watch {
    counter passed {}
    counter wrong {}
    chain forward {
        type filter hook forward priority 10
        udp dport 5000-5009 counter name passed
        udp sport 5000-5009 counter name passed
        udp dport 5000-5009 ct original zone != 40 counter name wrong
        udp sport 5000-5009 ct original zone != 40 counter name wrong
        udp dport 5000-5009 ct state invalid,untracked counter name wrong
        udp sport 5000-5009 ct state invalid,untracked counter name wrong
    }
}
NFT
}
counted() { nft list counter inet watch "$1" | grep -oE 'packets [0-9]+' | cut -d' ' -f2; }
entry() { conntrack -L -o id -p udp --sport 4000 --orig-zone 40 2>/dev/null | grep -oE 'id=[0-9]+'; } # of the live flow
another_process() { [[ $(systemctl show -P MainPID ctcached) != @(0|"$1") ]] && active; }

# What happens to the daemon, while thousands of packets a second and new flows pass.
under_storm() { # TEXT COMMAND...
    local text=$1 id packets begun
    shift
    packets=$(counted passed) begun=$(now_ms) id=$(entry)
    check "$text" "$@"
    check "$text: active again" until_so active
    packets=$(($(counted passed) - packets))
    check "$text: $packets packets passed, $((packets * 1000 / ($(within "$begun") + 1))) a second; in a wrong zone: $(counted wrong)" \
        test "$packets" -gt 100 -a "$(counted wrong)" = 0
    check "$text: the live flow's entry is the same, $id" test -n "$id" -a "$id" = "$(entry)"
}
dies() { # COMMAND...
    local pid
    pid=$(systemctl show -P MainPID ctcached)
    "$@" "$pid" && until_so another_process "$pid"
}
killed_for_memory() {
    local kills
    systemctl set-property --runtime ctcached MemoryMax=1M
    until_so eval '[[ $(systemctl show -P Result ctcached) == oom-kill || $(journalctl -u ctcached --no-pager) == *oom-kill* ]]'
    kills=$?
    systemctl set-property --runtime ctcached MemoryMax=infinity
    until_so systemctl is-active --quiet ctcached && return $kills
}
stops_and_starts() {
    systemctl stop ctcached && ask udp 10.2.0.2 5000 50 >/dev/null && systemctl start ctcached
}

first_boot() {
    title "enabled, and what apt has installed runs"
    check "enabled" systemctl is-enabled --quiet ctcached
    check "active" systemctl is-active --quiet ctcached
    check "nothing failed" test -z "$(systemctl --failed --no-legend)"
    local exposure started
    exposure=$(systemd-analyze security --no-pager ctcached 2>/dev/null | grep -oE 'level for ctcached.service: [0-9.]+' | grep -oE '[0-9.]+$')
    check "systemd-analyze security: $exposure, at most 2.0" test "${exposure/./}" -le 20
    started=$((($(systemctl show -P ActiveEnterTimestampMonotonic ctcached) - $(systemctl show -P ExecMainStartTimestampMonotonic ctcached)) / 1000))
    check "from start to READY: $started ms in the boot of an emulated machine" test $started -lt 60000
    check "memory: $(($(systemctl show -P MemoryCurrent ctcached) / 1024)) KiB of its group, $(grep -E ^VmRSS /proc/"$(systemctl show -P MainPID ctcached)"/status | tr -s '\t ' ' ')" \
        test "$(systemctl show -P MemoryCurrent ctcached)" -lt 67108864
    check "the manual explains each statistic" explained
    check "dkms has built for $(uname -r), and for the kernel that came after us" test "$(compgen -G '/lib/modules/*/updates/dkms/nf_ctcache.ko*' | wc -l)" = 2
    network 80 5000 5001
    check "the cache is active" until_so active
    check "hits" hits_grow

    title "edit and reload"
    write
    begin_live
    check "reload" systemctl reload ctcached
    check "three zones" until_so eval '(($(zones | wc -l) == 3))'
    zones >$kept
    check "hits" hits_grow
    # The edit has taken the flow into another zone, where it is a new one.
    end_live

    title "Debian's test of an installed package"
    check "smoke" eval 'mkdir /tmp/autopkgtest && AUTOPKGTEST_TMP=/tmp/autopkgtest sh /share/smoke >/tmp/smoke 2>&1 || { tail -20 /tmp/smoke; false; }'
    check "the policy is untouched" until_so cmp -s $kept <(zones)

    title "a mistake"
    begin_live
    sed -i 's/tcp, ports: \[80/tcp, ports: [80000/' $policy
    systemctl reload ctcached 2>/dev/null
    check "the journal names file, line and column" until_so eval "journalctl -u ctcached --no-pager | grep -q '$policy:4:[0-9]*: error'"
    check "it still runs" systemctl is-active --quiet ctcached
    check "the zones are as before" cmp -s $kept <(zones)
    write
    check "mended" systemctl reload ctcached
    end_live

    title "neighbours restart"
    begin_live
    systemctl restart dbus
    check "after dbus: the bus name is there" until_so eval 'manager State >/dev/null 2>&1'
    systemctl enable -q --now nftables
    systemctl restart nftables
    check "after nftables, whose stop flushes the ruleset: the zones are there" until_so eval 'nft list table inet ctcached | grep -q 5000'
    restart_networkd
    check "after systemd-networkd: hits" hits_grow
    check "the tunnel" ask udp 10.3.0.2 5000 5
    check "running" until_so eval '[[ $(manager State) == "\"running\"" ]]'
    end_live

    title "it restarts, and dies, under traffic"
    watch
    begin_live
    until_so eval '[[ -n $(entry) ]]'
    begin storm storm 10.2.0.2 5001 50 10000
    under_storm "restart" systemctl restart ctcached
    under_storm "SIGSEGV" dies kill -SEGV
    under_storm "SIGKILL" dies kill -KILL
    under_storm "killed for memory" killed_for_memory
    under_storm "stop and start" stops_and_starts
    under_storm "reload" systemctl reload ctcached
    check "the zones are as before" cmp -s $kept <(zones)
    sed -i 's/cache: none/cache: [route]/' $policy
    under_storm "the package is upgraded" apt install /share/ctcached_*.deb
    check "it is the new one: $(manager Version)" test "$(manager Version)" != "$(</var/tmp/version)"
    check "the policy is the edited one" grep -q 'cache: \[route\]' $policy
    end storm "the storm"
    check "hits" hits_grow
    end_live
    nft delete table inet watch

    title "the module goes and comes back"
    begin_live
    check "rmmod" rmmod nf_ctcache
    check "noticed" until_so eval '! active'
    good "it says: $(manager CacheReason)"
    check "dkms takes it away" dkms_says uninstall "nf-ctcache/$(dpkg-query -f '${Version}' -W nf-ctcache-dkms | cut -d- -f1)" -k "$(uname -r)"
    check "a restart" systemctl restart ctcached
    check "the reason is told: $(manager CacheReason)" eval '[[ $(manager CacheReason) == *"not installed for the running kernel $(uname -r)"* ]]'
    check "dkms brings it back" dkms_says autoinstall -k "$(uname -r)"
    check "modprobe" modprobe nf_ctcache
    check "configured again" until_so active
    check "hits of new flows" hits_grow
    end_live

    check "no unit failed" test -z "$(systemctl --failed --no-legend)"
    zones >$kept
}
explained() {
    local name manual missing=0
    manual=$(zcat /usr/share/man/man4/nf_ctcache.4.gz /usr/share/man/man5/org.ctcached1.5.gz)
    for name in $(manager Statistics | grep -oE '"[a-z_0-9]+":' | tr -d '":'); do
        grep -qwF "$name" <<<"$manual" || { echo "    not in the manual: $name" && missing=1; }
    done
    return $missing
}
# It manages the router's port, and takes away what it does not know of there.
restart_networkd() {
    cat >/etc/systemd/network/wan0.network <<'NETWORK'
[Match]
Name=wan0
[Network]
Address=10.2.0.1/24
Address=fd00:2::1/64
IPv6AcceptRA=no
[Route]
Destination=10.3.0.0/24
Gateway=10.2.0.2
NETWORK
    systemctl start systemd-networkd
    systemctl restart systemd-networkd
    until_so eval '[[ $(networkctl status wan0 2>/dev/null) == *configured* ]]'
}

second_boot() {
    title "after a reboot, into the other kernel"
    check "it is another kernel: $(uname -r)" test "$(uname -r)" != "$(</var/tmp/kernel-before)"
    check "active" until_so systemctl is-active --quiet ctcached
    check "nothing failed" test -z "$(systemctl --failed --no-legend)"
    check "the zones have the ids that they had" until_so cmp -s $kept <(zones)
    network 80 5000
    check "the cache is active" until_so active
    check "hits" hits_grow

    title "the module's package is removed"
    check "remove" apt remove nf-ctcache-dkms
    check "it is gone" until_so eval '! active && [[ ! -e /sys/module/nf_ctcache ]]'
    check "the daemon runs without it" test "$(manager State)" = '"running"'
    good "it says: $(manager CacheReason)"
    check "traffic" ask udp 10.2.0.2 5000 20

    title "removed and purged"
    check "removed" apt remove ctcached
    check "the table is gone" eval '! nft list table inet ctcached 2>/dev/null'
    check "the policy stays" test -e $policy
    check "purged" apt purge ctcached nf-ctcache-dkms
    check "and what came with them" apt autoremove --purge
    check "nothing is left" nothing_left
    check "traffic goes on" ask udp 10.2.0.2 5000 20
}
# But for what the machine, apt and this test have written themselves, and nothing that has our name.
nothing_left() {
    local left
    left=$(comm -13 /var/lib/appliance-files <(find / -xdev \( -path /var/cache -o -path /var/lib/apt/lists \) -prune -o -print | sort))
    left=$(grep -vE '^/(tmp|share|run|dev|proc|sys|lost\+found|var/(log|tmp|lib/(systemd|appliance|dbus|dkms/mok)))|/__pycache__|^/etc/systemd/(network|system)/|-rt(-amd64)?\b|^/(vmlinuz|initrd.img)' <<<"$left"
        grep -E 'nf.ctcache|ctcached' <<<"$left" | grep -vE '^/(tmp|share|run|proc|sys|var/log)/')
    [[ -z $left ]] || { sed 's/^/    left: /' <<<"$left" && false; }
}

if (($1 == 0)); then
    manager Version >/var/tmp/version
    first_boot
    ((failures)) && exit 1
    uname -r >/var/tmp/kernel-before
    kexec -l /boot/vmlinuz-*-rt-amd64 --initrd="$(echo /boot/initrd.img-*-rt-amd64)" --reuse-cmdline
    # Without logind, which nobody has started here.
    systemctl start --no-block --job-mode=replace-irreversibly kexec.target
else
    second_boot
    exit $((failures > 0))
fi
