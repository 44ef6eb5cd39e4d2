"""Policies and states of IPsec under flows that go on. ESP with null cipher, which can be compared byte by byte.

Flows open before their policies, so they are established; what then leaves in ESP goes to a host that answers nothing.
"""

from ..case import case
from ..flow import BACK, FORTH, Flow
from ..packet import ESP, esp, icmp_error
from .devices import vrf_of
from .forwarding import VERSIONS
from .routing import FAR, again

NULL = "enc ecb(cipher_null) '' auth digest_null ''"


def state(net, version, source, destination, spi, mode="tunnel"):
    net.ip(f"xfrm state add src {source} dst {destination} proto esp spi {spi} reqid 1 mode {mode} {NULL}")


def template(source, destination, mode="tunnel"):
    ends = f"src {source} dst {destination} " if mode == "tunnel" else ""
    return f"tmpl {ends}proto esp reqid 1 mode {mode}"


def selector(a, b, version, direction="out", more=""):
    return f"src {a.address[version]} dst {b.address[version]} {more} dir {direction}"


def unrelated(net, version, many=20):
    """Policies of other subnets, and of this one for other ports."""
    far = {4: "10.{}.0.0/16", 6: "fd00:{}::/32"}[version]
    any_one = {4: "0.0.0.0/0", 6: "::/0"}[version]
    net.ip(*(f"xfrm policy add src {any_one} dst {far.format(number)} dir {direction} priority 100 action block"
             for number in range(100, 100 + many) for direction in ("out", "fwd")),
           *(f"xfrm policy add src {any_one} dst {any_one} proto udp dport {number} dir {direction} priority 100 action block"
             for number in range(6000, 6000 + many) for direction in ("out", "fwd")))


@case()
def policies(net):
    """Many that do not match; then one that does, which comes and goes in front of them."""
    a, b = net.build("ab")
    for version in VERSIONS:
        unrelated(net, version)
        net.ip(f"route add {FAR[version]} via {b.address[version]} mtu lock 1300")
        flow, other = (Flow(net, a, b.address[version], protocol).warm() for protocol in ("udp", "tcp"))
        narrow = Flow(net, a, FAR[version]).warm()
        again(net, flow, other)
        for one in (flow, narrow):
            one.forth(2, ttl=1)
            one.forth(2, size=1400)
        for direction in ("fwd", "out"):
            for action in ("block", "allow"):
                match = selector(a, b, version, direction, "proto udp dport 5000")
                net.ip(f"xfrm policy add {match} priority 1 action {action}")
                again(net, flow, other)
                net.ip(f"xfrm policy del {match}")
                again(net, flow, other)
        net.ip("xfrm policy setdefault fwd block")
        again(net, flow)
        net.ip("xfrm policy setdefault fwd accept")
        again(net, flow)
        unasked(net, flow, other)


def unasked(net, *flows):
    """IPv6's forwarding does not ask any more, which nobody is told, and asks again."""
    for value in (1, 0):
        net.sysctl("net.ipv6.conf.all.disable_policy", value)
        again(net, *flows)


def transformed(net, mode):
    """A flow that is protected by one state after the other, or by none."""
    a, b, c = net.build("abc")
    for version in VERSIONS:
        far = FAR[version] if mode == "tunnel" else b.address[version]
        ends = (c.router[version], c.address[version]) if mode == "tunnel" else (a.address[version], far)
        net.ip(f"route add {FAR[version]} via {b.address[version]}")
        flow, other = (Flow(net, a, far, dport=port).warm() for port in (5000, 5001))
        match = f"src {a.address[version]} dst {far} proto udp dport 5000 dir out"
        unrelated(net, version)
        state(net, version, *ends, "0x100", mode)
        net.ip(f"xfrm policy add {match} priority 50 {template(*ends, mode)}")
        again(net, flow, other)
        flow.forth(2, ttl=1)
        flow.forth(2, size=1400)
        flow.forth(2, size=1450)
        unasked(net, flow, other)
        state(net, version, *ends, "0x101", mode)
        again(net, flow, other)
        net.ip(f"xfrm state del src {ends[0]} dst {ends[1]} proto esp spi 0x100")
        again(net, flow, other)
        broad = f"src {a.address[version]} dst {far} proto udp dir out"
        net.ip(f"xfrm policy add {broad} priority 10 action block")
        again(net, flow, other)
        net.ip(f"xfrm policy del {broad}")
        again(net, flow, other)
        net.ip(f"xfrm state del src {ends[0]} dst {ends[1]} proto esp spi 0x101")
        again(net, flow, other)
        state(net, version, *ends, "0x102", mode)
        again(net, flow, other)
        yield flow, c, version
        net.ip("xfrm policy flush", "xfrm state flush")
        again(net, flow, other)


