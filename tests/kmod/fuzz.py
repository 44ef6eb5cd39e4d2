#!/usr/bin/python3
"""Messages that nobody would send: valid ones of every command, mutated, in ever the same order for a seed.

    fuzz.py [MESSAGES [SEED]]      (default: 3000 messages, seed 1)

Attributes are cut, stretched, doubled, dropped, nested where they must not be, given other types and values; flags of the header are
toggled, lengths lie, several messages share a datagram. Afterwards the module must do what it did before, and the kernel's log, which
the runner of the machine reads, must be clean. A packet of an established flow is sent now and then, since a module that only answers
has not survived.
"""

import random
import select
import socket
import struct
import sys

import client
import kit
from client import ATTR, CMD, ENUM, attribute
from kit import Delta, Net, Traffic, ctc, same, state, wait_until, yes

FLAGS = [0x1, 0x4, 0x8, 0x10, 0x100, 0x200, 0x400, 0x800]
VALUES = [b"", b"\0", b"\1", b"\2", b"\xff", b"\0\0", b"\7\0", b"\xff\xff", b"\0\0\0\0", b"\1\0\0\0", b"\x10\0\0\0", b"\xff\xff\0\0",
          b"\0\0\1\0", b"\xff\xff\xff\xff", b"\0\0\0\x80", bytes(8), b"\xff" * 8, bytes(16), b"\xff" * 16, bytes(17), bytes(4096)]


def corpus(flow):
    """(command, list of attributes (type, payload or list), dump?)"""
    zone, names = ENUM["zone_attr"], ENUM["tuple_attr"]

    def zone_of(number):
        return (ATTR["zone"], [(zone["id"], struct.pack("=H", number)), (zone["kinds"], struct.pack("=I", 1)),
                               (zone["class"], struct.pack("=I", number))])

    source, destination, protocol, sport, dport = flow.tuple()
    packed = [socket.inet_aton(source), socket.inet_aton(destination)]
    found = (ATTR["tuple"], [(names["protocol"], bytes([protocol])), (names["source"], packed[0]), (names["destination"], packed[1]),
                             (names["source_port"], struct.pack("!H", sport)), (names["destination_port"], struct.pack("!H", dport)),
                             (names["zone"], b"\0\0")])
    carriers = [(ATTR["carrier"], bytes([number])) for number in (1, 2)]
    return [
        (CMD["config_set"], [carriers[0]], False),
        (CMD["config_set"], [carriers[1], (ATTR["decisions"], struct.pack("=I", 64)), (ATTR["proof"], struct.pack("=I", 2)),
                             (ATTR["kinds"], struct.pack("=I", 1)), (ATTR["class"], struct.pack("=I", 5)), zone_of(1), zone_of(2)], False),
        (CMD["config_set"], [carriers[0], zone_of(3)], False),
        (CMD["config_set"], [(ATTR["carrier"], b"\0")], False),
        (CMD["config_get"], [], False),
        (CMD["stats_get"], [], False),
        (CMD["stats_get"], [], True),
        (CMD["flow_get"], [found], False),
        (CMD["flow_get"], [], True),
        (CMD["flow_get"], [(ATTR["zone_id"], b"\0\0"), (ATTR["family"], b"\2"), (ATTR["cached"], b"")], True),
        (CMD["decision_get"], [], True),
        (CMD["flush"], [], False),
        (CMD["flush"], [(ATTR["zone_id"], b"\1\0")], False),
        (CMD["fault"], [(ATTR["epoch"], struct.pack("=I", 32766))], False),
    ]


