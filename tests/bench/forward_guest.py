#!/usr/bin/python3
"""Measures scenarios of forwarding: the guest's half of tests/bench/forward.

    forward_guest.py ROUNDS BUCKETS SCENARIO...          ($KMOD_inject, $KMOD_floor, $KMOD_nf_ctcache)

One namespace per variant, alike but for what the variant is about; the variants take turns in rotating order. Writes a
line of JSON to $VM_SHARE/forward.json for each scenario: variant -> nanoseconds per packet (variant.py, results()).
Under -icount, a nanosecond is an instruction.
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from network import run, sysctl  # noqa: E402
from scenarios import BY_NAME  # noqa: E402
from traffic import Traffic  # noqa: E402
from variant import established  # noqa: E402


def measure(scenario, rounds, module):
    began = time.monotonic()
    traffic = Traffic(scenario)
    variants = established(scenario.variants, scenario, traffic, module)
    ready = time.monotonic()
    for number in range(rounds * scenario.turns):
        turn = number % len(variants)
        for variant in variants[turn:] + variants[:turn]:
            variant.round()
    for variant in variants:
        variant.close()
    done = time.monotonic()
    print(f"{scenario.name}: set up {ready - began:.1f} s, rounds {done - ready:.1f} s", flush=True)
    return {variant.name: variant.results() for variant in variants}


def main():
    rounds, buckets, *names = sys.argv[1:]
    module = os.environ["KMOD_nf_ctcache"]
    run("modprobe", "-a", "nf_conntrack", "nf_conntrack_netlink", "nft_flow_offload", "dummy")
    for file in (os.environ["KMOD_inject"], os.environ["KMOD_floor"]):
        run("insmod", file)
    sysctl("netfilter/nf_conntrack_max", 1 << 24)
    sysctl("netfilter/nf_conntrack_buckets", buckets)
    with open(Path(os.environ["VM_SHARE"]) / "forward.json", "a", encoding="utf-8") as file:
        for name in names:
            scenario = BY_NAME[name]
            own = "unconfigured" in scenario.variants  # which loads and unloads it
            if not own:
                run("insmod", module)
            results = measure(scenario, int(rounds), module)
            if not own:
                run("rmmod", "nf_ctcache")
            file.write(json.dumps({"kernel": os.uname().release, "scenario": name, "results": results}) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
