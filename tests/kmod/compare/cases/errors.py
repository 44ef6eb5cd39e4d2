"""Packets that the router complains about, complaints that it passes on, and odd headers."""

import re
import struct

from ..case import case
from ..flow import BACK, FORTH, Flow
from ..packet import DESTINATION_OPTIONS, HOP_BY_HOP, MF, ROUTING, UDP, fragments, icmp_error, ip, packed, udp
from .forwarding import FAMILY, PROTOCOLS, VERSIONS, nat
from .routing import again


@case()
def ttl(net):
    a, b = net.build("ab")
    for version in VERSIONS:
        for protocol in PROTOCOLS:
            flow = Flow(net, a, b.address[version], protocol).warm()
            for value in (1, 0, 2, 255):
                flow.both(2, ttl=value)
            flow.both(1)


@case()
def icmp_errors(net):
    """Errors of a flow from either end and from routers behind them, without translation and with it."""
    a, b = net.build("ab")
    for translated in (False, True):
        if translated:
            nat(net, "postrouting", {4: "oifname rb snat to 10.0.2.77", 6: "oifname rb snat to fd00:2::77"})
        for version in VERSIONS:
            further = {FORTH: {4: "192.0.2.7", 6: "2001:db8::7"}[version],
                       BACK: {4: "198.51.100.7", 6: "2001:db8:1::7"}[version]}
            for protocol in PROTOCOLS:
                flow = Flow(net, a, b.address[version], protocol, sport=4000 + translated).warm()
                for name in ("port", "host", "too big", "time"):
                    for way in (BACK, FORTH):
                        flow.error(way, name, mtu=1400)
                        flow.error(way, name, mtu=1400, source=further[way])
                flow.both(2)


@case()
def options(net):
    """IPv4's options and IPv6's extension headers, those that steer as well, in the middle of a flow without."""
    a, b, c = net.build("abc")
    for port in ("all", "ra", "rb", "rc"):
        net.sysctl(f"net.ipv4.conf.{port}.accept_source_route", 1)
    client, router, server, other = a.address[4], a.router[4], b.address[4], packed(c.address[4])
    flow = Flow(net, a, server).warm()
    for content in (b"\x01\x01\x01\x00", b"\x94\x04\x00\x00", b"\x07\x0b\x04" + bytes(9), b"\x44\x0c\x05" + bytes(9),
                    b"\x07\x07\x04" + bytes(4) + b"\x01", b"\x83\x07\x04" + other + b"\0",
                    b"\x89\x07\x04" + other + b"\0", b"\x83\x03\x04\x00", b"\x82\x0b" + bytes(10)):
        flow.both(2, options=content)
        flow.both(1)
    for kind in (b"\x83", b"\x89"):  # loose and strict source routes that the router is on, to go and gone
        body = udp(client, router, 4000, 5000, b"by the way")
        net.send(a, ip(client, router, UDP, body, options=kind + b"\x07\x04" + packed(server) + b"\0"))
        net.send(a, ip(client, server, UDP, body, options=kind + b"\x07\x08" + packed(router) + b"\0"))
    for protocol in ("udp", "tcp"):
        flow = Flow(net, a, b.address[6], protocol).warm()
        pad = b"\x01\x04" + bytes(4)
        routing = b"\x02\x00" + bytes(4) + packed(c.address[6])
        for extensions in ([(DESTINATION_OPTIONS, pad)], [(HOP_BY_HOP, pad)], [(HOP_BY_HOP, b"\x05\x02\0\0\x01\x00")],
                           [(HOP_BY_HOP, b"\x85\x04" + bytes(4))], [(ROUTING, routing)],
                           [(HOP_BY_HOP, pad), (DESTINATION_OPTIONS, pad)]):
            flow.both(2, extensions=extensions)
            flow.both(1)


@case()
def fragmented(net):
    """Fragments in order, backwards, among other packets; one that is missing for ever; one with a hole."""
    a, b = net.build("ab")
    for version in VERSIONS:
        plain = {"flags": 0} if version == 4 else {}
        flow = Flow(net, a, b.address[version], **plain).warm()
        small = Flow(net, a, b.address[version], sport=4001).warm()
        for way in (FORTH, BACK):
            host = flow.side[way].host
            for number, size in enumerate((512, 8, 1024)):
                pieces = fragments(flow.make(way, size=200 if size == 8 else 2500), size, 100 * (way + 1) + number)
                net.send(host, *pieces)
                net.send(host, *reversed(fragments(flow.make(way, size=2500), 800, 100 * (way + 1) + 10 + number)))
            pieces = fragments(flow.make(way, size=2500), 800, 100 * (way + 1) + 20)
            net.send(host, pieces[0], small.make(way), pieces[1], small.make(way), *pieces[2:])
            net.send(host, *fragments(flow.make(way, size=2500), 800, 100 * (way + 1) + 21)[:-1])
        flow.both(2)
        small.both(2)
        net.send(a, *fragments(flow.make(FORTH, size=2500), 800, 400))
        if version == 4:
            net.send(a, flow.make(FORTH, size=104, flags=MF), flow.make(FORTH, size=104))


