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
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from compare.case import CASES  # noqa: E402
from compare.cache import CASE_MODES  # noqa: E402
from compare.judge import describe, difference, run_case  # noqa: E402
from compare.machine import prepared  # noqa: E402
import compare.cases  # noqa: E402,F401


def show(case):
    for number, step in enumerate(run_case(case.function, "plain")[0]):
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
            steps, hits[mode], mismatches = run_case(case.function, mode)
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
    parser.add_argument("--mode", action="append", choices=CASE_MODES)
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

    verdicts = []
    with prepared(options.module):
        for name in options.cases or CASES:
            if options.show:
                show(CASES[name])
                continue
            started = time.monotonic()
            verdict, hits, lines = judge(CASES[name], options.mode or CASE_MODES)
            detail = f"; {' '.join(f'{mode} {count}' for mode, count in hits.items())}; {time.monotonic() - started:.1f} s"
            print(f"{verdict} compare/{name} ({sum(hits.values())} hits{detail if options.verbose else ''})", flush=True)
            print("".join(f"    {line}\n" for line in lines), end="", flush=True)
            verdicts.append(verdict)
    print(", ".join(f"{verdicts.count(verdict)} {word}" for verdict, word in
                    (("PASS", "passed"), ("FAIL", "failed"), ("SKIP", "skipped"))))
    return 1 if "FAIL" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
