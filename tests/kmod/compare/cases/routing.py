"""Routes, rules, next hops and what leads to them change while flows go on."""

from ..case import case
from ..flow import Flow
from .forwarding import FAMILY, VERSIONS

LENGTH = {4: 32, 6: 128}
NET = {4: "10.0.2.0/24", 6: "fd00:2::/64"}
FAR = {4: "192.0.2.2", 6: "2001:db8::2"}


def again(net, *flows):
    """Flows go on at once, and once more when a cache has learned of the change for good."""
    for flow in flows:
        flow.both(3)
    net.settle()
    for flow in flows:
        flow.both(4)


@case()
def route(net):
    a, b, c = net.build("abc")
    for version in VERSIONS:
        flows = [Flow(net, a, b.address[version], protocol).warm() for protocol in ("udp", "tcp")]
        one, other = b.address[version], c.address[version]
        for change in (f"route add {one}/{LENGTH[version]} via {other}", f"route del {one}/{LENGTH[version]}",
                       f"route add unreachable {one}", f"route replace {one} via {other}", f"route del {one}",
                       f"route add prohibit {one} metric 5", f"route del {one} metric 5",
                       f"route add blackhole {one}", f"route del {one}",
                       f"route replace {NET[version]} via {other}", f"route del {NET[version]} via {other}"):
            # "route del" of a type needs its name in IPv4 only when there are several.
            net.family(version)(change)
            again(net, *flows)


@case()
def default_route(net):
    """Far away by a gateway; the route goes, and comes again with another gateway."""
    a, b, c = net.build("abc")
    for version in VERSIONS:
        ip = net.family(version)
        ip(f"route add default via {b.address[version]}")
        flow = Flow(net, a, FAR[version], "tcp").warm()
        ip(f"route replace default via {c.address[version]}")
        again(net, flow)
        ip("route del default")
        again(net, flow)
        ip(f"route add default via {b.address[version]}")
        again(net, flow)


@case()
def expires(net):
    """An IPv6 route with a lifetime, in front of one without."""
    a, b, c = net.build("abc")
    net.ip6(f"route add default via {c.address[6]}", f"route add {FAR[6]}/64 via {b.address[6]} expires 2")
    flow = Flow(net, a, FAR[6]).warm()
    net.wait("the route to expire", lambda: c.address[6] in net.run_ip(f"route get {FAR[6]}"))
    again(net, flow)


@case()
def rule(net):
    a, b, c = net.build("abc")
    for version in VERSIONS:
        ip = net.family(version)
        flows = [Flow(net, a, b.address[version], protocol, tos=tos).warm()
                 for protocol, tos in (("udp", 0), ("tcp", 8))]
        ip(f"route add default via {c.address[version]} table 100")
        for selector in ("iif ra", f"from {a.address[version]}", f"to {b.address[version]}", "tos 8", "ipproto tcp",
                         "sport 4000", "iif ra prohibit", "iif ra unreachable", "iif ra blackhole", "iif rb prohibit"):
            action = "" if selector.split()[-1] in ("prohibit", "unreachable", "blackhole") else " table 100"
            ip(f"rule add pref 50 {selector}{action}")
            again(net, *flows)
            ip("rule del pref 50")
            for flow in flows:
                flow.both(2)


@case()
def mark(net):
    """A mark that is given to packets in prerouting, kept with the connection or not, leads to another table."""
    a, b, c = net.build("abc")
    net.nft("table inet marking {\nmap marks { type inet_service : mark; }\n}")
    net.chain("inet marking", "prerouting", -140, "meta mark set ct mark",
              "iifname ra meta mark set udp dport map @marks ct mark set meta mark")
    for version in VERSIONS:
        ip = net.family(version)
        ip(f"route add default via {c.address[version]} table 100", "rule add pref 50 fwmark 7 table 100",
           "route add unreachable default table 101", "rule add pref 51 fwmark 8/8 table 101")
        flow = Flow(net, a, b.address[version]).warm()
        for value in (7, 1, 7, 8, 3, 0):
            net.nft(f"flush map inet marking marks; add element inet marking marks {{ 5000 : {value} }}")
            flow.both(6)
        net.nft("flush map inet marking marks")
        flow.both(4)


