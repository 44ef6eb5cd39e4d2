"""Plain forwarding, and translation of addresses on the way."""

from ..case import case
from ..flow import BACK, FORTH, Flow
from ..packet import UDP, ip, tcp, udp

VERSIONS = (4, 6)
PROTOCOLS = ("udp", "tcp", "icmp")
FAMILY = {4: "ip", 6: "ip6"}


def nat(net, hook, rules):
    """`rules`: by version, or for both."""
    priority = {"prerouting": -100, "postrouting": 100, "output": -100, "input": 100}[hook]
    for version, family in FAMILY.items():
        rule = rules[version] if isinstance(rules, dict) else rules
        net.chain(f"{family} nat", hook, priority, rule, kind="nat")


@case()
def forward(net):
    a, b = net.build("ab")
    for version in VERSIONS:
        for protocol in PROTOCOLS:
            Flow(net, a, b.address[version], protocol).warm()


def burst(net, a, b, version, first):
    flows = [Flow(net, a, b.address[version], sport=first + number).warm() for number in range(3)]
    net.send(a, *[flows[0].make(FORTH) for _ in range(8)])
    net.send(a, *[flow.make(FORTH) for _ in range(4) for flow in flows])
    net.send(b, *[flow.make(BACK) for _ in range(4) for flow in flows])
    new = [Flow(net, a, b.address[version], sport=sport) for sport in range(first + 100, first + 104)]
    net.send(a, *[packet for flow in new for packet in (flow.make(FORTH), flows[1].make(FORTH), flow.make(FORTH))])


@case()
def bursts(net):
    """Packets that are in the router together: many of one flow, of both ways, of several flows; then in lists."""
    a, b = net.build("ab")
    for version in VERSIONS:
        burst(net, a, b, version, 4001)
    net.lists(a)
    for version in VERSIONS:
        burst(net, a, b, version, 5001)


@case()
def sizes(net):
    """The smallest, the largest, and what is no packet."""
    a, b = net.build("ab")
    for version in VERSIONS:
        flow = Flow(net, a, b.address[version]).warm()
        full = 1500 - (28 if version == 4 else 48)
        for size in (0, 1, full - 1, full):
            flow.both(1, size=size)
        packet = flow.make(FORTH)
        net.send(a, packet + bytes(9))  # padding
        net.send(a, packet[:-9])  # cut short
        broken = bytearray(packet)
        broken[-10] ^= 1
        net.send(a, bytes(broken))  # UDP's checksum is wrong
        if version == 4:
            broken = bytearray(packet)
            broken[10] ^= 1
            net.send(a, bytes(broken))  # IP's is
        flow.both(1)


@case()
def dnat(net):
    a, b, c = net.build("abc")
    nat(net, "prerouting", {
        version: f"{family} daddr {a.router[version]} tcp dport 5000 dnat to {b.address[version]}; "
                 f"{family} daddr {a.router[version]} udp dport 5000 dnat to {'[' * (version == 6)}{c.address[version]}"
                 f"{']' * (version == 6)}:6000"
        for version, family in FAMILY.items()})
    for version in VERSIONS:
        for protocol in ("udp", "tcp"):
            flow = Flow(net, a, a.router[version], protocol).warm()
            for name in ("port", "host", "time"):
                flow.error(BACK, name)
                flow.error(FORTH, name)
            flow.both(2)


@case()
def snat(net):
    a, b = net.build("ab")
    nat(net, "postrouting", {4: "oifname rb snat to 10.0.2.77", 6: "oifname rb snat to fd00:2::77"})
    for version in VERSIONS:
        for protocol in PROTOCOLS:
            flow = Flow(net, a, b.address[version], protocol).warm()
            flow.error(BACK, "port")
            flow.error(FORTH, "port")
            flow.both(2)


