"""One run of a case, and what two runs have in common or not."""

import difflib

from .cache import MODES
from .network import Network
from .packet import Packet
from .tools import Failed

MOST_LINES = 40


def run_case(function, mode):
    """(steps, hits, mismatches) of what the function does with a network."""
    net = Network(mode)
    try:
        function(net)
        hits, mismatches, proofs = net.finish()
    finally:
        net.close()
    if "proof=1" in (MODES[mode] or ()) and hits != proofs:
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


def same(a, b):
    """What was sent may answer something random; texts must be equal."""
    return (a.what == b.what or not isinstance(a.what, str)) and normal(a.outcome) == normal(b.outcome)


def difference(plain, other, mode):
    """The first one, for people, or nothing."""
    for number, (a, b) in enumerate(zip(plain, other)):
        if same(a, b):
            continue
        lines = [f"step {number}: {a}"]
        if str(a) != str(b):
            lines.append(f"but with {mode}: {b}")
        diff = list(difflib.unified_diff(describe(a.outcome), describe(b.outcome), "plain", mode, lineterm="", n=2))
        return lines + diff[:MOST_LINES] + [f"... {len(diff) - MOST_LINES} more lines"] * (len(diff) > MOST_LINES)
    if len(plain) != len(other):
        return [f"{len(plain)} steps without the cache, {len(other)} with {mode}"]
    return []