@case()
def dscp(net):
    """Packets of one flow with other types of service, and a rule that changes them on the way."""
    a, b, c = net.build("abc")
    for version, family in FAMILY.items():
        ip = net.family(version)
        ip(f"route add default via {c.address[version]} table 100", "rule add pref 50 tos 0x10 table 100")
        flow = Flow(net, a, b.address[version]).warm()
        for tos in (0x10, 0, 0x10, 0x11, 0x12, 3, 0x08, 0x28, 0xB8):
            flow.both(3, tos=tos)
        net.chain(f"{family} dscp", "prerouting", -140, f"iifname ra {family} dscp set 4")
        flow.both(4)
        net.nft(f"delete table {family} dscp")
        flow.both(4)


@case()
def next_hop(net):
    """Another next hop by its object, by its neighbour's address, by its device."""
    a, b, c = net.build("abc")
    for version in VERSIONS:
        ip = net.family(version)
        first, second = 10 * version, 10 * version + 1
        ip(f"nexthop add id {first} via {b.address[version]} dev rb",
           f"nexthop add id {second} via {c.address[version]} dev rc", f"route add default nhid {first}")
        flow = Flow(net, a, FAR[version]).warm()
        ip(f"nexthop replace id {first} via {c.address[version]} dev rc")
        again(net, flow)
        ip(f"nexthop replace id {first} via {b.address[version]} dev rb")
        again(net, flow)
        net.ip(f"neigh replace {b.address[version]} lladdr 02:00:00:00:22:22 dev rb nud permanent")
        again(net, flow)
        net.ip(f"neigh replace {b.address[version]} lladdr {b.mac} dev rb nud permanent")
        ip(f"nexthop replace id {first} blackhole")
        again(net, flow)
        ip(f"nexthop replace id {first} via {b.address[version]} dev rb")
        again(net, flow)
        ip(f"nexthop del id {first}")
        again(net, flow)


@case()
def ecmp(net):
    """Flows spread over several next hops, of which one goes and comes again."""
    a, b, c, d = net.build("abcd")
    for policy in (0, 1):
        for version in VERSIONS:
            ip = net.family(version)
            net.sysctl(f"net.ipv{version}.fib_multipath_hash_policy", policy)
            hops = [f"nexthop via {host.address[version]} dev {host.port}" for host in (b, c, d)]
            ip(f"route replace default {' '.join(hops)}")
            flows = [Flow(net, a, FAR[version], sport=4000 + 10 * policy + i).warm() for i in range(5)]
            ip(f"route replace default {' '.join(hops[:2])}")
            again(net, *flows)
            ip(f"route replace default {' '.join(hops)}")
            again(net, *flows)
            ip("route del default")


@case()
def ecmp_of_echoes(net):
    """Echoes with a flow label, whose hash is another one as soon as any rule asks for ports."""
    a, b, c = net.build("abc")
    hops = [f"nexthop via {host.address[6]} dev {host.port}" for host in (b, c)]
    net.ip6(f"route add default {' '.join(hops)}")
    for change in ("rule add pref 50 sport 9 table main", "rule del pref 50"):
        flows = [Flow(net, a, FAR[6], "icmp", sport=4000 + i, label=1000 + i).warm() for i in range(10)]
        net.ip6(change)
        again(net, *flows)


@case()
def ecmp_group(net):
    """The same with a group of next hop objects, and with a weight of one of them."""
    a, b, c = net.build("abc")
    for version in VERSIONS:
        ip = net.family(version)
        first, second, group = (10 * version + i for i in range(3))
        net.ip(f"nexthop add id {first} via {b.address[version]} dev rb",
               f"nexthop add id {second} via {c.address[version]} dev rc",
               f"nexthop add id {group} group {first}/{second}")
        ip(f"route add default nhid {group}")
        flows = [Flow(net, a, FAR[version], sport=4000 + i).warm() for i in range(4)]
        for members in (f"{first},9/{second}", f"{first}", f"{first}/{second}"):
            net.ip(f"nexthop replace id {group} group {members}")
            again(net, *flows)
        net.ip(f"nexthop del id {second}")
        again(net, *flows)


