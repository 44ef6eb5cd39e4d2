"""Packets that end in the router, or in a program on it, on their way."""

import socket

from ..case import case
from ..flow import Flow
from ..netfilter import Log, Queue
from ..packet import ACK, RST, SYN
from .forwarding import FAMILY, PROTOCOLS, VERSIONS
from .routing import again

TRANSPARENT = {4: (socket.IPPROTO_IP, 19), 6: (socket.IPPROTO_IPV6, 75)}
RECVORIGDSTADDR = {4: (socket.IPPROTO_IP, 20), 6: (socket.IPPROTO_IPV6, 74)}
SOCKET_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


class Echo:
    """A program in the router that sends back what it gets by UDP, from the address that it was sent to; a pump."""

    def __init__(self, net, version, port, transparent=False):
        self.net, self.version, self.port = net, version, port
        with net.router:
            self.socket = self.open(transparent)
            self.socket.setsockopt(*RECVORIGDSTADDR[version], 1)
            self.socket.bind(("", port))
        net.pumps.append(self)

    def open(self, transparent):
        opened = socket.socket(SOCKET_FAMILY[self.version], socket.SOCK_DGRAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.version == 6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if transparent:
            opened.setsockopt(*TRANSPARENT[self.version], 1)
        return opened

    def __call__(self):
        try:
            data, ancillary, _, sender = self.socket.recvmsg(65536, 256, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        packed = ancillary[0][2]
        port = int.from_bytes(packed[2:4], "big")
        address = socket.inet_ntop(SOCKET_FAMILY[self.version], packed[4:8] if self.version == 4 else packed[8:24])
        self.net.note(f"socket {self.port}", f"{data!r} from {sender[:2]} to {address} {port}")
        self.net.own.add(address)
        with self.net.router, self.open(True) as answer:
            answer.bind((address, port))
            answer.sendto(b"echo of " + data, sender)
        return True

    def close(self):
        self.socket.close()


@case()
def local(net):
    """Packets to the router's addresses, those of its far side too: answered by the stack or a program, or refused."""
    a, b = net.build("ab")
    for version in VERSIONS:
        Echo(net, version, 5000)
        for address in (a.router[version], b.router[version]):
            for protocol in PROTOCOLS:  # udp is answered, tcp is refused, icmp is answered by the kernel
                flow = Flow(net, a, address, protocol).warm()
                flow.forth(6)
                flow.forth(2, ttl=1)
        Flow(net, a, a.router[version], dport=5001).forth(3)


@case()
def local_tcp(net):
    """A connection to a program on the router, with and without early demultiplexing."""
    a, b = net.build("ab")
    # Nothing by a clock: every segment is acknowledged at once, and none is sent again.
    net.ip(*(f"route add {a.address[version]} dev ra rto_min 60s quickack 1" for version in VERSIONS))
    with net.router:
        listeners = [socket.create_server(("", 5000), family=family) for family in SOCKET_FAMILY.values()]
    for early in (1, 0):
        net.sysctl("net.ipv4.ip_early_demux", early)
        for version, listener in zip(VERSIONS, listeners):
            flow = Flow(net, a, b.router[version], "tcp", sport=4000 + early)
            answer = flow.forth(data=b"", flags=SYN)
            flow.sequence[1] = int.from_bytes(answer[0][1].data[4:8], "big") + 1
            flow.forth(data=b"")
            accepted, _ = listener.accept()
            for _ in range(6):
                flow.forth(data=b"a request ")
                net.note("accepted", repr(accepted.recv(100)))
                accepted.send(b"its answer ")
                flow.sequence[1] += len(b"its answer ")
                net.collect("the program answers")
                flow.forth(data=b"")
            flow.forth(data=b"", flags=RST | ACK)
            accepted.close()
    for listener in listeners:
        listener.close()


@case()
def tproxy(net):
    """Packets of a flow that the rules give to a program on the router; the rule comes and goes."""
    a, b = net.build("ab")
    for version, family in FAMILY.items():
        ip = net.family(version)
        ip("rule add pref 50 fwmark 1 table 100", "route add local default dev lo table 100")
        Echo(net, version, 9000, transparent=True)
        net.chain(f"{family} proxy", "prerouting", -150, "iifname ra udp dport 5000 tproxy to :9000 meta mark set 1")
        flow = Flow(net, a, b.address[version], sport=4001, dport=5001).warm()
        proxied = Flow(net, a, b.address[version]).warm()
        proxied.forth(6)
        flow.both(3)
        net.nft(f"delete table {family} proxy")
        again(net, proxied, flow)


def queue_in(net, hook, priority, number):
    net.chain(f"inet queue{number}", hook, priority, f"udp dport 5000 counter queue num {number}")
    return Queue(net, number)


@case()
def queued_before(net):
    """NFQUEUE in prerouting, where packets of a flow come back without a hurry; for a time with another mark."""
    a, b, c = net.build("abc")
    for version in VERSIONS:
        ip = net.family(version)
        ip(f"route add default via {c.address[version]} table 100", "rule add pref 50 fwmark 7 table 100")
    flows = [Flow(net, a, b.address[version]).warm() for version in VERSIONS]
    queue = queue_in(net, "prerouting", -140, 1)
    for mark in (None, 7, 0):
        queue.mark = mark
        for flow in flows:
            flow.both(4)
    net.nft("delete table inet queue1")
    for flow in flows:
        flow.both(4)


@case()
def queued_forward(net):
    a, b = net.build("ab")
    flows = [Flow(net, a, b.address[version]).warm() for version in VERSIONS]
    queue_in(net, "forward", 0, 2)
    queue_in(net, "postrouting", 0, 3)
    queue_in(net, "input", 0, 4)
    for flow in flows:
        flow.both(4)
    net.ip(*(f"route add blackhole {b.address[version]}" for version in VERSIONS))
    again(net, *flows)
    for version in VERSIONS:
        flow = Flow(net, a, a.router[version])
        flow.forth(4)


@case()
def logged(net):
    """NFLOG and counters in every hook of forwarded packets."""
    a, b = net.build("ab")
    flows = [Flow(net, a, b.address[version], protocol).warm() for version in VERSIONS for protocol in PROTOCOLS]
    Log(net, 5)
    for hook in ("prerouting", "forward", "postrouting"):
        net.chain("inet logs", hook, 20, f'ct state established counter log prefix "{hook} " group 5')
    for flow in flows:
        flow.both(3)
