#!/usr/bin/python3
"""Counts what a forwarded flow allocates, with nf_ctcache and without: the guest's half of tests/bench/memory.

    memory_guest.py           ($KMOD_inject, $KMOD_weigh, $KMOD_nf_ctcache; the result in $VM_SHARE/memory.json)

In each namespace the same flows begin, are replied to, learn and are forwarded on. Of every phase it counts the
kernel's allocations by their call sites (tracepoints kmem:*, of this process, which injects), and at the end it
weighs the entries.
"""

import collections
import json
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from network import run, sysctl  # noqa: E402
from scenarios import Scenario  # noqa: E402
from traffic import Traffic  # noqa: E402
from variant import Variant  # noqa: E402

FLOWS = 1024
TRACING = Path("/sys/kernel/tracing")
EVENTS = ("kmalloc", "kmalloc_node", "kmem_cache_alloc", "kmem_cache_alloc_node")


def trace(on):
    (TRACING / "tracing_on").write_text("1" if on else "0", encoding="ascii")


def set_up_tracing():
    if not (TRACING / "events").exists():
        run("mount", "-t", "tracefs", "tracefs", str(TRACING))
    trace(False)
    (TRACING / "buffer_size_kb").write_text("65536", encoding="ascii")
    (TRACING / "set_event_pid").write_text(str(os.getpid()), encoding="ascii")
    for event in EVENTS:
        if (TRACING / f"events/kmem/{event}").exists():
            (TRACING / f"events/kmem/{event}/enable").write_text("1", encoding="ascii")


def allocations():
    """(call site, bytes) -> how often, of what was traced; the injector's own packets left out."""
    found = collections.Counter()
    for line in (TRACING / "trace").read_text(encoding="ascii").splitlines():
        if line.startswith("#"):
            kept = re.match(r"# entries-in-buffer/entries-written: (\d+)/(\d+)", line)
            if kept and kept[1] != kept[2]:
                raise SystemExit("the trace buffer is too small")
            continue
        site = re.search(r"call_site=(\S+?)\+", line)
        size = re.search(r"bytes_alloc=(\d+)", line)
        if site and size:
            found[f"{site[1]} {size[1]}"] += 1
    (TRACING / "trace").write_text("", encoding="ascii")
    return found


def phase(links, frames):
    trace(True)
    frames.send(links, FLOWS)
    trace(False)
    return {site: count for site, count in allocations().items() if count > FLOWS // 8}


class Counted(Variant):
    """A variant whose flows begin under the eyes of the tracer."""

    def establish(self):
        links, traffic = self.network.links, self.traffic
        self.phases = {"first packet": phase(links, traffic.first),
                       "reply, which learns": phase(links[::-1], traffic.replies),
                       "second packet, which learns": phase(links, traffic.first),
                       "third packet": phase(links, traffic.first)}
        entries, extensions, length, allocated = map(int, Path("/dev/weigh").read_text(encoding="ascii").split())
        if entries < FLOWS:
            raise SystemExit(f"{entries} entries, not {FLOWS}")
        self.weight = {"flows": entries, "extensions": extensions, "length": length, "allocated": allocated}


def main():
    run("modprobe", "-a", "nf_conntrack", "nf_tables", "dummy")
    for name in ("KMOD_inject", "KMOD_weigh", "KMOD_nf_ctcache"):
        run("insmod", os.environ[name])
    sysctl("netfilter/nf_conntrack_max", 1 << 20)
    set_up_tracing()
    results = []
    for accounting in (0, 1):
        scenario = Scenario("memory", flows=FLOWS, accounting=accounting)
        traffic = Traffic(scenario)
        for name in ("plain", "ctcache"):
            variant = Counted(name, scenario, traffic, None)
            variant.establish()
            results.append({"variant": name, "accounting": accounting, "phases": variant.phases,
                            "weight": variant.weight})
            learned = variant.counters()
            print(name, accounting, variant.weight, variant.phases, learned)
            if name == "ctcache" and learned["hits"] < FLOWS:
                raise SystemExit("nothing was learned")
            variant.close()
    (Path(os.environ["VM_SHARE"]) / "memory.json").write_text(
        json.dumps({"kernel": os.uname().release, "results": results}), encoding="utf-8")


if __name__ == "__main__":
    main()
