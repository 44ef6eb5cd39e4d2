#!/usr/bin/python3
"""Real peers see the same of a router whose IPsec decisions are cached as of one without the module.

Each scenario runs without the module, with the cache, and with the cache and its proof; what is recorded must be equal
(ipsec/network.py). The peers are other namespaces of this kernel, which decrypt, and which have no cache.
"""

import contextlib
import os
import select
import subprocess
import time
from pathlib import Path

import kit
from ipsec import state
from ipsec.compare import compared
from ipsec.flow import Flow
from ipsec.network import NETS, Network, address, encapsulation, far
from ipsec.tunnel import Tunnel


def forwarded(net):
    """Datagrams of all sizes and a stream, in both directions."""
    net.step("first", 4)
    net.step("large", 1, 1, 1200)
    net.hits()
    for flow in net.flows:
        kit.Stream(flow.family, flow.to).go(5)
    net.forget()


def each(net, **options):
    """A tunnel for every cipher and family."""
    return [Tunnel(net, family, number, cipher, **options).up()
            for family in (4, 6) for number, cipher in enumerate(state.CIPHERS, 1)]


@compared
def test_tunnel(net):
    each(net)
    forwarded(net)


@compared
def test_tunnel_in_udp(net):
    with encapsulation("r", "p"):
        each(net, more="encap espinudp 4500 4500 0.0.0.0")
        forwarded(net)


@compared
def test_transport(net):
    each(net, mode="transport")
    forwarded(net)


@compared
def test_transport_of_devices(net):
    """Devices of tunnels, whose own packets are protected."""
    for family, kind, protocol, module in ((4, "gre", "gre", "ip_gre"), (6, "ip6gre", "gre", "ip6_gre"),
                                           (4, "ipip", "4", "ipip"), (6, "ip6tnl encaplimit none", "41", "ip6_tunnel")):
        if kit.run("modprobe", "-q", module, check=False).returncode:
            continue  # User-Mode Linux has no ip6_gre
        one, other = net.ends[family]
        for name, here, there, to in (("r", one, other, far(family, 1)), ("p", other, one, net.a[family])):
            net.do(name, f"link add tun type {kind} local {here} remote {there}", "link set tun up mtu 1300",
                   f"route add {to} dev tun")
            ways = ("out", "in") if name == "r" else ("in", "out")
            for spi, ends, way in ((0x100, (one, other), ways[0]), (0x200, (other, one), ways[1])):
                net.do(name, state.state(ends, spi, "transport"),
                       state.policy(ends[0], f"{ends[1]} proto {protocol}", way, state.template(ends, "transport")))
        net.flows.append(Flow(net, family, far(family, 1)))
        forwarded(net)
        for name in "rp":
            net.do(name, "link del tun")
        net.wipe()


@compared
def test_devices_of_ipsec(net):
    """Devices of r that look policies up themselves."""
    for family, kind, more in ((4, "xfrm", "dev rw if_id 7"), (6, "xfrm", "dev rw if_id 7"),
                               (4, "vti", "local {} remote {} key 7"), (6, "vti6", "local {} remote {} key 7")):
        one = Tunnel(net, family)
        words = "if_id 7" if kind == "xfrm" else "mark 7"
        policies = one.policies(words)
        if kind == "xfrm":
            one.flow.spis = None, one.flow.spis[1]
        else:
            one.flow.spis = None, None
            policies = [line.replace("dir fwd", "dir in") for line in policies]
        net.do("r", f"link add x type {kind} {more.format(*net.ends[family])}", "link set x up mtu 1300",
               f"route add {one.b} dev x", *(f"{line} {words}" for line in one.states()), *policies)
        net.do("p", *one.states(), *one.peers())
        forwarded(net)
        net.do("r", "link del x")
        net.wipe()


# --- states that go ---

