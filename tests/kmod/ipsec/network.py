"""Five namespaces, and all that can be seen in them.

    a --1-- r --2-- w --3-- p --4-- b      Link N is 10.0.N.0/24 and fd0N::/64.

a and b are hosts, r is the router with the cache, w forwards what it does not understand, p is r's peer. What is
protected is between a's own address and b's addresses far(family, number); the fence has others. Every step of a
scenario is recorded: what became of each datagram, the packets on the wire behind r, what states have counted in r and
at the other end, /proc/net/xfrm_stat of both, and ICMP's errors. Neighbours are permanent: no packet waits for any.
"""

import contextlib
import os
import re
import select
import socket
import subprocess
import time

import kit
from ipsec import state
from ipsec.flow import Fence, Flow
from ipsec.wire import Wire

HOSTS = "arwpb"
CLOCK_REALTIME_COARSE = 5  # by which the kernel dates states
QUIET = 0.03  # seconds without an epoch: no other event is under way
FAR = range(1, 6)  # numbers of b's addresses
EVENTS = "fib4", "fib6", "rule", "nexthop", "address", "device", "sysctl", "ipsec"  # causes that have a second epoch
MODES = {"plain": None, "cached": [], "proved": ["proof=1"]}


def far(family, number):
    """b's address of this number."""
    return f"10.0.4.1{number}" if family == 4 else f"fd04::1{number}"


BEHIND = [far(family, number) for family in (4, 6) for number in FAR] + ["10.0.4.9"]
NETS = {number: {4: f"10.0.{number}.0/24", 6: f"fd0{number}::/64"} for number in range(1, 5)}


def links():
    for number, (left, right) in enumerate(zip(HOSTS, HOSTS[1:]), 1):
        yield number, left, right


def address(host, number, family):
    """Of a host on link `number`: of its two, the left one is 1."""
    last = 1 if HOSTS.index(host) < number else 2
    return f"10.0.{number}.{last}" if family == 4 else f"fd0{number}::{last}"


def card(host, number):
    return f"02:00:00:00:0{number}:0{HOSTS.index(host)}"


def commands(host):
    """What ip(8) does in the host."""
    lines, place = ["link set lo up"], HOSTS.index(host)
    for number, left, right in links():
        if host in (left, right):
            other = right if host == left else left
            device, others = host + other, [address(other, number, family) for family in (4, 6)]
            lines += [f"link set {device} addrgenmode none", f"addr add {address(host, number, 4)}/24 dev {device}",
                      f"addr add {address(host, number, 6)}/64 dev {device} nodad", f"link set {device} up"]
            # What is learned by way of one that is no router is forgotten at any time (rt6_age_examine_exception()).
            lines += [f"neigh add {there} lladdr {card(other, number)} nud permanent router dev {device}"
                      for there in others + (BEHIND if other == "b" else [])]
    for number, left, right in links():
        if host not in (left, right):
            hop, link = (HOSTS[place + 1], place + 1) if number > place else (HOSTS[place - 1], place)
            lines += [f"route add {NETS[number][family]} via {address(hop, link, family)}" for family in (4, 6)]
    return lines


