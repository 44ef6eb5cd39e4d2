#!/usr/bin/python3
"""Compares the router with and without nf_ctcache as compare.py does, in cases that come from a seed.

    random_compare.py [--module KO] [--seed N] [--cases N] [--shrink] [--show] [--keep-going] [--verbose]
    random_compare.py [--module KO] --plan FILE

Case number S is the plan of seed S (compare/generate.py), carried out without the cache, then with it: proved, in which
every hit is looked up the slow way as well and a mismatch fails, and unproved, in which what is cached counts. The
carriers take turns. Cases begin at --seed. What fails is told with its plan and the first difference; --shrink cuts the
plan down to the lines that the difference needs. A plan can be kept in a file and carried out alone.

The only thing that another boot does otherwise is the choice among next hops, whose hash has a secret. Some plans come to
something random (the port that translation chooses when the own one is taken): a case that differs is run without the
cache once more, and if that differs, too, it is unsteady, told of, and says nothing.

Needs root. The module is loaded from KO and unloaded at the end; without --module or $KMOD it must be there already.
"""

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from compare.cache import CARRIER_MODES  # noqa: E402
from compare.generate import Generator  # noqa: E402
from compare.judge import describe, difference, run_case  # noqa: E402
from compare.machine import prepared  # noqa: E402
from compare.plan import player  # noqa: E402

LEAST_WITH_HITS, MOST_UNSTEADY = 0.9, 0.02


class Outcome:
    """What the runs of a plan said."""

    def __init__(self, lines, modes):
        self.bad, self.mode, self.hits, self.packets, self.unsteady = [], None, 0, 0, False
        plain = None
        for mode in ("plain", *modes):
            try:
                steps, hits, mismatches = run_case(player(lines), mode)
            except Exception as error:  # a plan that is wrong must not end the others  # pylint: disable=broad-except
                self.fail(mode, [str(error), *traceback.format_exc().splitlines()[1:-1]])
                return
            if mode == "plain":
                plain = steps
                continue
            self.hits += hits
            self.packets += sum(len(step.what) for step in steps if not isinstance(step.what, str))
            if found := difference(plain, steps, mode):
                self.fail(mode, [f"in {line_of(plain, steps)}", *found])
            if mismatches:
                self.fail(mode, [f"{mismatches} mismatches"])
            if self.bad:
                self.unsteady = not mismatches and bool(difference(plain, run_case(player(lines), "plain")[0], "plain"))
                return

    def fail(self, mode, lines):
        self.mode = mode
        self.bad += [f"{mode}: {lines[0]}", *lines[1:]]


def line_of(plain, other):
    """The plan's line in which two runs part."""
    line = "the first line"
    for a, b in zip(plain, other):
        if (a.what, a.outcome) != (b.what, b.outcome):
            break
        line = f"{a.what}: {a.outcome}" if isinstance(a.what, str) and a.what.startswith("line ") else line
    return line