@case()
def masquerade(net):
    a, b, c = net.build("abc")
    nat(net, "postrouting", "iifname rc udp dport 5000 masquerade to :7000; oifname { rb, rc } masquerade")
    for version in VERSIONS:
        flows = [Flow(net, a, b.address[version], protocol).warm() for protocol in PROTOCOLS]
        # The same source port from another host: it gets another one.
        flows.append(Flow(net, c, b.address[version], "udp").warm())
        net.ip(f"route replace {b.address[version]} via {c.address[version]}")
        for flow in flows:
            flow.both(2)
        net.ip(f"route del {b.address[version]}")
        net.ip(f"addr del {b.router[version]}/{24 if version == 4 else 64} dev rb")
        for flow in flows:
            flow.both(2)


@case(hits=False)
def hairpin(net):
    """A host speaks with its neighbour by the router: what comes in on a port goes out there again."""
    a, b = net.build("ab")
    nat(net, "prerouting", {version: f"{family} daddr {b.router[version]} udp dport 5000 dnat to {a.address[version]}"
                            for version, family in FAMILY.items()})
    nat(net, "postrouting", "iifname ra oifname ra masquerade")
    for version in VERSIONS:
        other = {4: "10.0.1.9", 6: "fd00:1::9"}[version]
        net.ip(f"neigh add {other} lladdr {a.mac} dev ra nud permanent")
        Flow(net, a, b.router[version], source=other).warm().both(4)
        for name in ("all", "ra"):  # once for each pair of addresses: there is a limit on redirects
            if version == 4:
                net.sysctl(f"net.ipv4.conf.{name}.send_redirects", 1)
        Flow(net, a, other, sport=4001, dport=5001).forth()


@case()
def nat_removed(net):
    """Without its table a translated flow goes on, untranslated."""
    a, b, c = net.build("abc")
    for version, family in FAMILY.items():
        nat(net, "prerouting", {4: "", 6: "", version: f"{family} daddr {a.router[version]} udp dport 5000 "
                                                       f"dnat to {b.address[version]}"})
        nat(net, "postrouting", {4: "", 6: "", version: "oifname rb masquerade"})
        flows = [Flow(net, a, a.router[version]).warm(),
                 Flow(net, a, b.address[version], sport=4001, dport=5001).warm()]
        net.nft("delete table ip nat; delete table ip6 nat")
        for flow in flows:
            flow.both(4)
        net.settle()
        for flow in flows:
            flow.both(3)


@case()
def asymmetric(net):
    """A flow's packets come in by another port than before."""
    a, b, c = net.build("abc")
    for version in VERSIONS:
        flow = Flow(net, a, b.address[version]).warm()
        for host in (c, a, c):
            flow.side[FORTH].host = host
            flow.forth(3)
        flow.back(2)
        net.ip(f"route add {a.address[version]} via {c.address[version]}")
        flow.both(3)
        # And by none of the router's addresses: a frame for somebody else.
        net.send(c, flow.make(FORTH), to="02:00:00:00:77:77")
        net.send(c, flow.make(FORTH), to="ff:ff:ff:ff:ff:ff")
        flow.both(1)


@case()
def foreign(net):
    """Packets between a flow's: the same ports elsewhere, the tuple the wrong way, an address that is nobody's."""
    a, b, c = net.build("abc")
    for version in VERSIONS:
        flow = Flow(net, a, b.address[version]).warm()
        client, server = a.address[version], b.address[version]
        for source, destination in ((c.address[version], server), (client, c.address[version]), (server, client),
                                    (client, {4: "192.0.2.1", 6: "2001:db8::1"}[version]),
                                    ({4: "127.0.0.1", 6: "::1"}[version], server),
                                    (client, {4: "10.0.2.255", 6: "ff02::1"}[version])):
            net.send(a, ip(source, destination, UDP, udp(source, destination, 4000, 5000, b"foreign")))
            flow.both(1)
        net.send(a, ip(client, server, 6, tcp(client, server, 4000, 5000, 1, 1, 4)))
        flow.both(1)
