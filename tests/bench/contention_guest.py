#!/usr/bin/python3
"""Forwards on one CPU, then on two at once: the guest's half of tests/bench/contention.

    contention_guest.py ROUNDS       ($KMOD_inject, $KMOD_floor, $KMOD_nf_ctcache)

The result is in $VM_SHARE/contention.json.

In every namespace the flows are split between the CPUs; each CPU takes its half through the same devices, tables and
module.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from network import run, sysctl  # noqa: E402
from scenarios import Scenario  # noqa: E402
from traffic import Injector, Traffic  # noqa: E402
from variant import established, middle  # noqa: E402

VARIANTS = ("none", "plain", "ctcache", "floor")
PACKETS = 40960


def forward(variant, cpu):
    """Nanoseconds per packet of this CPU's half."""
    return middle(variant.traffic.halves[cpu].send(variant.network.links, PACKETS))


def on_both(variant):
    """As forward(), of CPU 0, while a child keeps CPU 1 at the same."""
    ready, child_ready = os.pipe()
    stop, parent_stop = os.pipe()
    child = os.fork()
    if not child:
        os.sched_setaffinity(0, {1})
        os.set_blocking(stop, False)
        forward(variant, 1)
        os.write(child_ready, b"1")
        while True:
            forward(variant, 1)
            try:
                os.read(stop, 1)
                os._exit(0)
            except BlockingIOError:
                pass
    os.read(ready, 1)
    result = forward(variant, 0)
    os.write(parent_stop, b"1")
    _, status = os.waitpid(child, 0)
    for handle in (ready, child_ready, stop, parent_stop):
        os.close(handle)
    if status:
        raise SystemExit(f"{variant.name}: the other CPU failed")
    return result


def main():
    rounds = int(sys.argv[1])
    run("modprobe", "-a", "nf_conntrack", "nf_tables", "dummy")
    for name in ("KMOD_inject", "KMOD_floor", "KMOD_nf_ctcache"):
        run("insmod", os.environ[name])
    sysctl("netfilter/nf_conntrack_max", 1 << 20)
    os.sched_setaffinity(0, {0})
    scenario = Scenario("contention")
    traffic = Traffic(scenario)
    traffic.halves = [Injector(traffic.frames[cpu::2]) for cpu in (0, 1)]
    variants = established(VARIANTS, scenario, traffic)
    results = {variant.name: {"one": [], "two": []} for variant in variants}
    for number in range(rounds):
        turn = number % len(variants)
        for variant in variants[turn:] + variants[:turn]:
            variant.network.enter()
            results[variant.name]["one"].append(forward(variant, 0))
            before = variant.counters()
            results[variant.name]["two"].append(on_both(variant))
            after = variant.counters()
            grown = {name: after[name] - before[name] for name in ("hits", "misses", "arrived")}
            if variant.cached and (grown["misses"] or grown["hits"] != grown["arrived"]):
                raise SystemExit(f"misses: {before}, {after}")
    for variant in variants:
        variant.close()
    (Path(os.environ["VM_SHARE"]) / "contention.json").write_text(
        json.dumps({"kernel": os.uname().release, "results": results}), encoding="utf-8")


if __name__ == "__main__":
    main()
