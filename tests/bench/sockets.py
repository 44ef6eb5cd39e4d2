"""Local sockets of a scenario: those that receive its flows, among many that do not.

With UDP a filter drops what a socket receives, as soon as the socket was found for the packet, and the socket counts it.
TCP is established by TCP_REPAIR, for nobody is at the other end, and gets acknowledgements of nothing, which it counts.
"""

import ctypes
import resource
import socket
import struct

SO_ATTACH_FILTER, SO_MEMINFO, SK_MEMINFO_DROPS = 26, 55, 8
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_INFO, SEGMENTS_IN = 19, 20, 21, 11, 140  # the last: offset in tcp_info
FIRST_SEQUENCE = 1
OTHER_PORTS = 20000  # the first port of sockets that receive nothing
NOTHING = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0), 8)  # ret #0


def address(data):
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)


class Sockets:
    """`kind`: tcp, connected (UDP, as tcp one for each flow) or udp (one for all). `flows`: (source, sport, destination,
    dport), addresses as bytes. `others`: sockets that listen.

    Namespaces share UDP's table, and the last one to come stands first in its slot, where early demux looks: so receivers
    come after the others of all namespaces."""

    def __init__(self, kind, flows, others):
        resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 17, 1 << 17))
        self.kind, self.flows, self.peers = kind, flows, [(address(source), sport) for source, sport, _, _ in flows]
        self.family = socket.AF_INET if len(flows[0][0]) == 4 else socket.AF_INET6
        self.type = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
        self.others = [self.open("", OTHER_PORTS + number) for number in range(others)]
        self.receivers = []

    def receive(self):
        for peer, (_, _, destination, dport) in zip(self.peers, self.flows):
            if self.kind != "udp" or not self.receivers:
                self.receivers.append(self.open(address(destination), dport, repair=self.kind == "tcp"))
            if self.kind != "udp":
                self.receivers[-1].connect(peer)
        if self.kind == "tcp":
            for other in self.others:
                other.listen()

    def answer(self):
        """A packet of each flow, to the outside, which makes it established."""
        for number, peer in enumerate(self.peers):
            if self.kind == "udp":
                self.receivers[0].sendto(b"x", peer)
            elif self.kind == "connected":
                self.receivers[number].send(b"x")
            else:
                self.receivers[number].setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)  # which probes the window

    def open(self, own, port, repair=False):
        opened = socket.socket(self.family, self.type)
        if self.kind != "tcp":
            opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(NOTHING)))
        if repair:
            opened.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            for queue in (1, 2):
                opened.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
                opened.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, FIRST_SEQUENCE)
        opened.bind((own, port))
        return opened

    def received(self):
        if self.kind == "tcp":
            return sum(struct.unpack_from("=I", one.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 192), SEGMENTS_IN)[0]
                       for one in self.receivers)
        return sum(struct.unpack("9I", one.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[SK_MEMINFO_DROPS]
                   for one in self.receivers)

    def close(self):
        for one in self.receivers + self.others:
            one.close()