def replaced(net, mode):
    """By one of another number and key; at once, so that the very next packet leaves by the new one; by none."""
    pair = [Tunnel(net, family, mode=mode).up() for family in (4, 6)]
    net.step("first")
    net.hits()
    net.next_second()
    for one in pair:
        one.add(2).expect(2)
    net.step("added")
    net.hits()
    for one in pair:
        one.delete(1)
    net.step("deleted")
    net.hits()
    for one in pair:
        one.add(3, names=[one.peer])
        net.do("r", *one.no_states(2), *one.states(3))
        one.expect(3)
    net.step("replaced")
    net.hits()
    for way in one.ways:
        for one in pair:
            one.delete(3, [way], ["r"])
        net.step(f"without way {way}")
        for one in pair:
            one.add(3, [way], names=["r"])
        net.step(f"again with way {way}")
    net.do("r", "xfrm state flush")
    net.step("flushed")
    for one in pair:
        one.delete(3, names=[one.peer])
        one.add(4).expect(4)
    net.step("others")
    net.hits()
    for one in pair:
        net.do("r", *(line.replace("state add", "state update") for line in one.states(4, more="limit packet-hard 20")))
    net.step("updated", 16, 16)


@compared
def test_replaced(net):
    replaced(net, "tunnel")


@compared
def test_replaced_in_transport(net):
    replaced(net, "transport")


@compared
def test_limited(net):
    """States that end by themselves: after packets, after bytes, at a time; softly before."""
    pair = [Tunnel(net, family).up(1, "limit packet-soft 5 limit packet-hard 9") for family in (4, 6)]

    def next_one(turn, limits):
        for one, more in zip(pair, limits):
            one.delete(turn - 1, names=["p"])
            one.add(turn, more=more).expect(turn)

    net.step("packets", 8, 8)
    next_one(2, ["limit byte-soft 300 limit byte-hard 600"] * 2)
    net.step("bytes", 8, 8)
    next_one(3, ("limit time-soft 1 limit time-hard 2", "limit time-use-hard 2"))
    net.step("at a time")
    net.hits()
    net.wait_without([one.spi(way, 3) for one in pair for way in one.ways])
    net.step("over")
    next_one(4, ("", ""))
    net.step("for ever")
    net.hits()


@compared
def test_rekeyed(net):
    """Ten times under traffic that does not wait: each state is there before its predecessor goes."""
    group = [Tunnel(net, family, number).up() for family in (4, 6) for number in (1, 2)]
    net.hits()
    for turn in range(2, 12):
        for steps in zip(*(one.handover(turn) for one in group)):
            net.meanwhile(steps[0][0], *(line for _, lines in steps for line in lines))
        for one in group:
            one.expect(turn)
        if turn % 5 == 0:
            net.uncount()
            net.hits()
    net.lossless(200)


@compared
def test_acquired(net):
    """Packets wait for a state, when somebody listens who may bring one."""
    pair = [Tunnel(net, family).up() for family in (4, 6)]
    net.hits()
    # The kernel leaks the route of a bundle in which packets are queued: dst_destroy() gives a child back only if there
    # is a state (xfrm_create_dummy_bundle()). So none are queued where kmemleak looks.
    for larval_drop in (1,) if kit.DEBUG else (1, 0):
        kit.sysctl("r", core__xfrm_larval_drop=larval_drop)
        with net.listener():
            for turn in (1, 2):
                for one in pair:
                    one.delete(turn)
                net.step("waiting")
                for one in pair:
                    one.add(turn + 1).expect(turn + 1)
                net.step("there", note=[one.flow.late(0 if larval_drop else 4) for one in pair], ordered=False)
                net.hits()
            for one in pair:
                one.delete(3)
                one.add(1).expect(1)
            net.step("back")


# --- policies that come and go ---

