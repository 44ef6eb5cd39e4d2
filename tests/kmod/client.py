#!/usr/bin/python3
"""Speaks with nf_ctcache over generic netlink, in the network namespace of the caller; prints JSON.

    client.py config CARRIER [decisions=N] [proof=N] [kinds=KINDS] [class=N] [zone=ID[:KINDS[:CLASS]]]...
    client.py get | stats | zones | decisions
    client.py flow SOURCE DESTINATION PROTOCOL [SPORT DPORT] [zone=ID]
    client.py flows [zone=ID] [family=4|6] [cached]
    client.py flush [zone=ID]
    client.py fault [deaf|none] [epoch=N]          (test builds of the module)

CARRIER is act_ct, labels or none. The numbers and names are those of kmod/uapi/nf_ctcache.h, which is read for them: there is
no second list. Exit status 1 and "errno: text" when the kernel refuses.
"""

import ipaddress
import json
import os
import re
import socket
import struct
import sys
from pathlib import Path

HEADER = Path(__file__).resolve().parents[2] / "kmod/uapi/nf_ctcache.h"
NETLINK_GENERIC, SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 16, 270, 10, 11
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_ACK_TLVS, NLM_F_CAPPED = 1, 4, 0x300, 0x200, 0x100
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000


def read_enums():
    """name -> (value by constant's short name, in lower case) of every enum in the header."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    enums = {}
    for name, body in re.findall(r"enum ctcache_(\w+) \{(.*?)\};", text, flags=re.S):
        words = [word.strip() for word in body.split(",") if word.strip() and not word.strip().startswith("__")]
        prefix = os.path.commonprefix(words)
        enums[name] = {word[len(prefix):].lower(): value for value, word in enumerate(words)}
    return enums


ENUM = read_enums()
CMD, ATTR = ENUM["cmd"], ENUM["attr"]


class Refused(Exception):
    """The kernel's answer was an error."""

    def __init__(self, number, text):
        super().__init__(f"{os.strerror(number)}{': ' + text if text else ''}")
        self.errno = number


def attribute(kind, payload, nested=False):
    data = struct.pack("=HH", len(payload) + 4, kind | (NLA_F_NESTED if nested else 0)) + payload
    return data + bytes(-len(data) % 4)


def attributes(data):
    """[(type without flags, payload)] of a run of attributes."""
    found = []
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found.append((kind & 0x3FFF, data[4:length]))
        data = data[(length + 3) & ~3:]
    return found