class Mutator:
    def __init__(self, seed, entries):
        self.random, self.entries = random.Random(seed), entries

    def message(self, family, sequence):
        command, attributes, dump = self.random.choice(self.entries)
        flags = 0x1 | (0x300 if dump else 0x4)
        for _ in range(self.random.choice([0, 1, 1, 1, 2, 3, 6])):
            attributes = self.change(attributes)
        if self.random.random() < 0.1:
            flags ^= self.random.choice(FLAGS)
        if self.random.random() < 0.05:
            command = self.random.randrange(256)
        version = self.random.choice([1] * 20 + [0, 2, 255])
        body = struct.pack("=BBH", command, version, self.random.choice([0] * 20 + [1, 0xFFFF])) + self.encode(attributes)
        if self.random.random() < 0.05:
            body = body[:self.random.randrange(len(body) + 1)]
        length = 16 + len(body)
        if self.random.random() < 0.05:
            length = max(0, length + self.random.choice([-16, -4, -1, 1, 4, 64, 65536]))
        data = struct.pack("=IHHII", length, family, flags, sequence, 0) + body
        return data + bytes(-len(data) % 4)

    def change(self, attributes):
        attributes, pick = list(attributes), self.random
        if not attributes or pick.random() < 0.15:
            kind = pick.choice([pick.randrange(24), pick.randrange(0x4000), 0])
            attributes.insert(pick.randrange(len(attributes) + 1), (kind, pick.choice(VALUES)))
            return attributes
        index = pick.randrange(len(attributes))
        kind, value = attributes[index]
        if isinstance(value, list) and pick.random() < 0.6:
            attributes[index] = (kind, self.change(value))
            return attributes
        what = pick.randrange(8)
        if what == 0:
            attributes.pop(index)
        elif what == 1:
            attributes.insert(index, attributes[index])
        elif what == 2:
            attributes[index] = (kind, pick.choice(VALUES))
        elif what == 3:
            attributes[index] = (pick.randrange(24), value)
        elif what == 4:
            attributes[index] = (kind, [(pick.randrange(8), value), (kind, value)])
        elif what == 5 and not isinstance(value, list):
            attributes[index] = (kind, value[:pick.randrange(len(value) + 1)])
        elif what == 6 and not isinstance(value, list):
            attributes[index] = (kind, value + pick.choice(VALUES))
        else:
            attributes[index] = (kind, pick.randbytes(pick.choice([1, 2, 4, 8, 16])))
        return attributes

    def encode(self, attributes, depth=0):
        data = b""
        for kind, value in attributes:
            nested = isinstance(value, list)
            payload = self.encode(value, depth + 1) if nested else value
            if self.random.random() < 0.02:
                nested = not nested
            one = attribute(kind, payload[:60000], nested)
            if self.random.random() < 0.02:
                one = struct.pack("=H", self.random.choice([0, 3, 4, 5, len(one) + 4, 0xFFFF])) + one[2:]
            data += one
        return data[:65000]


def drain(sock):
    """Reads what has come; errors of the kernel about our own slowness do not count."""
    while select.select([sock], [], [], 0)[0]:
        try:
            sock.recv(1 << 18)
        except OSError:
            pass


def fuzz(number, seed):
    with Net(config=["proof=1"]) as net:
        flow, lasting = net.flow(4).settle(), net.flow(4)
        with kit.inside("r"):
            one = client.Client()
        mutator = Mutator(seed, corpus(flow))
        with Traffic([lasting, net.flow(6)], pace=0.01) as traffic:
            sent = 0
            while sent < number:
                data = b""
                for _ in range(mutator.random.choice([1, 1, 1, 1, 2, 5])):
                    data += mutator.message(one.family, sent)
                    sent += 1
                try:
                    one.socket.send(data)
                except OSError:
                    pass
                drain(one.socket)
            records = traffic.stop()
        same([record for record in records if record[2] != "rb"], [], "lost or astray")
        # What may be left is a configuration that a message has set.
        ctc("config", "none")
        net.config("proof=1", "zone=5:route:5")
        wait_until(lambda: state() == "active", "active")
        same([zone["id"] for zone in ctc("get")["zones"]], [5], "zones")
        for family in (4, 6):
            net.flow(family).settle()
        yes(ctc("flows", "cached") and ctc("decisions") and ctc("zones"), "the module has nothing to tell")
        same(kit.stat("mismatches"), 0, "mismatches")


def test_messages():
    fuzz(NUMBER, SEED)


if __name__ == "__main__":
    NUMBER, SEED = (int(word) for word in (sys.argv[1:] + ["3000", "1"][len(sys.argv) - 1:])[:2])
    sys.argv[1:] = []
    kit.main()
