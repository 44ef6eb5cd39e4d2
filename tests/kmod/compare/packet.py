"""Packets as bytes: made from values with every checksum right, and read back for who answers them and for people.

An `address` is a string. What is made depends on its arguments alone: nothing random, no time.
"""

import struct
from functools import cache
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

ICMP, TCP, UDP, ESP, ICMP6 = 1, 6, 17, 50, 58
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
DF, MF = 0x4000, 0x2000
ETHERTYPE = {4: 0x0800, 6: 0x86DD}


def version(address):
    return 6 if ":" in address else 4


@cache
def packed(address):
    return inet_pton(AF_INET6 if ":" in address else AF_INET, address)


@cache
def unpacked(data):
    return inet_ntop(AF_INET if len(data) == 4 else AF_INET6, data)


def checksum(data):
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def with_checksum(source, destination, protocol, data, offset):
    """`data` with the checksum over it and the pseudo header at `offset`, which holds zero."""
    pseudo = packed(source) + packed(destination) + struct.pack("!II", len(data), protocol)
    value = checksum(pseudo + data) or (0xFFFF if protocol == UDP else 0)
    return data[:offset] + struct.pack("!H", value) + data[offset + 2:]


def ether(source, destination, ethertype, data):
    return bytes.fromhex(destination.replace(":", "") + source.replace(":", "")) + struct.pack("!H", ethertype) + data


def ipv4(source, destination, protocol, data, ident=1, ttl=64, tos=0, flags=DF, options=b""):
    """`flags` is the whole word: DF, MF and the offset in units of eight bytes."""
    options += bytes(-len(options) % 4)
    length = 20 + len(options)
    header = struct.pack("!BBHHHBBH4s4s", 0x40 + length // 4, tos, length + len(data), ident, flags, ttl, protocol, 0,
                         packed(source), packed(destination)) + options
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + data


def ipv6(source, destination, protocol, data, ttl=64, tos=0, label=0):
    word = 6 << 28 | tos << 20 | label
    return struct.pack("!IHBB16s16s", word, len(data), protocol, ttl, packed(source), packed(destination)) + data


