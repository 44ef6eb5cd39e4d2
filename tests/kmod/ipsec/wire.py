"""What the router says on the wire: a packet socket in w, which has no keys, on the link to r."""

import ipaddress
import socket
import struct
from typing import NamedTuple

ETH_P_ALL, PACKET_OUTGOING = 3, 4
HOP, ROUTING, FRAGMENT = 0, 43, 44
OF_LINK = (*range(130, 138), 143)  # ICMPv6's words among neighbours
NAT_T = 4500
NAMES = {1: "icmp", 4: "ipip", 6: "tcp", 17: "udp", 41: "ipip6", 47: "gre", 50: "esp", 58: "icmp"}


class Packet(NamedTuple):
    """`what` is esp, or esp in udp, with the state's number; all else is told by its protocol."""

    what: str
    source: str
    spi: int
    size: int
    part: bool  # a fragment, but the first

    def __str__(self):
        return f"{self.what}{f' {self.spi:#x}' if self.spi else ''} {self.size}{' part' if self.part else ''}"


def parse(frame):
    """None for what is not IP, and for the link's own messages."""
    kind, = struct.unpack_from("!H", frame, 12)
    data = frame[14:]
    if kind == 0x0800:
        size, = struct.unpack_from("!H", data, 2)
        offset, protocol = struct.unpack_from("!H", data, 6)[0] & 0x1FFF, data[9]
        source, payload = data[12:16], data[(data[0] & 15) * 4:]
    elif kind == 0x86DD:
        size, protocol, payload, offset = 40 + struct.unpack_from("!H", data, 4)[0], data[6], data[40:], 0
        source = data[8:24]
        while protocol in (HOP, ROUTING, FRAGMENT):
            if protocol == FRAGMENT:
                offset = struct.unpack_from("!H", payload, 2)[0] >> 3
            protocol, payload = payload[0], payload[8 if protocol == FRAGMENT else 8 + 8 * payload[1]:]
        if protocol == 58 and payload[0] in OF_LINK:
            return None
    else:
        return None
    what, spi = NAMES.get(protocol, str(protocol)), 0
    if not offset:
        if what == "udp" and NAT_T in struct.unpack_from("!HH", payload):
            what, payload = "esp in udp", payload[8:]
        if what.startswith("esp"):
            spi, = struct.unpack_from("!I", payload)
    return Packet(what, str(ipaddress.ip_address(source)), spi, size, bool(offset))


class Wire:
    """Made in w's namespace. Packets from `unseen` addresses are not told of."""

    def __init__(self, device, unseen=()):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self.socket.bind((device, ETH_P_ALL))
        self.socket.setblocking(False)
        self.unseen = unseen

    def close(self):
        self.socket.close()

    def packets(self):
        """What came from r since the last time, in its order."""
        found = []
        while True:
            try:
                frame, (_, _, kind, *_) = self.socket.recvfrom(65536)
            except BlockingIOError:
                return found
            packet = parse(frame) if kind != PACKET_OUTGOING else None
            if packet and packet.source not in self.unseen:
                found.append(packet)
