#!/bin/bash
# The module's package is upgraded under a live flow, inside the appliance: dkms builds the new module there, for both
# kernels, which takes a processor that is emulated many minutes. So this is run by name only (tests/run rebuild).
. "$(dirname "$0")/lib.sh"
package() { dpkg-query -f '${Version}' -W nf-ctcache-dkms | cut -d- -f1; }
built_at() { stat -c %Y "$(modinfo -n nf_ctcache)"; }

network 5000
check "the cache is active" until_so active
before=$(package) built=$(built_at)
check "$before is built for two kernels" test "$(dkms status nf-ctcache | grep -c ': installed')" = 2
begin live keep udp 10.2.0.2 5000 4000
begun=$SECONDS
check "the upgrade" apt install /share/nf-ctcache-dkms_*.deb
check "it is another version: $before, now $(package), $((SECONDS - begun)) s" test "$before" != "$(package)"
check "it is built for two kernels, and the old one is gone" \
    test "$(dkms status nf-ctcache | grep -c "nf-ctcache/$(package),.*: installed")$(dkms status nf-ctcache | grep -c "/$before,")" = 20
check "the module in /lib/modules is a new one" test "$(built_at)" -gt "$built"
check "the loaded one still serves" hits_grow
check "rmmod" rmmod nf_ctcache
check "modprobe" modprobe nf_ctcache
check "configured again" until_so active
check "hits of new flows" hits_grow
check "nothing was wrong" test "$(statistic cache_mismatches)" = 0
end live "the live flow"
exit $((failures > 0))