@case()
def small_mtu(net):
    """The way out takes less than what comes in; then it takes less still, and then more."""
    a, b = net.build("ab")
    for version in VERSIONS:
        flow = Flow(net, a, b.address[version]).warm()
        bold = Flow(net, a, b.address[version], sport=4001, **({"flags": 0} if version == 4 else {})).warm()
        for mtu in (1400, 1280, 1500):
            net.ip(f"link set dev rb mtu {mtu}")
            for _ in range(2):
                for each in (flow, bold):
                    for size in (1472 if version == 4 else 1452, 1300, 24):
                        each.forth(2, size=size)
                        each.back()
                net.settle()


@case()
def route_mtu(net):
    """The same by a metric of the route, locked and not."""
    a, b, c = net.build("abc")
    for version in VERSIONS:
        flow = Flow(net, a, b.address[version]).warm()
        for mtu in ("1300", "lock 1300", "1500"):
            net.ip(f"route replace {b.address[version]} via {c.address[version]} mtu {mtu}")
            for _ in range(2):
                flow.forth(3, size=1400)
                flow.both(2)
                net.settle()


@case()
def pmtu(net):
    """The router itself learns a path MTU, which then holds for what it forwards if it is told so; it expires."""
    a, b, c = net.build("abc")
    far = {4: "192.0.2.2", 6: "2001:db8::2"}
    net.sysctl("net.ipv4.ip_forward_use_pmtu", 1)
    for version in VERSIONS:
        net.ip(f"route add {far[version]} via {b.address[version]}")
        flow = Flow(net, a, far[version]).warm()
        flow.both(2, size=1400)

        def too_big(mtu, version=version):
            own = b.router[version]
            quoted = ip(own, far[version], UDP, udp(own, far[version], 9, 9, bytes(1400)))
            net.send(b, icmp_error(b.address[version], own, "too big", quoted, mtu))

        net.sysctl(f"net.ipv{version}.route.mtu_expires", 600)
        too_big(1350)
        for _ in range(2):
            flow.both(3, size=1400)
            flow.both(3)
        # Nothing is sent while it expires that could tell when it does.
        net.sysctl(f"net.ipv{version}.route.mtu_expires", 1)
        too_big(1300)
        flow.both(3)
        get = f"route get {far[version]}"
        net.wait("the path MTU to expire", lambda get=get: not re.search(r"mtu 13[05]0", net.run_ip(get)))
        again(net, flow)
        flow.both(2, size=1400)


@case()
def redirected(net):
    """Another router tells ours of a better way; as a router ours does not listen, unless it is told to."""
    a, b, c = net.build("abc")
    far = "192.0.2.2"
    net.ip(f"route add {far} via {b.address[4]}", "neigh add 10.0.2.9 lladdr 02:00:00:00:02:09 dev rb nud permanent")
    flow = Flow(net, a, far).warm()
    for listens in (0, 1):
        for name in ("all", "rb"):
            net.sysctl(f"net.ipv4.conf.{name}.accept_redirects", listens)
            net.sysctl(f"net.ipv4.conf.{name}.secure_redirects", 0)
            net.sysctl(f"net.ipv4.conf.{name}.shared_media", 1)
        quoted = ip(b.router[4], far, UDP, udp(b.router[4], far, 9, 9, bytes(40)))
        better = struct.unpack("!I", packed("10.0.2.9"))[0]
        net.send(b, icmp_error(b.address[4], b.router[4], "redirect", quoted, better))
        again(net, flow)


@case()
def mss_clamp(net):
    a, b = net.build("ab")
    for family in FAMILY.values():
        net.chain(f"{family} clamp", "forward", 0, "tcp flags syn tcp option maxseg size set rt mtu")
    net.ip("link set dev rb mtu 1300")
    for version in VERSIONS:
        flow = Flow(net, a, b.address[version], "tcp")
        for round_ in range(2):
            flow.forth(data=b"", flags=2, tcp_options=b"\x02\x04\x05\xb4")
            flow.back(data=b"", flags=18, tcp_options=b"\x02\x04\x05\xb4")
            flow.forth(data=b"")
            flow.both(4)
            flow.forth(2, flags=18, data=b"", tcp_options=b"\x02\x04\x05\xb4")  # in mid-flow, as nobody should
            flow.close()
            flow.sequence = [90000 * (round_ + 2), 700000]