@compared
def test_policies(net):
    """In front of those of a live flow, and these themselves."""
    pair = [Tunnel(net, family).up() for family in (4, 6)]
    net.step("first")
    net.hits()
    for direction in ("out", "fwd"):
        for wide in (False, True):
            for what in ("action block", "action allow"):
                for one in pair:
                    net.do("r", one.override(direction, what, wide))
                net.step(f"{direction} {what}")
                for one in pair:
                    net.do("r", one.no_override(direction, wide))
                net.step("gone")
                net.hits()
    for direction in ("out", "fwd"):
        for one in pair:
            net.do("r", one.no_policy(direction))
        net.step(f"no {direction}")
        for one in pair:
            net.do("r", one.policy(direction))
        net.step(f"{direction} again")
        net.hits()
        net.do("r", *(state.policy(*ends, direction, "action allow") for ends in net.fence.ways))
        net.do("r", f"xfrm policy setdefault {direction} block")
        net.step(f"default {direction} block")
        for one in pair:
            net.do("r", one.no_policy(direction))
        net.step(f"no {direction}, by default blocked")
        net.do("r", f"xfrm policy setdefault {direction} accept", *(one.policy(direction) for one in pair),
               *(state.no_policy(*ends, direction) for ends in net.fence.ways))
        net.hits()
    for one in pair:
        net.do("p", one.no_peer())
    net.step("answers in the clear")
    for one in pair:
        net.do("p", one.peers()[1])
    net.hits()
    for one in pair:
        net.do("r", *one.policies("limit time-hard 1", "update"))
    net.step("that end")
    kit.wait_until(lambda: not net.policies("r"), "the end of the policies")
    net.step("have ended")
    net.do("r", *(line for one in pair for line in one.policies("limit time-use-hard 2")))
    end = time.monotonic() + 3.5
    while time.monotonic() < end:
        net.turn()
        time.sleep(0.02)
    net.lossless(50)
    net.do("r", "xfrm policy flush")
    net.step("flushed")


@compared
def test_exchanged(net):
    """A flow goes from one tunnel to another, since its policy asks for other states."""
    first, second = Tunnel(net, 4, 1).up(), Tunnel(net, 4, 2, "cbc").up()
    net.step("first")
    net.hits()
    mine = first.flow.spis
    net.do("p", state.policy(first.a, first.b, "fwd", state.template(first.out, reqid=0), verb="update"))  # by any
    for _ in range(2):
        net.do("r", first.policy("out", state.template(second.out, reqid=second.reqid), verb="update"))
        first.flow.spis = second.flow.spis[0], mine[1]
        net.step("other")
        net.hits()
        net.do("r", first.policy("out", verb="update"))
        first.flow.spis = mine
        net.step("own")
        for one, label in ((second, "answers by a state that may not"), (first, "by one that may")):
            back = state.template(one.out[::-1], reqid=one.reqid)
            net.do("p", state.policy(first.b, first.a, "out", back, verb="update"))
            net.step(label)
        net.hits()


# --- the end, with all that is cached ---

def states():
    """How many there are in all namespaces: those of one that ends go when its devices have been let go."""
    cache = Path("/sys/kernel/slab/xfrm_state")
    if not cache.exists() or int((cache / "aliases").read_text()):
        raise kit.Skip("this kernel does not count states")
    (cache / "shrink").write_text("1")  # processors keep some, and count them
    return int((cache / "objects").read_text().split()[0])


def ended(end):
    """Nothing stays behind after the end, which comes in traffic."""
    kit.wait_until(lambda: not states(), "the end of those before")
    for _ in range(3):
        with Network("cached") as net:
            each(net)
            net.hits()
            kit.yes(states() >= 24, "states are not counted")
            end(net)
        kit.wait_until(lambda: not states(), lambda: f"the end of {states()} states")


def send_while(net, child):
    while child.poll() is None:
        for flow in net.flows:
            with contextlib.suppress(OSError):
                flow.near.send(b"x")
            flow.drain()
    kit.same(child.returncode, 0, "exit status")


