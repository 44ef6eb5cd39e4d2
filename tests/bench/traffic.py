"""Frames: the packets of a scenario's flows, in both directions.

Flows come from random sources behind `in0` and go to random destinations behind `out0`. They are visited in another
order than the one in which they were set up: otherwise one would walk over memory in the order of its allocation,
which hides most cache misses. The seed is fixed, so every variant and every run has the same packets.
"""

import random
import socket
import struct

MAC = {"in0": bytes.fromhex("02000000a001"), "out0": bytes.fromhex("02000000a002")}
PEER = bytes.fromhex("02000000b001")
BATCH = 64  # of inject.h
SPI = 0x100
HERE = bytes([192, 168, 1, 1])


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def header4(length, protocol, source, destination):
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 0, 0x4000, 64, protocol, 0, source, destination)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:]


def frame4(link, source, sport, destination, dport):
    packet = header4(26, 17, source, destination) + struct.pack("!HHHH", sport, dport, 26, 0) + bytes(18)
    return MAC[link] + PEER + b"\x08\0" + packet


def in_esp(frame):
    """In a tunnel to the router, with a null cipher (RFC 4303): padded to four bytes, of which the last is the protocol."""
    packet = frame[14:]
    padding = -(len(packet) + 2) % 4
    body = struct.pack("!II", SPI, 1) + packet + bytes(range(1, padding + 1)) + bytes([padding, 4])
    return frame[:14] + header4(len(body), 50, bytes([192, 168, 1, 2]), bytes([192, 168, 1, 1])) + body


def frame4_tcp(link, source, sport, destination, dport):
    """Acknowledges nothing (sockets.py)."""
    segment = struct.pack("!HHIIBBHHH", sport, dport, 1, 1, 0x50, 0x10, 1024, 0, 0)
    pseudo = source + destination + struct.pack("!HH", 6, len(segment))
    segment = segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]
    return MAC[link] + PEER + b"\x08\0" + header4(len(segment), 6, source, destination) + segment


def frame6(link, source, sport, destination, dport):
    header = struct.pack("!IHBB16s16s", 0x60000000, 26, 17, 64, source, destination)
    return MAC[link] + PEER + b"\x86\xdd" + header + struct.pack("!HHHH", sport, dport, 26, 0) + bytes(18)


def prefixes4(count, chosen):
    """Distinct prefixes of the lengths that a full table has, as (first address, length)."""
    lengths = chosen.choices((24, 23, 22, 21, 20, 19, 18, 17, 16), (60, 10, 12, 5, 5, 3, 2, 1, 2), k=2 * count)
    found = {}
    for length in lengths:  # in 11.0.0.0 to 126.255.255.255
        address = 0x0B000000 + int(chosen.random() * 0x74000000)
        found[(address >> (32 - length) << (32 - length), length)] = None
        if len(found) == count:
            return list(found)
    raise ValueError("too many prefixes")


def prefixes6(count, chosen):
    lengths = chosen.choices((48, 44, 40, 36, 32), (50, 15, 15, 5, 15), k=2 * count)
    found = {}
    for length in lengths:  # in 2a00::/8
        found[(0x2A << 120 | chosen.getrandbits(length - 8) << (128 - length), length)] = None
        if len(found) == count:
            return list(found)
    raise ValueError("too many prefixes")


class Injector:
    """Frames, and the device that sends them (inject.c), which keeps them after the first run."""

    def __init__(self, frames):
        self.count, self.length = len(frames), len(frames[0])
        self.unsent = b"".join(frames)
        self.device = open("/dev/inject", "r+b", buffering=0)

    def send(self, links, packets, burst=0, period=0, deferred=False):
        """Nanoseconds per packet, of each batch."""
        count = self.count if self.unsent else 0
        self.device.write(struct.pack("=8IQ", *links, count, self.length, burst, period, deferred, 0, packets) + self.unsent)
        self.unsent = b""
        data = self.device.read(24 + 4 * -(-packets // BATCH))
        sent, _, kilohertz, batches = struct.unpack_from("=QQII", data)
        if sent != packets:
            raise SystemExit(f"{sent} of {packets} packets were injected")
        factor = 1e6 / kilohertz / min(BATCH, packets)
        return [cycles * factor for cycles in struct.unpack_from(f"={batches}I", data, 24)]


class Traffic:
    """The routes and the frames of one scenario."""

    def __init__(self, scenario):
        chosen = random.Random(1)
        self.scenario = scenario
        self.size = 4 if scenario.family == 4 else 16
        make = prefixes4 if scenario.family == 4 else prefixes6
        prefixes = make(max(scenario.routes, 2), chosen)
        self.routes = tuple(prefixes) if scenario.routes > 1 else ((0, 0),)
        flows = [self.flow(number, chosen, prefixes) for number in range(scenario.flows)]
        frame = frame6 if scenario.family == 6 else frame4_tcp if scenario.local == "tcp" else frame4
        forth = [frame("in0", *flow) for flow in flows]
        if scenario.inbound:
            forth = [in_esp(one) for one in forth]
        back = [frame("out0", flow[2], flow[3], flow[0], flow[1]) for flow in flows]
        self.flows = flows
        self.first, self.replies = Injector(forth), Injector(back)
        if scenario.length:
            forth = self.blocks(forth, back)
        else:
            chosen.shuffle(forth)
        self.frames = forth
        self.scattered = Injector(self.frames)

    def flow(self, number, chosen, prefixes):
        if self.scenario.local:
            source = 0x0A000000 | chosen.randrange(1, 1 << 24)
            port = 53 if self.scenario.local == "udp" else 1024 + number
            return source.to_bytes(4, "big"), 1024 + number, HERE, port
        address, length = chosen.choice(prefixes)
        bits = self.size * 8
        if self.scenario.family == 4:
            source = 0x0A000000 | chosen.randrange(1, 1 << 24)
            address |= chosen.getrandbits(bits - length)
        else:
            source = 0xFD << 120 | chosen.getrandbits(64)
            address |= chosen.getrandbits(64)
        return (source.to_bytes(self.size, "big"), 1024 + number % 60000, address.to_bytes(self.size, "big"), 53)

    def blocks(self, forth, back):
        """Whole new flows: the first packets of as many as fill a batch, then their replies, then all the rest."""
        frames = []
        for start in range(0, len(forth), BATCH):
            block = slice(start, start + BATCH)
            for packet in range(self.scenario.length):
                frames += back[block] if packet == 1 else forth[block]
        return frames


def address(text):
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)

