"""What is done to the module in a namespace, and the modes in which every case runs.

The module's own check (proof=1) corrects a wrong answer before anybody can see it and counts a mismatch, so one mode
runs without.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import client  # noqa: E402

MODES = {
    "plain": None,
    "act_ct": ["act_ct", "proof=1"],
    "labels": ["labels", "proof=1"],
    "unproved": ["act_ct"],
}
EVENTS = ("fib4", "fib6", "rule", "nexthop", "address", "device", "sysctl")
PATIENCE = 20


class Cache:
    """The cache of a namespace. In mode plain it is never configured, and everything here does nothing."""

    def __init__(self, mode):
        self.config = MODES[mode]
        self.due = 0
        if self.config:
            client.run(["config", *self.config])

    def stats(self):
        return client.MESSAGE(client.run(["stats"])[0])

    def epochs(self):
        if not self.config:
            return 0, 0
        epochs = self.stats()["epochs"]
        return sum(epochs[name] for name in EVENTS), epochs["settled"]

    def changed(self, before):
        """After a change; `before` is what epochs() said before it."""
        if self.epochs()[0] != before[0]:
            self.due = before[1] + 1

    def settle(self):
        """Waits for the second epoch of the last change, after which flows learn for good."""
        deadline = time.monotonic() + PATIENCE
        while self.epochs()[1] < self.due:
            if time.monotonic() > deadline:
                raise TimeoutError("an event's second epoch never came")
            time.sleep(0.001)

    def totals(self):
        """(hits, mismatches, hits that were proved)"""
        if not self.config:
            return 0, 0, 0
        stats = self.stats()["stats"]
        return stats["hits"], stats["mismatches"], stats["proofs"]

    def off(self):
        if self.config:
            client.run(["config", "none"])
