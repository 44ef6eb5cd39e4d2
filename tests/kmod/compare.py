#!/usr/bin/python3
"""Compares the router's behaviour with and without nf_ctcache: what comes out must be equal, case by case.

    compare.py [--module KO] [--mode MODE]... [--list] [--show] [--verbose] [CASE...]

Every case runs in fresh namespaces without the cache (mode plain) and with it: act_ct and labels, in which the module
checks every hit by a lookup of its own (proof=1), and unproved, in which what is cached is what counts. Recorded and
compared are the frames at every host, byte by byte, after every packet that was sent; the counters of rules in every
hook; NFLOG, NFQUEUE and sockets where a case has them; conntrack's entries with their accounting; and the stack's
counters. With the cache there must be hits where the case says so, and no mismatch.

One line for every case: PASS|FAIL|SKIP compare/NAME (N hits). Needs root. The module is loaded from KO and unloaded at
the end; without --module or $KMOD it must be there already.
"""

import argparse
import difflib
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from compare.case import CASES  # noqa: E402
from compare.cache import MODES  # noqa: E402
from compare.namespace import write_sysctl  # noqa: E402
from compare.network import MACHINE_SYSCTLS, Network  # noqa: E402
from compare.packet import Packet  # noqa: E402
from compare.tools import Failed  # noqa: E402
import compare.cases  # noqa: E402,F401

MOST_LINES = 40


def run_case(case, mode):
    """(steps, hits, mismatches) of one run."""
    net = Network(mode)
    try:
        case.function(net)
        hits, mismatches, proofs = net.finish()
    finally:
        net.close()
    if mode in ("act_ct", "labels") and hits != proofs:
        raise Failed(f"{hits} hits, of which {proofs} were proved")
    return net.steps, hits, mismatches


def describe(outcome):
    if isinstance(outcome, str):
        return outcome.splitlines()
    lines = []
    for name, frame in outcome:
        lines.append(f"at {name}: {Packet(frame)}")
        lines += [f"    {frame[i:i + 32].hex(' ')}" for i in range(0, len(frame), 32)]
    return lines or ["nothing"]


def normal(outcome):
    """Packets that one step brought to one host are compared in their order; hosts have no order among them."""
    return outcome if isinstance(outcome, str) else sorted(outcome, key=lambda item: item[0])


def difference(plain, other, mode):
    """The first one, for people, or nothing."""
    for number, (a, b) in enumerate(zip(plain, other)):
        # What was sent may answer something random; texts must be equal.
        if (a.what == b.what or not isinstance(a.what, str)) and normal(a.outcome) == normal(b.outcome):
            continue
        lines = [f"step {number}: {a}"]
        if str(a) != str(b):
            lines.append(f"but with {mode}: {b}")
        diff = list(difflib.unified_diff(describe(a.outcome), describe(b.outcome), "plain", mode, lineterm="", n=2))
        return lines + diff[:MOST_LINES] + [f"... {len(diff) - MOST_LINES} more lines"] * (len(diff) > MOST_LINES)
    if len(plain) != len(other):
        return [f"{len(plain)} steps without the cache, {len(other)} with {mode}"]
    return []


def is_loaded(name):
    return any(line.split()[0] == name for line in Path("/proc/modules").read_text().splitlines())


def show(case):
    for number, step in enumerate(run_case(case, "plain")[0]):
        lines = [f"    {line}" for line in describe(step.outcome) if not line.startswith("    ")]
        print(f"{number}: {step}", *lines, sep="\n")


def missing(case):
    return [name for name in case.needs if subprocess.run(["modprobe", "-q", name], check=False).returncode]


def judge(case, modes):
    """(verdict, hits by mode, lines)"""
    if lacking := missing(case):
        return "SKIP", {}, [f"this kernel has no {' '.join(lacking)}"]
    hits, lines, plain = {}, [], None
    for mode in ["plain", *modes]:
        try:
            steps, hits[mode], mismatches = run_case(case, mode)
        except Exception as error:  # a case that is wrong must not end the others  # pylint: disable=broad-except
            return "FAIL", hits, lines + [f"{mode}: {error}", *traceback.format_exc().splitlines()[1:-1]]
        if mode == "plain":
            plain = steps
            if not any(step.outcome for step in steps[:-3]):
                lines.append("nothing ever came out: this case compares nothing")
            continue
        found = difference(plain, steps, mode)
        lines += [f"{mode}: {found[0]}", *found[1:]] if found else []
        if mismatches:
            lines.append(f"{mode}: {mismatches} mismatches")
        if case.hits and not hits[mode]:
            lines.append(f"{mode}: not one hit")
        if not case.hits and hits[mode]:
            lines.append(f"{mode}: {hits[mode]} hits, where nothing may be cached")
    del hits["plain"]
    return "FAIL" if lines else "PASS", hits, lines


def main():
    parser = argparse.ArgumentParser(description="Compare what comes out of a router with nf_ctcache and without.")
    parser.add_argument("--module", metavar="KO", default=os.environ.get("KMOD"),
                        help="load this module, and unload it at the end (default: $KMOD)")
    parser.add_argument("--mode", action="append", choices=[mode for mode in MODES if mode != "plain"])
    parser.add_argument("--list", action="store_true", help="only print the names of the cases")
    parser.add_argument("--show", action="store_true", help="only print what happens in the cases without the cache")
    parser.add_argument("--verbose", "-v", action="store_true", help="hits of every mode, and times")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no such case: {' '.join(sorted(unknown))}")
    if options.list:
        print("\n".join(CASES))
        return 0

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # network.py says why
    subprocess.run(["modprobe", "-a", "nf_conntrack", "nf_tables"], check=True)
    loaded = bool(options.module) and not is_loaded("nf_ctcache")
    if loaded:
        subprocess.run(["insmod", options.module], check=True)
    before = {name: write_sysctl(name, value) for name, value in MACHINE_SYSCTLS.items()}
    verdicts = []
    for name in options.cases or CASES:
        if options.show:
            show(CASES[name])
            continue
        started = time.monotonic()
        verdict, hits, lines = judge(CASES[name], options.mode or [mode for mode in MODES if mode != "plain"])
        detail = f"; {' '.join(f'{mode} {count}' for mode, count in hits.items())}; {time.monotonic() - started:.1f} s"
        print(f"{verdict} compare/{name} ({sum(hits.values())} hits{detail if options.verbose else ''})", flush=True)
        print("".join(f"    {line}\n" for line in lines), end="", flush=True)
        verdicts.append(verdict)
    for name, value in before.items():
        write_sysctl(name, value)
    if loaded:
        subprocess.run(["rmmod", "nf_ctcache"], check=True)
    print(", ".join(f"{verdicts.count(verdict)} {word}" for verdict, word in
                    (("PASS", "passed"), ("FAIL", "failed"), ("SKIP", "skipped"))))
    return 1 if "FAIL" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
