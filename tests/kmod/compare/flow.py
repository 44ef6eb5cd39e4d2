"""A flow: packets both ways between a client and whoever receives them.

The client is a host that the case names. The other side is found, not told: the host where the flow's last packet came
out, with the addresses and ports that it had there. So translation, a new route or another next hop need nothing said:
what comes out is answered from there, and a packet that is lost has no answer.
"""

import struct

from .packet import ACK, FIN, ICMP, ICMP6, SYN, TCP, UDP, icmp, icmp_error, ip, tcp, udp

FORTH, BACK = 0, 1


class Side:
    """One end as it sees the flow."""

    def __init__(self, host, own, peer, own_port, peer_port):
        self.host, self.own, self.peer, self.own_port, self.peer_port = host, own, peer, own_port, peer_port
        self.seen = None  # the last packet that it received
        self.wrap = None  # what it puts its packets in: a function of a packet


class Flow:
    """`header` goes to packet.ip for every packet: tos, ttl, options, extensions ..."""

    def __init__(self, net, client, destination, protocol="udp", sport=4000, dport=5000, source=None, **header):
        self.net, self.header, self.sent = net, header, 0
        version = 6 if ":" in destination else 4
        self.protocol = {"udp": UDP, "tcp": TCP, "icmp": {4: ICMP, 6: ICMP6}[version]}[protocol]
        self.side = [Side(client, source or client.address[version], destination, sport, dport), None]
        self.sequence = [1000, 500000]

    def data(self, size=24):
        self.sent += 1
        return f"packet {self.sent} ".encode().ljust(size, b".")[:size]

    def make(self, way, data=None, size=24, flags=ACK, tcp_options=b"", **header):
        side = self.side[way]
        data = self.data(size) if data is None else data
        if self.protocol == UDP:
            body = udp(side.own, side.peer, side.own_port, side.peer_port, data)
        elif self.protocol == TCP:
            body = tcp(side.own, side.peer, side.own_port, side.peer_port, self.sequence[way],
                       self.sequence[not way] if flags & ACK else 0, flags, data, tcp_options)
            self.sequence[way] += len(data) + bool(flags & SYN) + bool(flags & FIN)
        else:
            kind = ((8, 0) if self.protocol == ICMP else (128, 129))[way]
            ident = side.own_port if way == FORTH else side.peer_port
            body = icmp(side.own, side.peer, kind, 0, ident << 16 | self.sent, data)
        return ip(side.own, side.peer, self.protocol, body, **{"ident": 0x100 + self.sent, **self.header, **header})

    def go(self, way, count=1, **content):
        """Sends packets one way, one behind the other; what came of them."""
        if not self.side[way] or not self.side[way].host.up:
            return []
        made = [self.make(way, **content) for _ in range(count)]
        packets = self.net.send(self.side[way].host, *map(self.side[way].wrap or bytes, made))
        self.look(way, packets)
        return packets

    def look(self, way, packets):
        for host, packet in packets:
            if packet.protocol != self.protocol or packet.is_icmp_error() or packet.fragment & 0x1FFF:
                continue
            if way == FORTH:
                ports = (packet.dport, packet.sport)
                if self.protocol in (ICMP, ICMP6):
                    ports = (0, struct.unpack_from("!H", packet.data, 4)[0])
                self.side[BACK] = Side(host, packet.destination, packet.source, *ports)
            if self.side[not way]:
                self.side[not way].seen = packet.ip

    def forth(self, count=1, **content):
        return self.go(FORTH, count, **content)

    def back(self, count=1, **content):
        return self.go(BACK, count, **content)

    def both(self, count=3, **content):
        self.forth(count, **content)
        self.back(count, **content)

    def open(self):
        if self.protocol == TCP:
            self.forth(data=b"", flags=SYN)
            self.back(data=b"", flags=SYN | ACK)
            self.forth(data=b"")
        else:
            self.both(1)

    def warm(self):
        """Opens it and goes on until both ways come from the cache, if there is one."""
        self.net.settle()
        self.open()
        self.both(5)
        return self

    def close(self):
        self.forth(data=b"", flags=FIN | ACK)
        self.back(data=b"", flags=FIN | ACK)
        self.forth(data=b"")

    def error(self, way, name, mtu=0, source=None):
        """The side that sends `way` complains about what it received last."""
        side = self.side[way]
        if side and side.seen:
            self.net.send(side.host, icmp_error(source or side.own, side.peer, name, side.seen, mtu))
