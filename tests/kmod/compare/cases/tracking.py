"""What conntrack itself does with flows: zones, helpers, tuples that are used again, connections that end."""

import subprocess

from ..case import case
from ..flow import BACK, Flow
from ..packet import ACK, RST, SYN
from .forwarding import FAMILY, VERSIONS, nat
from .routing import again


def forget(net, *words):
    """conntrack's own command; the flow's entry is gone at once."""
    with net.router:
        subprocess.run(["conntrack", "-D", *words], check=False, capture_output=True)


@case()
def zones(net):
    """Flows with equal tuples in two zones; marks lead each to a table of its own."""
    a, b, c, d = net.build("abcd", same=2)
    net.chain("inet zones", "prerouting", -300, "iifname { ra, rb } ct zone set 1 meta mark set 1",
              "iifname { rc, rd } ct zone set 2 meta mark set 2")
    for version in VERSIONS:
        ip = net.family(version)
        for mark, client, server in ((1, a, b), (2, c, d)):
            ip(f"rule add pref {50 + mark} fwmark {mark} table {100 + mark}")
            net.ip(f"route add {client.address[version]} dev {client.port} table {100 + mark}",
                   f"route add {server.address[version]} dev {server.port} table {100 + mark}")
        flows = [Flow(net, host, b.address[version], protocol).warm() for protocol in ("udp", "tcp") for host in (a, c)]
        again(net, *flows)
        net.ip(f"route del {b.address[version]} dev rb table 101")
        net.ip(f"route add {b.address[version]} dev rd table 101")
        again(net, *flows)


@case()
def reused_udp(net):
    """An entry goes, and the same tuple begins anew, with another route and with another translation."""
    a, b, c = net.build("abc")
    for version, family in FAMILY.items():
        flow = Flow(net, a, b.address[version]).warm()
        forget(net, "-f", f"ipv{version}")
        flow.both(4)
        net.ip(f"route add {b.address[version]} via {c.address[version]}")
        forget(net, "-f", f"ipv{version}")
        again(net, flow)
        rule = f"{family} daddr {b.address[version]} dnat to {c.address[version]}"
        nat(net, "prerouting", {4: "", 6: "", version: rule})
        flow.both(3)  # still the old entry
        forget(net, "-f", f"ipv{version}")
        flow.side[BACK] = None
        flow.both(5)
        net.nft("delete table ip nat; delete table ip6 nat")


@case()
def reused_tcp(net):
    """A connection is closed or reset and opened again with the same ports."""
    a, b, c = net.build("abc")
    for version in VERSIONS:
        flow = Flow(net, a, b.address[version], "tcp").warm()
        for round_ in range(3):
            if round_ == 1:
                flow.forth(data=b"", flags=RST | ACK)
            else:
                flow.close()
            if round_ == 2:
                net.ip(f"route add {b.address[version]} via {c.address[version]}")
            flow.sequence = [100000 * (round_ + 1), 900000]
            flow.open()
            flow.both(4)
        flow.back(data=b"", flags=RST | ACK)
        flow.both(2)
        flow.forth(2, data=b"", flags=SYN)


@case()
def untracked(net):
    """A rule takes a flow out of conntrack, and puts it back."""
    a, b = net.build("ab")
    flows = [Flow(net, a, b.address[version]).warm() for version in VERSIONS]
    for _ in range(2):
        net.chain("inet raw", "prerouting", -300, "udp dport 5000 notrack")
        again(net, *flows)
        net.nft("delete table inet raw")
        again(net, *flows)


@case()
def rejected(net):
    """Rules drop and refuse packets of a flow that is cached, before and after the place where it was."""
    a, b = net.build("ab")
    flows = [Flow(net, a, b.address[version], protocol).warm() for version in VERSIONS for protocol in ("udp", "tcp")]
    for hook, priority in (("prerouting", -310), ("prerouting", 0), ("forward", 0), ("postrouting", 0)):
        for verdict in ("drop", "reject"):
            if verdict == "reject" and hook != "forward":
                continue
            net.chain("inet no", hook, priority, f"iifname ra {verdict}")
            for flow in flows:
                flow.both(2)
            net.nft("delete table inet no")
    for flow in flows:
        flow.both(1)


def ftp_port(address, port, version):
    if version == 4:
        return f"{address.replace('.', ',')},{port >> 8},{port & 255}"
    return f"|2|{address}|{port}|"


@case(needs=["nf_conntrack_ftp", "nf_nat_ftp", "nft_objref"])
def ftp(net):
    """Control connections whose helper expects data connections, from either side, without translation and with it."""
    a, b = net.build("ab")
    objects = [f'ct helper ftp{version} {{ type "ftp" protocol tcp; l3proto {family}; }}'
               for version, family in FAMILY.items()]
    net.nft("\n".join(["table inet helper {", *objects, "}"]))
    net.chain("inet helper", "prerouting", -100,
              *(f'meta nfproto ipv{version} tcp dport 21 ct helper set "ftp{version}"' for version in VERSIONS))
    for translated in (False, True):
        if translated:
            nat(net, "postrouting", {4: "oifname rb snat to 10.0.2.77", 6: "oifname rb snat to fd00:2::77"})
        for version in VERSIONS:
            control = Flow(net, a, b.address[version], "tcp", sport=4000 + translated, dport=21).warm()
            command = {4: "PORT", 6: "EPRT"}[version]
            control.forth(data=f"{command} {ftp_port(a.address[version], 20001, version)}\r\n".encode())
            # The client's packets are longer now on their way; so are its sequence numbers for the server.
            seen = control.side[BACK].peer
            active = Flow(net, b, seen, "tcp", sport=20, dport=20001, source=b.address[version])
            active.open()
            active.both(5)
            control.back(data={4: f"227 Entering Passive Mode ({ftp_port(b.address[4], 20002, 4)})\r\n",
                               6: "229 Entering Extended Passive Mode (|||20002|)\r\n"}[version].encode())
            passive = Flow(net, a, b.address[version], "tcp", sport=30000 + translated, dport=20002)
            passive.open()
            passive.both(5)
            control.both(4)
