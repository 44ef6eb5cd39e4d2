"""What is done to the module in a namespace, and the modes in which every case runs.

The module's own check (proof=1) corrects a wrong answer before anybody can see it and counts a mismatch, so one mode
runs without.
"""

import errno
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
    "labels-unproved": ["labels"],
}
CASE_MODES = ("act_ct", "labels", "unproved")  # of cases that are written by hand
CARRIER_MODES = (("act_ct", "unproved"), ("labels", "labels-unproved"))  # with each carrier, proved and not
CAUSE = client.ENUM["cause"]
EVENTS = [CAUSE[name] for name in ("fib4", "fib6", "rule", "nexthop", "address", "device", "sysctl")]
SETTLED, WRAP = CAUSE["settled"], CAUSE["wrap"]
PATIENCE = 20


class Cache:
    """The cache of a namespace. In mode plain it is never configured, and everything here does nothing."""

    def __init__(self, mode):
        self.config = MODES[mode]
        self.due, self.wraps, self.gone = 0, 0, (0, 0, 0)
        self.client = client.Client() if self.config else None
        self.do("config")

    def do(self, command, *words):
        """A command of the client's; a configuration is that of the mode, and what `words` add to it."""
        if self.config:
            client.run([command, *(self.config if command == "config" else ()), *words])

    def stats(self):
        return client.MESSAGE(client.run(["stats"])[0])

    def epochs(self):
        """Of events and of those that end them; asked around every change, so only these numbers are read."""
        if not self.config:
            return 0, 0, 0
        answer = dict(client.attributes(self.client.ask(client.CMD["stats_get"])[0]))
        epochs = {kind: client.number(value) for kind, value in client.attributes(answer[client.ATTR["epochs"]])}
        return sum(epochs[kind] for kind in EVENTS), epochs[SETTLED], epochs[WRAP]

    def changed(self, before):
        """After a change; `before` is what epochs() said before it."""
        if self.epochs()[0] != before[0]:
            self.due, self.wraps = before[1] + 1, before[2]

    def settle(self):
        """Waits for the second epoch of the last change, after which flows learn for good; none is begun while a sweep is
        under way because the epochs have wrapped."""
        deadline = time.monotonic() + PATIENCE
        while (now := self.epochs())[1] < self.due and now[2] == self.wraps:
            if time.monotonic() > deadline:
                raise TimeoutError("an event's second epoch never came")
            time.sleep(0.001)

    def totals(self):
        """(hits, mismatches, hits that were proved)"""
        if not self.config:
            return 0, 0, 0
        stats = self.stats()["stats"]
        return tuple(map(sum, zip(self.gone, (stats["hits"], stats["mismatches"], stats["proofs"]))))

    def off(self):
        """It counts anew when it is configured again, and ends the last change's second epoch unheard."""
        if self.config:
            self.due, self.gone = 0, self.totals()
            client.run(["config", "none"])

    def wrap(self):
        """Epochs end soon, unless they have just begun anew."""
        try:
            self.do("fault", "epoch=32762")
        except client.Refused as error:
            if error.errno != errno.EINVAL:
                raise

    def close(self):
        if self.config:
            client.run(["config", "none"])
            self.client.socket.close()