class Client:
    """One generic netlink socket."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        self.socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self.socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind((0, 0))
        self.sequence = 0
        controller = 16
        answer = self.ask(3, attribute(2, b"nf_ctcache\0"), family=controller)  # CTRL_CMD_GETFAMILY, FAMILY_NAME
        self.family = struct.unpack("=H", dict(attributes(answer[0]))[1])[0]

    def send(self, data):
        self.socket.send(data)

    def message(self, command, payload, flags, family):
        self.sequence += 1
        body = struct.pack("=BBH", command, 1, 0) + payload
        return struct.pack("=IHHII", 16 + len(body), family, flags, self.sequence, 0) + body

    def ask(self, command, payload=b"", dump=False, family=None):
        """The payloads (attributes) of all answers; raises Refused."""
        flags = NLM_F_REQUEST | (NLM_F_DUMP if dump else NLM_F_ACK)
        self.send(self.message(command, payload, flags, self.family if family is None else family))
        answers = []
        while True:
            data = self.socket.recv(1 << 18)
            while len(data) >= 16:
                length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data)
                body, data = data[16:length], data[(length + 3) & ~3:]
                if sequence != self.sequence:
                    continue
                if kind == NLMSG_DONE:
                    return answers
                if kind == NLMSG_ERROR:
                    self.check(body, flags)
                    return answers
                answers.append(body[4:])

    @staticmethod
    def check(body, flags):
        number = -struct.unpack_from("=i", body)[0]
        if number:
            text = ""
            if flags & NLM_F_ACK_TLVS:
                skip = 20 if flags & NLM_F_CAPPED else 4 + struct.unpack_from("=I", body, 4)[0]
                text = dict(attributes(body[skip:])).get(1, b"").rstrip(b"\0").decode()
            raise Refused(number, text)


# --- from attributes to values ---

def number(data):
    return int.from_bytes(data, sys.byteorder)


def address(data):
    return str(ipaddress.ip_address(data))


def port(data):
    return int.from_bytes(data, "big")


def nest(names, readers):
    def read(data):
        values, by_value = {}, {value: name for name, value in ENUM[names].items()}
        for kind, payload in attributes(data):
            name = by_value.get(kind)
            if name in (None, "pad", "unspec"):
                continue
            value = readers.get(name, number)(payload)
            if name in ("zone",) and names == "attr":
                values.setdefault("zones", []).append(value)
            else:
                values[name] = value
        return values
    return read


def flag(_):
    return True


TUPLE = nest("tuple_attr", {"source": address, "destination": address, "source_port": port, "destination_port": port})
DECISION = nest("decision_attr", {"local": flag, "gateway": address, "clear": flag, "spi": port, "spi_in": port})
DIRECTION = nest("direction_attr", {"tuple": TUPLE, "decision": DECISION})
FLOW = nest("flow_attr", {"original": DIRECTION, "reply": DIRECTION})
MESSAGE = nest("attr", {
    "stats": nest("stat", {}), "misses": nest("miss", {}), "epochs": nest("cause", {}), "zone": nest("zone_attr", {}),
    "flow": FLOW, "decision": DECISION, "tuple": TUPLE,
    "state": lambda data: {value: name for name, value in ENUM["state"].items()}[number(data)],
    "carrier": lambda data: {value: name for name, value in ENUM["carrier"].items()}[number(data)],
})


# --- from words to attributes ---

KINDS = {"none": 0, "route": 1, "ipsec": 2, "socket": 4}


def kinds_of(text):
    return sum(KINDS[word] for word in text.split("+"))


def u8(name, value):
    return attribute(ATTR[name], struct.pack("=B", int(value)))


def u16(name, value):
    return attribute(ATTR[name], struct.pack("=H", int(value)))


def u32(name, value):
    return attribute(ATTR[name], struct.pack("=I", int(value)))


def zone(value):
    names = ENUM["zone_attr"]
    ident, kinds, clas = value.split(":") + ["route", "0"][value.count(":"):]
    return attribute(ATTR["zone"], attribute(names["id"], struct.pack("=H", int(ident))) +
                     attribute(names["kinds"], struct.pack("=I", kinds_of(kinds))) +
                     attribute(names["class"], struct.pack("=I", int(clas))), nested=True)


OPTIONS = {
    "decisions": lambda value: u32("decisions", value), "proof": lambda value: u32("proof", value),
    "kinds": lambda value: u32("kinds", kinds_of(value)), "class": lambda value: u32("class", value),
    "epoch": lambda value: u32("epoch", value), "family": lambda value: u8("family", {"4": 2, "6": 10}[value]),
}


def options(words, zones=False):
    data = b""
    for word in words:
        name, _, value = word.partition("=")
        if name == "zone":
            data += zone(value) if zones else u16("zone_id", value)
        elif name == "cached":
            data += attribute(ATTR["cached"], b"")
        elif name in ("deaf", "none"):
            data += u32("fault", name == "deaf")
        else:
            data += OPTIONS[name](value)
    return data


def flow_tuple(words):
    names, data = ENUM["tuple_attr"], b""
    plain = [word for word in words if "=" not in word]
    for name, text in (("source", plain[0]), ("destination", plain[1])):
        data += attribute(names[name], ipaddress.ip_address(text).packed)
    data += attribute(names["protocol"], struct.pack("=B", int(plain[2])))
    for name, text in zip(("source_port", "destination_port"), plain[3:]):
        data += attribute(names[name], struct.pack("!H", int(text)))
    for word in words:
        if word.startswith("zone="):
            data += attribute(names["zone"], struct.pack("=H", int(word[5:])))
    return attribute(ATTR["tuple"], data, nested=True)


def run(words):
    client, command, rest = Client(), words[0], words[1:]
    if command == "config":
        return client.ask(CMD["config_set"], u8("carrier", ENUM["carrier"][rest[0]]) + options(rest[1:], zones=True))
    if command == "flow":
        return client.ask(CMD["flow_get"], flow_tuple(rest))
    names = {"get": "config_get", "stats": "stats_get", "zones": "stats_get", "flows": "flow_get",
             "decisions": "decision_get", "flush": "flush", "fault": "fault"}
    return client.ask(CMD[names[command]], options(rest), dump=command in ("zones", "flows", "decisions"))


def main():
    try:
        answers = [MESSAGE(answer) for answer in run(sys.argv[1:])]
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    except (IndexError, KeyError):
        sys.exit(__doc__)
    dump = sys.argv[1] in ("zones", "flows", "decisions")
    if answers or dump:
        print(json.dumps(answers if dump else answers[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