@case()
def link(net):
    """A port goes down and comes up, and so does the wire; there is a second way for a while."""
    a, b, c = net.build("abc")
    for version in VERSIONS:
        net.ip(f"route add {FAR[version]} via {b.address[version]}",
               f"route add {FAR[version]} via {c.address[version]} metric 4000")
    flows = [Flow(net, a, FAR[version], protocol).warm() for version in VERSIONS for protocol in ("udp", "tcp")]
    flows += [Flow(net, a, b.address[version], sport=4001).warm() for version in VERSIONS]
    net.port_down(b)
    again(net, *flows)
    net.port_up(b)
    again(net, *flows)
    net.ip(*(f"route replace {FAR[version]} via {b.address[version]}" for version in VERSIONS))
    again(net, *flows)


@case()
def wire(net):
    """A host's own end goes down, so the port loses its carrier; with and without routes that mind."""
    a, b, c = net.build("abc")
    for version in VERSIONS:
        net.ip(f"route add {FAR[version]} via {b.address[version]}",
               f"route add {FAR[version]} via {c.address[version]} metric 4000")
    flows = [Flow(net, a, FAR[version]).warm() for version in VERSIONS]
    for minds in (0, 1):
        for version in VERSIONS:
            for where in ("all", "rb"):
                net.sysctl(f"net.ipv{version}.conf.{where}.ignore_routes_with_linkdown", minds)
        again(net, *flows)
        net.unplug(b)
        again(net, *flows)
        net.plug(b)
        net.ip(*b.neighbours("replace"))
        again(net, *flows)


@case()
def address(net):
    """The flow's destination becomes one of the router's own addresses, and ceases to be."""
    a, b = net.build("ab")
    for version in VERSIONS:
        flow = Flow(net, a, b.address[version], "icmp").warm()
        net.ip(f"addr add {b.address[version]}/{LENGTH[version]} dev lo")
        net.wait("IPv6 addresses", net.addresses_ready)
        net.own.add(b.address[version])
        again(net, flow)
        net.ip(f"addr del {b.address[version]}/{LENGTH[version]} dev lo")
        net.own.remove(b.address[version])
        again(net, flow)


@case()
def rp_filter(net):
    """Strict and loose checks of the source are switched on and off; what fails is dropped."""
    a, b, c = net.build("abc")
    flow = Flow(net, a, b.address[4]).warm()
    other = Flow(net, c, b.address[4], source=a.address[4], sport=4001).warm()  # its replies go to a
    for value in (1, 2, 0, 1, 0):
        for port in ("ra", "rc"):
            net.sysctl(f"net.ipv4.conf.{port}.rp_filter", value)
        again(net, flow)
        other.forth(4)
    net.sysctl("net.ipv4.conf.all.rp_filter", 1)
    again(net, flow)
    other.forth(4)
    net.ip(f"route add {a.address[4]} via {c.address[4]}")
    again(net, flow)
    other.forth(4)


@case()
def sysctls(net):
    """Forwarding and the rest of what a lookup reads, switched off and on in mid-flow."""
    a, b = net.build("ab")
    flows = {version: Flow(net, a, b.address[version]).warm() for version in VERSIONS}
    for version, name, values in (
            (4, "net.ipv4.ip_forward", (0, 1)), (4, "net.ipv4.conf.ra.forwarding", (0, 1)),
            (4, "net.ipv4.conf.ra.src_valid_mark", (1, 0)), (4, "net.ipv4.conf.ra.accept_local", (1, 0)),
            (4, "net.ipv4.conf.ra.route_localnet", (1, 0)), (4, "net.ipv4.conf.ra.send_redirects", (0, 1)),
            (6, "net.ipv6.conf.all.forwarding", (0, 1)), (6, "net.ipv6.conf.ra.forwarding", (0, 1)),
            (6, "net.ipv6.conf.rb.disable_ipv6", (1,))):
        for value in values:
            net.sysctl(name, value)
            again(net, flows[version])


@case()
def xfrm(net):
    """An IPsec policy that blocks comes and goes. What is cached is the route alone."""
    a, b = net.build("ab")
    for version in VERSIONS:
        flow = Flow(net, a, b.address[version]).warm()
        for direction in ("fwd", "out"):
            selector = f"src {a.address[version]} dst {b.address[version]} dir {direction}"
            net.ip(f"xfrm policy add {selector} action block")
            again(net, flow)
            net.ip(f"xfrm policy del {selector}")
            again(net, flow)