def test_namespace_ends():
    def end(net):
        net.leave("r")
        send_while(net, subprocess.Popen(["ip", "netns", "del", "r"]))
    ended(end)


def test_device_ends():
    def end(net):
        send_while(net, subprocess.Popen(["ip", "-n", "r", "link", "del", "rw"]))
    ended(end)


def test_module_ends():
    def end(net):
        send_while(net, subprocess.Popen(["rmmod", "nf_ctcache"]))
        kit.same([flow.exchange() for flow in net.flows], ["ok"] * len(net.flows), "without the module")
    ended(end)


def test_cache_ends():
    """And its states go at once."""
    def end(net):
        kit.ctc("config", "none")
        kit.same([flow.exchange() for flow in net.flows], ["ok"] * len(net.flows), "without the cache")
        before = states()
        net.do("r", "xfrm state flush", "xfrm policy flush")
        kit.wait_until(lambda: states() <= before - 12, lambda: f"the end of states: {before}, now {states()}")
    ended(end)


# --- packets that do not fit ---

SIZES = 1200, 1260, 1320, 1380, 1440


def link(net, device, mtu):
    """Both ends."""
    for name, other in (device, device[::-1]):
        net.do(name, f"link set {name}{other} mtu {mtu}")


@compared
def test_narrow(net):
    """The tunnel's way gets narrower, by the administrator and by what routers tell, and wide again."""
    for family in (4, 6):
        Tunnel(net, family, 1).up()
        Tunnel(net, family, 2, "cbc", fragment=True).up()

    def sizes(label):
        for size in SIZES:
            net.step(f"{label}: {size}", 2, 1, size)
        net.step(label)
        for flow in net.flows:
            kit.yes(bulk(flow.family, flow.to), f"{label}: a stream to {flow.to} stalls")
        net.uncount()

    def routes(verb, more=""):
        for family in (4, 6):
            net.do("r", f"route {verb} {NETS[3][family]} via {address('w', 2, family)} {more}")

    sizes("as wide as all")
    net.hits()
    routes("change", "mtu 1400")
    sizes("route of 1400")
    routes("change", "mtu lock 1390")
    sizes("route of 1390, locked")
    routes("change")
    link(net, "rw", 1400)
    sizes("link of 1400")
    link(net, "rw", 1500)
    link(net, "wp", 1380)
    sizes("another's link of 1380")
    kit.ip("r", "route flush cache\n-6 route flush cache")
    sizes("forgotten")
    link(net, "wp", 1500)
    sizes("still known")
    kit.ip("r", "route flush cache\n-6 route flush cache")
    sizes("wide again")
    net.hits()


@compared
def test_known_for_a_while(net):
    """What a router has told of the path is forgotten by time alone."""
    for family in (4, 6):
        Tunnel(net, family).up()
    kit.sysctl("r", ipv4__route__mtu_expires=2, ipv6__route__mtu_expires=2)
    link(net, "wp", 1380)
    net.hits()
    net.step("narrow", 3, 0, 1340)
    net.hits()
    link(net, "wp", 1500)
    time.sleep(2.5)
    net.step("forgotten", 1, 0, 1340)
    net.step("wide", 1, 1, 1340)
    net.hits()


def bulk(family, to, size=100_000):
    """Whether so many bytes get through in both directions."""
    stream = kit.Stream(family, to)
    stream.sock.setblocking(False)
    stream.other.setblocking(False)
    return all(transfer(*ends, size) for ends in ((stream.sock, stream.other), (stream.other, stream.sock)))


def transfer(sender, receiver, size):
    sent = received = 0
    while received < size:
        readable, writable, _ = select.select([receiver], [sender] if sent < size else [], [], kit.PATIENCE)
        if not readable and not writable:
            return False
        if writable:
            sent += sender.send(bytes(min(65536, size - sent)))
        if readable:
            received += len(receiver.recv(1 << 20))
    return True


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # on which the order of packets is that of their sending
    kit.main()