class Ip:
    """ip(8) in a namespace, kept running: to start a program takes longer than what this one does."""

    def __init__(self, name):
        self.child = subprocess.Popen(["ip", "-n", name, "-batch", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, text=True)

    def begin(self, lines):
        try:
            self.child.stdin.write("\n".join([*lines, "link show dev lo"]) + "\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            pass

    def ready(self):
        return select.select([self.child.stdout], [], [], 0)[0]

    def end(self, lines):
        """All is done when it returns."""
        if not self.child.stdout.readline() or not self.child.stdout.readline():
            raise RuntimeError(f"{lines}: {self.child.stderr.read()}")

    def close(self):
        self.child.communicate()


class Network:
    """One way of running (MODES); gone when the `with` ends."""

    def __init__(self, mode):
        self.mode, self.steps, self.flows, self.programs = mode, [], [], {}
        self.sent = self.lost = self.clear = 0
        self.a = {family: address("a", 1, family) for family in (4, 6)}
        self.ends = {family: (address("r", 2, family), address("p", 3, family)) for family in (4, 6)}

    def __enter__(self):
        destroy()
        if self.mode == "plain":
            kit.unload()
        else:
            kit.load()
        lines = [f"netns add {name}" for name in HOSTS]
        lines += [f"link add {left}{right} netns {left} address {card(left, number)} type veth peer name {right}{left} "
                  f"netns {right} address {card(right, number)}" for number, left, right in links()]
        kit.run("ip", "-batch", "-", text="\n".join(lines) + "\n")
        for name in HOSTS:
            self.do(name, *commands(name))
            kit.sysctl(name, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1, ipv4__icmp_ratelimit=0,
                       ipv6__icmp__ratelimit=0)
        self.do("a", "addr add 10.0.1.9/24 dev ar")
        self.do("r", f"neigh add 10.0.1.9 lladdr {card('a', 1)} nud permanent dev ra")
        self.do("b", *(f"addr add {there}/{'64 nodad' if ':' in there else 24} dev bp" for there in BEHIND))
        kit.nft("r", "table inet t { chain f { type filter hook forward priority 0; ct state established accept; }; }")
        self.fence = Fence(self, "10.0.1.9", "10.0.4.9")
        with kit.inside("w"):
            self.wire = Wire("wr", ("10.0.1.9",))
        self.counters = {}
        for name in "rpb":
            with kit.inside(name):
                self.counters[name] = state.Counters()
        kit.wait_until(lambda: not any(tentative(name) for name in HOSTS), "addresses")
        kit.wait_until(lambda: kit.run("ip", "-n", "r", "-br", "link").stdout.count(" UP ") == 2, "carriers")
        self.fence()
        if self.mode != "plain":
            kit.ctc("config", kit.CARRIER, *MODES[self.mode])
            self.quiet = epochs()
        self.wire.packets()
        self.before = self.count()
        return self

    def __exit__(self, *_):
        """Sockets and processes hold their namespaces, so they go first."""
        for one in (*self.flows, self.fence, self.wire, *self.counters.values(), *self.programs.values()):
            one.close()
        destroy()

    def leave(self, name):
        """Nothing of ours is left in the namespace."""
        for one in (self.programs.pop(name), self.counters.pop(name)):
            one.close()

    # --- doing ---

    def do(self, name, *lines):
        """Lines of ip(8) in a namespace."""
        program = self.program(name)
        program.begin(lines)
        program.end(lines)

    def program(self, name):
        if name not in self.programs:
            self.programs[name] = Ip(name)
        return self.programs[name]

    def wipe(self):
        """No policies and states are left, and none of what they counted is told of later."""
        for name in self.counters:
            self.do(name, "xfrm policy flush", "xfrm state flush")
        self.fence.up(self, "b")
        self.gains()

    def forget(self):
        """The flows end."""
        for flow in self.flows:
            flow.close()
        self.flows.clear()
        self.uncount()

    def uncount(self):
        """Nothing is told of what was counted until now, nor of what is on its way."""
        self.fence()
        self.fence()
        self.clear += self.clear_ones()
        self.gains()

    def meanwhile(self, name, *lines):
        """As do(), while exchanges go on without a pause; they are counted."""
        program = self.program(name)
        program.begin(lines)
        while not program.ready():
            self.turn()
        program.end(lines)
        self.turn()

    def turn(self):
        outcomes = [flow.exchange() for flow in self.flows]
        self.sent += len(outcomes)
        self.lost += sum(outcome != "ok" for outcome in outcomes)
        self.clear += self.clear_ones()

    def clear_ones(self):
        """How many of a's packets were on the wire, since the last time, that are not protected."""
        return sum(packet.source in self.a.values() and not packet.what.startswith("esp")
                   for packet in self.wire.packets())

    def lossless(self, least):
        """What was exchanged meanwhile, which differs from run to run, is at least so much, and nothing was lost."""
        kit.yes(self.sent >= least, f"only {self.sent} exchanges")
        kit.same((self.lost, self.clear), (0, 0), f"lost and clear ones of {self.sent} exchanges")
        self.uncount()
        self.steps.append(("lossless", {}))

    @contextlib.contextmanager
    def listener(self):
        """Somebody who hears of states that are wanted, and does nothing."""
        with kit.inside("r"):
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, state.NETLINK_XFRM)
        sock.bind((0, 1))  # XFRMNLGRP_ACQUIRE
        with sock:
            yield

    def wait_without(self, spis):
        """Until none of these states is left in r."""
        kit.wait_until(lambda: not set(spis) & set(self.counters["r"].read()), "the end of the states")

    def spis(self, source, destination):
        """The numbers of r's states from here to there, the newest first."""
        text = kit.run("ip", "-n", "r", "xfrm", "state", "list", "src", source, "dst", destination).stdout
        return [int(number, 16) for number in re.findall("spi (0x[0-9a-f]+)", text)]

    def next_second(self):
        """Of two states that were added in the same second either may be used."""
        def second():
            return int(time.clock_gettime(CLOCK_REALTIME_COARSE))
        now = second()
        kit.wait_until(lambda: second() > now, "the next second")

    def policies(self, name):
        """How many there are."""
        return kit.run("ip", "-n", name, "xfrm", "policy").stdout.count("src ")

    def settled(self):
        """Waits until the second epoch of the last event is over, after which flows learn for good."""
        if self.mode == "plain":
            return
        events, ends = self.quiet
        now = epochs()
        if now[0] != events:
            kit.wait_until(lambda: epochs()[1] > ends, "an event's second epoch")
            while True:
                now = epochs()
                time.sleep(QUIET)
                if now == epochs():
                    break
        self.quiet = now

    # --- seeing ---

    def count(self):
        facts = {}
        for name, counters in self.counters.items():
            for spi, values in counters.read().items():
                if spi in Fence.SPIS:
                    continue
                facts[f"state {spi:#x} in {name}"] = values
            with kit.inside(name):
                facts |= {f"{key} in {name}": (value,) for key, value in state.errors().items()}
        return facts

    def gains(self):
        """What the counters gained since the last time. A state may be new or gone."""
        now, before = self.count(), self.before
        self.before = now
        found = {key: tuple(n - b for n, b in zip(value, before.get(key, (0, 0, 0)))) for key, value in now.items()}
        gone = {key: "gone" for key in before.keys() - now.keys()}
        return {key: value for key, value in found.items() if any(value)} | gone

    def step(self, label, at_once=2, later=2, size=16, note=None, ordered=True):
        """Exchanges of each flow at once after what the caller has done, and others when the cache has settled."""
        outcomes = {}
        for flow in self.flows:
            outcomes[flow] = [flow.exchange(size) for _ in range(at_once)]
        self.settled()
        for flow in self.flows:
            outcomes[flow] += [flow.exchange(size) for _ in range(later)]
        self.record(label, [" ".join(words) for words in outcomes.values()], note, ordered)

    def look(self, label, number=4):
        """As step(), where the states' numbers and counters are others in every run."""
        self.wire.packets()
        outcomes = [" ".join(flow.exchange() for _ in range(number)) for flow in self.flows]
        self.steps.append((label, {"exchanges": outcomes, "clear": self.clear_ones()}))
        self.uncount()

    def record(self, label, outcomes, note=None, ordered=True):
        wire = [str(packet) for packet in self.wire.packets()]
        facts = {"exchanges": outcomes, "note": note, "wire": wire if ordered else sorted(wire),
                 "errors": [error for flow in self.flows for error in flow.errors()]}
        self.steps.append((label, facts | self.gains()))

    def hits(self):
        """Waits until all packets of every flow hit in both directions. None is lost."""
        self.settled()
        for flow in self.flows:
            kit.wait_until(lambda: self.hit(flow), lambda: f"hits to {flow.to}, but {self.gained}", 10)
        self.uncount()
        self.steps.append(("hits", {}))

    def hit(self, flow, number=3):
        delta = None if self.mode == "plain" else kit.Delta()
        outcomes = [flow.exchange() for _ in range(number)]
        kit.same(outcomes, ["ok"] * number, f"exchanges with {flow.to} that are to hit")
        self.gained = gained = delta.all() if delta else {}
        if gained.get("proofs", 0) != gained.get("hits", 0) * (self.mode == "proved"):
            raise AssertionError(f"proofs: {gained}")
        if self.mode == "plain":
            return True
        found = kit.ctc("flow", *flow.tuple())["flow"]
        spis = [found[way].get("decision", {}).get(key) for way, key in (("original", "spi"), ("reply", "spi_in"))]
        gained["spis"] = spis
        # What is decrypted in transport mode has a dst already: a packet that is not fit, and of another flow.
        missed = gained.get("misses", 0) - gained.get("miss_unfit", 0)
        return gained.get("hits", 0) >= 2 * number and not missed and spis == list(flow.spis)

    def finish(self):
        if self.mode != "plain":
            kit.same(kit.stat("mismatches"), 0, "mismatches")
            kit.yes(kit.stat("hits"), "not one hit")


def epochs():
    """How many of events there were in r, and how many ends of events."""
    found = kit.ctc("stats", name="r")["epochs"]
    return sum(found[cause] for cause in EVENTS), found["settled"]


def tentative(name):
    """Whether an address is not there yet: a link comes up later than the command that makes it."""
    with kit.inside(name), open("/proc/thread-self/net/if_inet6") as file:
        return any(int(line.split()[4], 16) & 0x40 for line in file)


def destroy():
    names = [name for name in HOSTS if os.path.exists(f"/run/netns/{name}")]
    if names:
        kit.run("ip", "-batch", "-", text="".join(f"netns del {name}\n" for name in names))


@contextlib.contextmanager
def encapsulation(*names):
    """Sockets that take ESP from UDP, in these namespaces."""
    socks = []
    for name in names:
        for family in (4, 6):
            with kit.inside(name):
                socks.append(encapsulating(family))
    try:
        yield
    finally:
        for sock in socks:
            sock.close()


def encapsulating(family):
    sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    if family == 6:
        sock.setsockopt(41, socket.IPV6_V6ONLY, 1)
    sock.bind(("", 4500))
    sock.setsockopt(socket.IPPROTO_UDP, 100, 2)  # UDP_ENCAP, UDP_ENCAP_ESPINUDP
    return sock
