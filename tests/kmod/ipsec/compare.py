"""A scenario in every way of running, and whether all of them came to the same."""

import kit
from ipsec.network import MODES, Network

SHOWN = 12


def difference(plain, other, mode):
    """Lines about the first step that differs; none."""
    for (label, wanted), (second, got) in zip(plain, other):
        if label != second:
            return [f"step {label!r}, but {mode} has {second!r}"]
        lines = [f"{key}: {wanted.get(key)} in plain, {got.get(key)} in {mode}"
                 for key in sorted(wanted.keys() | got.keys()) if wanted.get(key) != got.get(key)]
        if lines:
            return [f"step {label!r}:"] + lines[:SHOWN]
    if len(plain) != len(other):
        return [f"{len(plain)} steps in plain, {len(other)} in {mode}"]
    return []


def compared(scenario, modes=tuple(MODES)):
    """A test: the scenario, a function of a network, is recorded in every mode, and must come to the same."""
    def test():
        steps = {mode: recorded(scenario, mode) for mode in modes}
        for mode in modes:
            if found := difference(steps["plain"], steps[mode], mode):
                raise AssertionError("\n".join(found))
    return test


def unproved(scenario):
    """Without proof mode."""
    return compared(scenario, ("plain", "cached"))


def recorded(scenario, mode):
    with Network(mode) as net:
        try:
            scenario(net)
        except Exception:
            print(f"     in mode {mode}, after", *(f"     {label}: {facts}" for label, facts in net.steps[-3:]),
                  sep="\n")
            raise
        net.finish()
    kit.yes(net.steps, "nothing was recorded")
    return net.steps
