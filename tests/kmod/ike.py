#!/usr/bin/python3
"""strongSwan negotiates for the router and for its peer, under traffic: nothing is lost or clear that was not before.

As ipsec.py, but what changes from run to run (numbers of states, how much was exchanged meanwhile) is not compared, and
there is no mode with proof: daemons take their time.
"""

import contextlib
import os
import re

import kit
from ipsec.compare import unproved
from ipsec.daemon import CONNECTION, Daemon
from ipsec.flow import Flow
from ipsec.network import far


class Ike:
    """Daemons in r and p, with a connection and a flow for each family: GCM in UDP, and CBC with a hash."""

    PROPOSALS, ENCAP = {4: "aes128gcm16", 6: "aes128-sha256"}, {4: "yes", 6: "no"}

    def __init__(self, net, more=""):
        self.net, self.more, self.daemons = net, more, {}
        net.flows += [Flow(net, family, far(family, 1)) for family in (4, 6)]

    def connection(self, name, family):
        here, there = self.net.ends[family][::1 if name == "r" else -1]
        near, away = (self.net.a[family], far(family, 1))[::1 if name == "r" else -1]
        return CONNECTION.format(name=f"v{family}", here=here, there=there, here_id=name, near=near, far=away,
                                 there_id="p" if name == "r" else "r", encap=self.ENCAP[family],
                                 proposal=self.PROPOSALS[family], more=self.more if name == "r" else "")

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            for name in "pr":
                daemon = Daemon(name, [self.connection(name, family) for family in (4, 6)])
                self.daemons[name] = stack.enter_context(daemon)
            self.stack = stack.pop_all()
        self.idle = self.kept()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def each(self, *words, name="r", meanwhile=None):
        """swanctl for each family."""
        for family in (4, 6):
            self.daemons[name].swanctl(*(f"v{family}" if word == "*" else word for word in words), meanwhile=meanwhile)

    def up(self):
        self.each("--initiate", "--child", "*")
        self.hits()
        return self

    def kept(self):
        """How many policies, but for those of sockets, and states each end has: also those that it is about to delete."""
        return {name: [len(re.findall(r"^\s+dir |^\s+proto esp spi ", kit.run("ip", "-n", name, "xfrm", what).stdout,
                                      re.M)) for what in ("policy", "state")] for name in "pr"}

    def terminate(self, name="r"):
        """Who is told to forget answers before he does, so both are waited for."""
        self.each("--terminate", "--ike", "*", name=name)
        kit.wait_until(lambda: self.kept() == self.idle, lambda: f"{self.idle}, but {self.kept()} are left")

    def hits(self):
        """By the newest states of r."""
        for flow in self.net.flows:
            one, other = self.net.ends[flow.family]
            flow.spis = self.net.spis(one, other)[0], self.net.spis(other, one)[0]
        self.net.hits()

    def states(self):
        return {spi for one, other in self.net.ends.values() for spi in self.net.spis(one, other)}

    def newest(self):
        """The states by which packets leave r now; after more packets."""
        for _ in range(50):
            self.net.turn()
        return {self.net.spis(*ends)[0] for ends in self.net.ends.values()}

    def sas(self):
        """Numbers of r's IKE_SAs."""
        return set(re.findall(r"^v\d: (#\d+)", self.daemons["r"].swanctl("--list-sas", meanwhile=self.net.turn), re.M))

    def change(self, seen, *words, **options):
        """swanctl under traffic, until none of what is `seen` is as before."""
        def changed():
            self.net.turn()
            now = seen()
            return len(now) == len(before) and not now & before
        before = seen()
        self.each(*words, meanwhile=self.net.turn, **options)
        kit.wait_until(changed, lambda: f"{words}: {before} became {seen()}: {self.daemons['r'].log()}")


@unproved
def test_rekeyed(net):
    """By either end. Then all anew: p has those states before r has them, so some packets are lost in any mode."""
    with Ike(net) as ike:
        ike.up()
        for name in "rp":
            ike.change(ike.states, "--rekey", "--child", "*", name=name)
            ike.hits()
        ike.change(ike.sas, "--rekey", "--ike", "*")
        ike.hits()
        net.lossless(100)
        ike.change(ike.states, "--rekey", "--ike", "*", "--reauth")
        ike.hits()
        kit.same(net.clear, 0, "clear ones")


@unproved
def test_limited(net):
    """The kernel says that a state has been used enough."""
    with Ike(net, "rekey_packets = 200\nrand_packets = 0\nlife_packets = 100000") as ike:
        ike.up()
        before = ike.newest()
        kit.wait_until(lambda: not before & ike.newest(), lambda: f"other states {ike.daemons['r'].log()}")
        ike.hits()
        net.lossless(200)


@unproved
def test_terminated(net):
    """What was protected is clear, since nobody asks for more."""
    with Ike(net) as ike:
        net.look("before")
        for name in "rp":
            ike.up()
            net.look("up")
            ike.terminate(name)
            net.look("terminated")


@unproved
def test_trapped(net):
    """Policies without states, which the first packet asks for."""
    with Ike(net, "start_action = trap") as ike:
        for _ in range(2):
            kit.wait_until(lambda: net.turn() or all([flow.exchange() == "ok" for flow in net.flows]), "answers")
            ike.hits()
            net.look("up")
            ike.terminate()
        kit.same(net.clear, 0, "clear ones")


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # on which the order of packets is that of their sending
    kit.main()