def shrunk(lines, mode):
    """The lines without those that the difference does not need."""
    def fails(candidate):
        return bool(Outcome(candidate, [mode]).bad)

    def reduce(head, rest):
        size = max(len(rest) // 2, 1)
        while True:
            at, removed = 0, False
            while at < len(rest):
                candidate = rest[:at] + rest[at + size:]
                if fails(head + candidate):
                    rest, removed = candidate, True
                else:
                    at += size
            if size == 1 and not removed:
                return head + rest
            size = max(size // 2, 1)

    def is_kept(line):
        return line.startswith(("hosts ", "own "))

    head = [line for line in lines if is_kept(line)]
    found = reduce(head, [line for line in lines if not is_kept(line)])
    split = [part for line in found[len(head):]
             for part in ([f"send {word}" for word in line.split()[1:]] if line.startswith("send ") else [line])]
    return reduce(head, split) if fails(head + split) else found


def show(lines):
    for step in run_case(player(lines), "plain")[0]:
        said = [f"    {line}" for line in describe(step.outcome) if not line.startswith("    ")]
        print(f"{step.what}: {step.outcome}" if isinstance(step.what, str) else "\n".join([f"  {step}", *said]))


def tell(name, outcome, lines, options):
    print(f"FAIL {name}", *(f"    {line}" for line in outcome.bad), sep="\n", flush=True)
    if options.shrink:
        lines = shrunk(lines, outcome.mode)
        outcome = Outcome(lines, [outcome.mode])
        print("    cut down:", *(f"    {line}" for line in outcome.bad), sep="\n")
    print("    the plan:", *(f"      {line}" for line in lines), sep="\n", flush=True)


def run_seeds(options):
    hits, packets, cases = Counter(), Counter(), Counter()
    without, failed, unsteady, started = [], [], [], time.monotonic()
    for seed in range(options.seed, options.seed + options.cases):
        generator = Generator(seed)
        lines = generator.plan()
        outcome = Outcome(lines, options.mode or CARRIER_MODES[seed % 2])
        if options.verbose:
            print(f"{seed} {' '.join(generator.themes)}: {len(lines)} lines, {outcome.hits} hits, {outcome.packets} packets",
                  flush=True)
        for kind in ("all", *generator.themes):
            hits[kind] += outcome.hits
            packets[kind] += outcome.packets
            cases[kind] += 1
        if outcome.unsteady:
            unsteady.append(seed)
        elif outcome.bad:
            tell(f"random {seed} ({' '.join(generator.themes)})", outcome, lines, options)
            print(f"    alone: random_compare.py --seed {seed} --cases 1", flush=True)
            failed.append(seed)
            if not options.keep_going:
                break
        elif not outcome.hits:
            without.append(seed)
    print(f"{cases['all']} cases from seed {options.seed}, {len(failed)} failed, {time.monotonic() - started:.0f} s; "
          f"without a hit: {len(without)} {without or ''}; unsteady: {len(unsteady)} {unsteady or ''}")
    print("share of hits: " + ", ".join(f"{kind} {hits[kind] / max(packets[kind], 1):.0%} of {packets[kind]}"
                                        for kind in sorted(cases)))
    silent = len(without) + len(unsteady)
    enough = (len(without) <= (1 - LEAST_WITH_HITS) * cases["all"] and len(unsteady) <= MOST_UNSTEADY * cases["all"])
    if not failed:
        print(f"{'PASS' if enough else 'FAIL'} random ({cases['all'] - silent} cases)")
        if not enough:
            print(f"    {silent} of {cases['all']} say nothing")
    return 0 if not failed and enough else 1


def main():
    parser = argparse.ArgumentParser(description="Compare a router with nf_ctcache and without, in random cases.")
    parser.add_argument("--module", metavar="KO", default=os.environ.get("KMOD"),
                        help="load this module, and unload it at the end (default: $KMOD)")
    parser.add_argument("--seed", type=int, default=1, help="the first case's")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--plan", type=Path, help="carry out this one instead")
    parser.add_argument("--mode", action="append", choices=[mode for pair in CARRIER_MODES for mode in pair])
    parser.add_argument("--shrink", action="store_true", help="cut down the plan of what fails")
    parser.add_argument("--show", action="store_true", help="only print what happens in the cases without the cache")
    parser.add_argument("--keep-going", action="store_true", help="go on after a failure")
    parser.add_argument("--verbose", "-v", action="store_true", help="a line for every case")
    options = parser.parse_args()

    with prepared(options.module):
        if options.show:
            for seed in range(options.seed, options.seed + options.cases):
                show(Generator(seed).plan())
            return 0
        if not options.plan:
            return run_seeds(options)
        lines = options.plan.read_text(encoding="utf-8").strip().splitlines()
        outcome = Outcome(lines, options.mode or [mode for pair in CARRIER_MODES for mode in pair])
        if outcome.bad:
            tell(options.plan, outcome, lines, options)
        else:
            print(f"PASS {options.plan} ({outcome.hits} hits, {outcome.packets} packets)")
        return 1 if outcome.bad else 0


if __name__ == "__main__":
    sys.exit(main())
