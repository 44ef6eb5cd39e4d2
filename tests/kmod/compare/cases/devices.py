"""Devices between the wires and the stack: VRFs, bridges, VLANs."""

from ..case import case
from ..flow import BACK, FORTH, Flow
from ..network import ETHTOOL_SGRO, ethtool
from .forwarding import FAMILY, VERSIONS, nat
from .routing import again


def join(net, device, *hosts):
    """A port goes down and up when it joins a VRF."""
    net.ip(*(f"link set dev {host.port} master {device}" for host in hosts))
    net.restore(*hosts)


def vrf_of(net, name, table, *hosts):
    """What is decrypted in a VRF does GRO as the VRF does (gro_cells_receive()), and a veth does not: how many segments
    of TCP would become one, and so what rules count, is a matter of time."""
    net.ip(f"link add {name} type vrf table {table}")
    with net.router:
        ethtool(name, ETHTOOL_SGRO, 0)
    net.ip(f"link set dev {name} up",
           f"route add unreachable default table {table} metric 4278198272")
    net.ip6(f"route add unreachable default table {table} metric 4278198272")
    join(net, name, *hosts)


@case(needs=["vrf"])
def vrf(net):
    a, b, c = net.build("abc")
    vrf_of(net, "red", 100, a, b, c)
    nat(net, "postrouting", {4: "oifname rc snat to 10.0.3.77", 6: "oifname rc snat to fd00:3::77"})
    for version in VERSIONS:
        flows = [Flow(net, a, b.address[version], protocol).warm() for protocol in ("udp", "tcp", "icmp")]
        flows.append(Flow(net, a, c.address[version], sport=4001).warm())
        net.ip(f"route add {b.address[version]} via {c.address[version]} table 100")
        again(net, *flows)
        for flow in flows:
            flow.forth(1, ttl=1)
            flow.error(BACK, "port")
        local = Flow(net, a, a.router[version], "icmp").warm()
        local.forth(4)


@case(needs=["vrf"])
def vrf_leak(net):
    """From one VRF to another, and from a VRF to the main table."""
    a, b, c = net.build("abc")
    vrf_of(net, "red", 100, a)
    vrf_of(net, "blue", 101, b)
    for version in VERSIONS:
        length = {4: 24, 6: 64}[version]
        prefix = {host: host.address[version][:-1] + ("0" if version == 4 else "") for host in (a, b, c)}
        net.ip(f"route add {prefix[b]}/{length} dev rb table 100", f"route add {prefix[a]}/{length} dev ra table 101",
               f"route add {prefix[c]}/{length} dev rc table 100", f"route add {prefix[a]}/{length} dev ra")
        flows = [Flow(net, a, host.address[version]).warm() for host in (b, c)]
        net.ip(f"route del {prefix[b]}/{length} dev rb table 100")
        again(net, *flows)


@case(needs=["vrf"])
def vrf_joined(net):
    """A port joins a VRF and leaves it in mid-flow."""
    a, b = net.build("ab")
    flows = [Flow(net, a, b.address[version]).warm() for version in VERSIONS]
    vrf_of(net, "red", 100, a)
    again(net, *flows)
    join(net, "red", b)
    again(net, *flows)
    net.ip("link del red")
    net.restore(a, b)
    again(net, *flows)


@case(needs=["vrf"])
def vrf_zones(net):
    """Two customers with the same addresses, each with a VRF and a zone."""
    a, b, c, d = net.build("abcd", same=2)
    net.chain("inet zones", "prerouting", -300, "iifname { ra, rb, red } ct zone set 1",
              "iifname { rc, rd, blue } ct zone set 2")
    vrf_of(net, "red", 100, a, b)
    vrf_of(net, "blue", 101, c, d)
    for version in VERSIONS:
        flows = [Flow(net, host, b.address[version]).warm() for host in (a, c)]
        again(net, *flows)


def bridge_of(net, name, *hosts):
    """The hosts' ports in a bridge, which has the first one's addresses and a hardware address of its own."""
    first = hosts[0]
    net.ip(f"link add {name} address 02:00:00:00:99:01 type bridge forward_delay 0 mcast_snooping 0",
           *(f"addr del {host.router[4]}/24 dev {host.port}" for host in hosts),
           *(f"addr del {host.router[6]}/64 dev {host.port}" for host in hosts),
           *(f"link set dev {host.port} master {name}" for host in hosts), f"link set dev {name} up",
           f"addr add {first.router[4]}/16 dev {name}", f"addr add {first.router[6]}/32 dev {name} nodad")
    net.wait(f"{name} to run", lambda: net.runs(name))
    net.wait("IPv6 addresses", net.addresses_ready)
    for host in hosts:
        net.ip(*host.neighbours("add", name))
        net.wait(f"{host.port} to forward",
                 lambda host=host: "state forwarding" in net.run_ip(f"link show dev {host.port}"))
        host.gateway = "02:00:00:00:99:01"


@case(needs=["bridge", "br_netfilter"])
def bridge(net):
    """Bridged packets that go through IP's hooks, and routed ones from and to the bridge, of which one flow is both."""
    a, b, c = net.build("abc")
    bridge_of(net, "br0", a, b)
    for called in (0, 1):
        for family in ("ip", "ip6"):
            net.sysctl(f"net.bridge.bridge-nf-call-{family}tables", called)
        for version in VERSIONS:
            routed = Flow(net, a, c.address[version], sport=4000 + called).warm()
            bridged = Flow(net, a, b.address[version], sport=4010 + called)
            net.settle()
            for _ in range(3):
                net.send(a, bridged.make(FORTH), to=b.mac)
                if not bridged.side[BACK]:
                    bridged.look(FORTH, net.send(a, bridged.make(FORTH), to=b.mac))
                net.send(b, bridged.make(BACK), to=a.mac)
                routed.both(2)


@case(needs=["bridge", "br_netfilter"])
def bridge_dnat(net):
    """Translation on a bridge, to a host behind the router."""
    a, b, c = net.build("abc")
    bridge_of(net, "br0", a, b)
    for family in ("ip", "ip6"):
        net.sysctl(f"net.bridge.bridge-nf-call-{family}tables", 1)
    nat(net, "prerouting", {version: f"{family} daddr {b.address[version]} udp dport 5000 dnat to {c.address[version]}"
                            for version, family in FAMILY.items()})
    for version in VERSIONS:
        flow = Flow(net, a, b.address[version])
        for _ in range(3):
            flow.look(FORTH, net.send(a, flow.make(FORTH), flow.make(FORTH), to=b.mac))
            flow.back(2)
        Flow(net, a, c.address[version], sport=4001).warm()


@case(needs=["8021q"])
def vlan(net):
    """Two networks on one wire."""
    a, b = net.build("ab")
    net.ip("link add link rb name rb.7 type vlan id 7", "link set dev rb.7 up", "addr add 10.0.7.1/24 dev rb.7",
           "addr add fd00:7::1/64 dev rb.7 nodad")
    net.wait("IPv6 addresses", net.addresses_ready)
    far = {4: "10.0.7.2", 6: "fd00:7::2"}
    # Frames are recorded without their tag: the hardware address tells the networks apart.
    net.ip(*(f"neigh add {address} lladdr 02:00:00:00:07:02 dev rb.7 nud permanent" for address in far.values()))
    for version in VERSIONS:
        flow = Flow(net, a, b.address[version]).warm()
        net.ip(f"route add {b.address[version]} via {far[version]}")
        again(net, flow)
        net.ip(f"route del {b.address[version]}")
        again(net, flow)