def ip(source, destination, protocol, data, extensions=(), ident=1, ttl=64, tos=0, **v4_or_v6):
    """`extensions` (IPv6): [(header type, what follows its first two bytes)]."""
    if version(source) == 4:
        return ipv4(source, destination, protocol, data, ident=ident, ttl=ttl, tos=tos, **v4_or_v6)
    for kind, body in reversed(extensions):
        data = struct.pack("!BB", protocol, (2 + len(body)) // 8 - 1) + body + data
        protocol = kind
    return ipv6(source, destination, protocol, data, ttl=ttl, tos=tos, **v4_or_v6)


def udp(source, destination, sport, dport, data):
    return with_checksum(source, destination, UDP, struct.pack("!4H", sport, dport, 8 + len(data), 0) + data, 6)


def tcp(source, destination, sport, dport, sequence, ack, flags, data=b"", options=b""):
    options += bytes(-len(options) % 4)
    header = struct.pack("!HHIIBBHHH", sport, dport, sequence & 0xFFFFFFFF, ack & 0xFFFFFFFF,
                         (20 + len(options)) // 4 << 4, flags, 8192, 0, 0)
    return with_checksum(source, destination, TCP, header + options + data, 16)


def icmp(source, destination, kind, code, rest, data):
    """ICMP or ICMPv6; `rest` is the header's second word."""
    body = struct.pack("!BBHI", kind, code, 0, rest) + data
    if version(source) == 4:
        return body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return with_checksum(source, destination, ICMP6, body, 2)


def esp(source, destination, spi, sequence, inner):
    """`inner`, an IP packet, in tunnel mode with a null cipher and no authentication (RFC 4303, RFC 2410)."""
    padding = bytes(range(1, 1 + -(len(inner) + 2) % 4))
    trailer = padding + bytes([len(padding), {4: 4, 6: 41}[inner[0] >> 4]])
    return ip(source, destination, ESP, struct.pack("!II", spi, sequence) + inner + trailer)


ERRORS = {  # name -> (type, code), by version
    "port": {4: (3, 3), 6: (1, 4)},
    "host": {4: (3, 1), 6: (1, 3)},
    "too big": {4: (3, 4), 6: (2, 0)},
    "time": {4: (11, 0), 6: (3, 0)},
    "redirect": {4: (5, 1)},
}


def icmp_error(source, destination, name, quoted, rest=0, **header):
    """An error that quotes `quoted`; `rest` is an MTU or a better router."""
    v = version(source)
    kind, code = ERRORS[name][v]
    body = icmp(source, destination, kind, code, rest, quoted[:28 + 64])
    return ip(source, destination, ICMP if v == 4 else ICMP6, body, **header)


def fragments(packet, size, ident=77):
    """`packet` in fragments of at most `size` bytes of payload, a multiple of eight."""
    if packet[0] >> 4 == 4:
        length = (packet[0] & 15) * 4
        header, data = packet[:length], packet[length:]
        pieces = []
        for offset in range(0, len(data), size):
            piece = data[offset:offset + size]
            flags = offset // 8 | (MF if offset + size < len(data) else 0)
            changed = struct.pack("!HHH", length + len(piece), ident, flags)
            head = header[:2] + changed + header[8:10] + b"\0\0" + header[12:]
            pieces.append(head[:10] + struct.pack("!H", checksum(head)) + head[12:] + piece)
        return pieces
    header, data = packet[:40], packet[40:]
    pieces = []
    for offset in range(0, len(data), size):
        piece = data[offset:offset + size]
        extension = struct.pack("!BBHI", header[6], 0, offset | (offset + size < len(data)), ident)
        pieces.append(header[:4] + struct.pack("!HB", 8 + len(piece), FRAGMENT) + header[7:] + extension + piece)
    return pieces


class Packet:
    """What a frame says, as far as it is understood. `protocol` is None when it is not IP."""

    def __init__(self, frame):
        self.frame, self.protocol, self.payload, self.sport, self.dport, self.fragment = frame, None, b"", None, None, 0
        self.ethertype = struct.unpack_from("!H", frame, 12)[0]
        self.ip = frame[14:]
        if self.ethertype == 0x0800 and len(self.ip) >= 20:
            self.read_ipv4()
        elif self.ethertype == 0x86DD and len(self.ip) >= 40:
            self.read_ipv6()
        if self.protocol in (TCP, UDP) and not self.fragment & 0x1FFF and len(self.data) >= 8:
            self.sport, self.dport = struct.unpack_from("!HH", self.data)
            self.payload = self.data[(self.data[12] >> 4) * 4 if self.protocol == TCP and len(self.data) > 12 else 8:]

    def read_ipv4(self):
        self.version, self.tos = 4, self.ip[1]
        length, self.ident, self.fragment, self.ttl, self.protocol = struct.unpack_from("!HHHBB", self.ip, 2)
        self.source, self.destination = (unpacked(self.ip[i:i + 4]) for i in (12, 16))
        self.data = self.ip[(self.ip[0] & 15) * 4:length]

    def read_ipv6(self):
        self.version, self.tos = 6, struct.unpack_from("!I", self.ip)[0] >> 20 & 0xFF
        length, self.protocol, self.ttl = struct.unpack_from("!HBB", self.ip, 4)
        self.source, self.destination = (unpacked(self.ip[i:i + 16]) for i in (8, 24))
        self.data = self.ip[40:40 + length]
        while self.protocol in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS) and len(self.data) >= 8:
            following, words = self.data[0], self.data[1]
            if self.protocol == FRAGMENT:
                self.fragment, words = struct.unpack_from("!H", self.data, 2)[0] >> 3, 0
            self.protocol, self.data = following, self.data[8 + 8 * words:]

    def is_icmp_error(self):
        if self.protocol == ICMP6:
            return self.data[0] < 128
        return self.protocol == ICMP and self.data[0] in (3, 4, 5, 11, 12)

    def is_neighbourly(self):
        """Talk of the link: ARP, neighbour discovery, multicast listeners. Whenever it comes, nobody asked for it."""
        return self.protocol is None or (self.protocol == ICMP6 and self.data[0] in (*range(130, 138), 143))

    def __str__(self):
        mac = f"{self.frame[6:12].hex(':')} > {self.frame[:6].hex(':')}"
        if self.protocol is None:
            return f"{mac} type {self.ethertype:#06x}"
        text = f"{mac} {self.source} > {self.destination} protocol {self.protocol} ttl {self.ttl} tos {self.tos:#x}"
        if self.version == 4:
            text += f" id {self.ident:#x} options {(self.ip[0] & 15) * 4 - 20}"
        if self.fragment & 0x3FFF:
            text += f" fragment {self.fragment:#x}"
        if self.sport is not None:
            text += f" ports {self.sport} > {self.dport} data {bytes(self.payload[:24])!r}"
            if self.protocol == TCP:
                sequence, ack = struct.unpack_from("!II", self.data, 4)
                text += f" seq {sequence} ack {ack} flags {self.data[13]:#x}"
        elif self.protocol in (ICMP, ICMP6):
            text += f" type {self.data[0]} code {self.data[1]}"
        return text + f" length {len(self.ip)}"