@case()
def tunnel(net):
    """Through a tunnel, whose way then changes, and is narrower than it looks."""
    for flow, c, version in transformed(net, "tunnel"):
        outer = next((packet.ip for _, packet in flow.forth(1) if packet.protocol == ESP), b"")
        net.send(c, icmp_error(c.address[version], c.router[version], "too big", outer, 1300))
        flow.forth(3, size=1300)
        again(net, flow)
        flow.forth(3, size=1300)
        net.family(version)("route flush cache")
        flow.forth(3, size=1300)
        again(net, flow)
        net.ip(f"link set dev {c.port} mtu 1400")
        flow.forth(2, size=1320)
        again(net, flow)
        net.ip(f"link set dev {c.port} mtu 1500")
        again(net, flow)
        net.ip(f"route add blackhole {c.address[version]}")
        again(net, flow)
        net.ip(f"route del blackhole {c.address[version]}")
        again(net, flow)


@case()
def transport(net):
    for _ in transformed(net, "transport"):
        pass


@case()
def protected(net):
    """Packets in the clear where a policy wants them protected: dropped, whatever was cached before."""
    a, b = net.build("ab")
    for version in VERSIONS:
        unrelated(net, version)
        flow = Flow(net, a, b.address[version]).warm()
        match = selector(a, b, version, "fwd")
        net.ip(f"xfrm policy add {match} priority 1 {template(a.address[version], a.router[version])}")
        again(net, flow)
        # A host does not forward, whatever policies say, and counts that, and not a policy's refusal.
        for forwarding in (0, 1):
            net.sysctl(f"net.ipv{version}.conf.all.forwarding", forwarding)
            again(net, flow)
        net.ip(f"xfrm policy add {selector(b, a, version, 'fwd')} priority 1 action allow")
        again(net, flow)
        net.ip(f"xfrm policy del {match}")
        again(net, flow)


@case()
def lists(net):
    """A packet whose flow is cached in the clear is no hint for the next one in its list, which a policy protects."""
    a, b, c = net.build("abc")
    net.lists(a)
    for version in VERSIONS:
        ends = (c.router[version], c.address[version])
        state(net, version, *ends, "0x100")
        for dport, action in ((6000, "action block"), (6001, template(*ends))):
            match = selector(a, b, version, more=f"proto udp dport {dport}")
            net.ip(f"xfrm policy add {match} {action}")
        clear = Flow(net, a, b.address[version]).warm()
        for dport in (6000, 6001):
            other = Flow(net, a, b.address[version], dport=dport)
            net.send(a, *[flow.make(FORTH) for _ in range(3) for flow in (clear, clear, other)])
        net.ip("xfrm policy flush", "xfrm state flush")


class Tunnel:
    """Where a client's packets come from: in ESP with this number from `host`, to the router."""

    def __init__(self, host, version, spi):
        self.ends, self.spi, self.sequence = (host.address[version], host.router[version]), spi, 0

    def __call__(self, packet):
        self.sequence += 1
        return esp(*self.ends, self.spi, self.sequence, packet)


