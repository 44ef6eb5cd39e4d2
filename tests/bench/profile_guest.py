#!/usr/bin/python3
"""Forwards one batch of packets of each flow's kind while the host records it: the guest's half of tests/bench/profile.

    profile_guest.py SCENARIO VARIANT,VARIANT...       ($KMOD_inject, $KMOD_floor, $KMOD_nf_ctcache)
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from network import run, sysctl  # noqa: E402
from scenarios import BY_NAME  # noqa: E402
from traffic import BATCH, Traffic  # noqa: E402
from variant import established  # noqa: E402


def main():
    scenario, names = BY_NAME[sys.argv[1]], sys.argv[2].split(",")
    share = Path(os.environ["VM_SHARE"])
    run("modprobe", "-a", "nf_conntrack", "nf_conntrack_netlink", "nft_flow_offload", "dummy")
    for module in ("KMOD_inject", "KMOD_floor", "KMOD_nf_ctcache"):
        run("insmod", os.environ[module])
    sysctl("netfilter/nf_conntrack_max", 1 << 20)
    sysctl("netfilter/nf_conntrack_buckets", 1 << 19)
    traffic = Traffic(scenario)
    variants = established(names, scenario, traffic)
    (share / "symbols").write_bytes(Path("/proc/kallsyms").read_bytes())
    packets = BATCH * (scenario.length or 1)

    def forward(variant):
        traffic.scattered.send(variant.network.links, packets, scenario.burst, scenario.period)

    for number, variant in enumerate(variants):
        variant.network.enter()
        forward(variant)
        if scenario.length and variant.name not in ("base", "none"):
            variant.network.flush_conntrack()
        (share / f"begin.{number}").touch()
        while not (share / f"traced.{number}").exists():
            time.sleep(0.05)
        forward(variant)
        (share / f"end.{number}").touch()
        while not (share / f"done.{number}").exists():
            time.sleep(0.05)


if __name__ == "__main__":
    main()
