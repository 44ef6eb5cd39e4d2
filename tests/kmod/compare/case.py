"""The list of cases. A case is a function that is given a network, builds hosts on it and drives traffic through it."""

CASES = {}


class Case:
    def __init__(self, function, hits, needs):
        self.name, self.function, self.hits, self.needs = function.__name__.replace("_", "-"), function, hits, needs


def case(hits=True, needs=()):
    """`hits`: whether the cache must have been used; `needs`: kernel modules without which the case cannot be had."""
    def register(function):
        made = Case(function, hits, needs)
        CASES[made.name] = made
        return function
    return register