@case()
def inbound(net):
    """A flow whose client is behind a tunnel; it then comes by other states, in the clear, and by none that may."""
    b, c = net.build("bc")
    for version in VERSIONS:
        far, mine = FAR[version], b.address[version]
        there, back = (c.address[version], c.router[version]), (c.router[version], c.address[version])
        net.ip(f"route add {far} via {c.address[version]}",
               f"xfrm policy add src {far} dst {mine} dir fwd {template(*there)}",
               f"xfrm policy add src {mine} dst {far} dir out {template(*back)}")
        unrelated(net, version)
        for spi in ("0x200", "0x201"):
            state(net, version, *there, spi)
        net.ip(f"xfrm state add src {there[0]} dst {there[1]} proto esp spi 0x202 reqid 2 mode tunnel {NULL}")
        net.sysctl(f"net.ipv4.conf.{c.port}.rp_filter", 1)
        state(net, version, *back, "0x300")
        flow, other = (Flow(net, c, mine, dport=dport, source=far) for dport in (5000, 5001))
        for one in (flow, other):
            one.side[FORTH].wrap = Tunnel(c, version, 0x200)
            one.warm()
        again(net, flow, other)
        for spi in (0x201, 0x202, None, 0x200, 0x209):
            flow.side[FORTH].wrap = spi and Tunnel(c, version, spi)
            again(net, flow, other)
        flow.side[FORTH].wrap = Tunnel(c, version, 0x200)
        again(net, flow)
        flow.forth(2, ttl=1)
        net.ip(f"xfrm state del src {there[0]} dst {there[1]} proto esp spi 0x200")
        again(net, flow, other)
        state(net, version, *there, "0x200")
        again(net, flow, other)
        net.ip(f"xfrm policy del src {far} dst {mine} dir fwd")
        again(net, flow, other)
        flow.side[FORTH].wrap = None
        again(net, flow)
        net.ip("xfrm policy flush", "xfrm state flush")
        again(net, flow, other)


@case(needs=["vrf"])
def inbound_vrf(net):
    """What comes through a tunnel on a VRF's port passes PRE_ROUTING twice on the VRF, whether or not a policy lets it in."""
    b, c = net.build("bc")
    vrf_of(net, "red", 100, b, c)
    for version in VERSIONS:
        far, mine = FAR[version], b.address[version]
        there = (c.address[version], c.router[version])
        net.ip(f"route add {far} via {c.address[version]} table 100",
               f"xfrm policy add src {far} dst {mine} dir fwd {template(*there)}")
        state(net, version, *there, "0x200")
        flow = Flow(net, c, mine, source=far)
        flow.side[FORTH].wrap = Tunnel(c, version, 0x200)
        flow.warm()
        again(net, flow)
        net.ip(f"xfrm policy del src {far} dst {mine} dir fwd")
        again(net, flow)
        net.ip("xfrm policy flush", "xfrm state flush")
        again(net, flow)


def marked(net, mark):
    """What the second question sees, of packets that are to be masqueraded: a mark that only POSTROUTING gives them."""
    net.nft("table ip late\nflush table ip late\n"
            f"table ip late {{ chain c {{ type filter hook postrouting priority mangle; meta mark set {mark}; }}; }}")


@case()
def translated(net):
    """Policies for the address and port that translation gives, which the stack asks about after it."""
    a, b, c = net.build("abc")
    net.chain("ip nat", "postrouting", 100, "oifname rb udp dport 5000-5002 masquerade", kind="nat")
    net.chain("ip nat", "prerouting", -100, f"ip daddr {b.router[4]} udp dport 7000 dnat to {a.address[4]}:5001", kind="nat")
    unrelated(net, 4)
    flows = [Flow(net, a, b.address[4], dport=dport).warm() for dport in (5000, 5001)]
    flows.append(Flow(net, b, b.router[4], dport=7000).warm())
    again(net, *flows)
    ends = (c.router[4], c.address[4])
    state(net, 4, *ends, "0x100")
    for match in (f"src {b.router[4]} dst {b.address[4]} dir out", f"src {b.router[4]} dst 0.0.0.0/0 proto udp sport 7000 dir out",
                  f"src {a.address[4]} dst {b.address[4]} proto udp dport 5001 dir out"):
        net.ip(f"xfrm policy add {match} priority 1 {template(*ends)}")
        again(net, *flows)
        net.ip(f"xfrm policy del {match}")
        again(net, *flows)
    marked(net, 0)
    again(net, *flows)
    net.ip(f"xfrm policy add src {b.router[4]} dst {b.address[4]} dir out priority 1 mark 7 mask 0xff {template(*ends)}")
    again(net, *flows)
    marked(net, 7)
    again(net, *flows)
