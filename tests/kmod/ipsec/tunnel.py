"""What r and its peer agree on about one of b's addresses, and the flow to it.

Number N is about b's address N, its policies ask for states of a reqid of its own, and its states are numbered from
there, those of the way back from 0x80 more.
"""

from ipsec import state
from ipsec.flow import Flow
from ipsec.network import NETS, far


class Tunnel:
    """From r to p; in transport mode from a to b, so that b decrypts, and its answers are clear."""

    def __init__(self, net, family, number=1, cipher="gcm", mode="tunnel", more="", **options):
        self.net, self.family, self.cipher, self.mode, self.more = net, family, cipher, mode, more
        self.a, self.b = net.a[family], far(family, number)
        self.reqid = number * 10 + family
        self.peer = "p" if mode == "tunnel" else "b"
        self.out = net.ends[family] if mode == "tunnel" else (self.a, self.b)
        self.ways = (0, 1) if mode == "tunnel" else (0,)
        self.flow = Flow(net, family, self.b, **options)
        self.expect()
        net.flows.append(self.flow)

    def spi(self, way, turn):
        return self.reqid * 0x100 + way * 0x80 + turn

    def expect(self, turn=1):
        """These states are used from now on."""
        self.flow.spis = self.spi(0, turn), self.spi(1, turn) if self.mode == "tunnel" else None
        return self

    # --- states ---

    def states(self, turn=1, ways=None, more=""):
        return [state.state(self.out[::-1 if way else 1], self.spi(way, turn), self.mode, self.cipher, self.reqid,
                            f"{self.more} {more}") for way in ways or self.ways]

    def add(self, turn=1, ways=None, more="", names=None):
        for name in names or (self.peer, "r"):
            self.net.do(name, *self.states(turn, ways, more if name == "r" else ""))
        return self

    def handover(self, turn):
        """[(host, lines)] by which a state replaces the one before, and neither end ever misses one."""
        new, old = (lambda way: self.states(turn, [way])), (lambda way: self.no_states(turn - 1, [way]))
        return [("p", new(0)), ("r", new(1) + new(0)), ("p", new(1)),
                ("r", old(0)), ("p", old(1) + old(0)), ("r", old(1))]

    def no_states(self, turn=1, ways=None):
        return [state.no_state(self.out[::-1 if way else 1], self.spi(way, turn)) for way in ways or self.ways]

    def delete(self, turn=1, ways=None, names=None):
        for name in names or ("r", self.peer):
            self.net.do(name, *self.no_states(turn, ways))

    # --- policies ---

    def selector(self, direction):
        return (self.a, self.b) if direction == "out" else (self.b, self.a)

    def policy(self, direction, what=None, more="", verb="add"):
        """r's: out, or fwd for what comes back."""
        ends = self.out if direction == "out" else self.out[::-1]
        return state.policy(*self.selector(direction), direction, what or state.template(ends, self.mode, self.reqid),
                            f"priority 100 {more}", verb)

    def no_policy(self, direction):
        return state.no_policy(*self.selector(direction), direction)

    def policies(self, more="", verb="add"):
        return [self.policy(direction, None, more, verb) for direction in ("out", "fwd")[:len(self.ways)]]

    def wider(self, direction, wide):
        """The selector of another one: of the same hosts, or of b's whole net."""
        if not wide:
            source, destination = self.selector(direction)
            return source, f"{destination} proto udp"
        ends = self.a, NETS[4][self.family]
        return ends if direction == "out" else ends[::-1]

    def override(self, direction, what, wide):
        return state.policy(*self.wider(direction, wide), direction, what, "priority 1")

    def no_override(self, direction, wide):
        return state.no_policy(*self.wider(direction, wide), direction)

    def peers(self):
        """The other end's."""
        there = state.template(self.out, self.mode, self.reqid)
        if self.mode == "transport":
            return [state.policy(self.a, self.b, "in", there)]
        return [state.policy(self.a, self.b, "fwd", there),
                state.policy(self.b, self.a, "out", state.template(self.out[::-1], self.mode, self.reqid))]

    def no_peer(self):
        """The other end's answers are no longer protected."""
        return state.no_policy(self.b, self.a, "out")

    def up(self, turn=1, more=""):
        """Policies, and the first states."""
        self.net.do("r", *self.policies())
        self.net.do(self.peer, *self.peers())
        return self.add(turn, more=more).expect(turn)
