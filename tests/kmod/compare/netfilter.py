"""The two ends of nfnetlink that packets reach: NFLOG, which is told of them, and NFQUEUE, which gives them back.

Both are pumps: called until there is nothing to do before the network looks at what has come out.
"""

import socket
import struct

NETLINK_NETFILTER = 12
NLM_F_REQUEST, NLM_F_ACK, NLMSG_ERROR = 1, 4, 2
NFNL_SUBSYS_QUEUE, NFNL_SUBSYS_ULOG = 3, 4
PACKET, VERDICT, CONFIG = 0, 1, {NFNL_SUBSYS_QUEUE: 2, NFNL_SUBSYS_ULOG: 1}
COPY_PACKET = 2


def attributes(data):
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3:]
    return found


def attribute(kind, payload):
    return (struct.pack("=HH", 4 + len(payload), kind) + payload).ljust((4 + len(payload) + 3) & ~3, b"\0")


class Socket:
    """A socket in the router's namespace, bound to one group or queue."""

    def __init__(self, net, subsystem, number):
        self.net, self.subsystem, self.number = net, subsystem, number
        with net.router:
            self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
            self.socket.bind((0, 0))
        net.pumps.append(self)

    def send(self, kind, payload, number=None):
        number = self.number if number is None else number
        body = struct.pack("=BBH", 0, 0, socket.htons(number)) + payload
        header = struct.pack("=IHHII", 16 + len(body), self.subsystem << 8 | kind, NLM_F_REQUEST | NLM_F_ACK, 1, 0)
        self.socket.send(header + body)
        error = struct.unpack_from("=i", self.socket.recv(65536), 16)[0]
        if error:
            raise OSError(-error, "nfnetlink")

    def packets(self):
        """Attributes of the packets that have come."""
        found = []
        while True:
            try:
                data = self.socket.recv(1 << 17, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            while len(data) >= 20:
                length, kind = struct.unpack_from("=IH", data)
                if kind == self.subsystem << 8 | PACKET:
                    found.append(attributes(data[20:length]))
                data = data[(length + 3) & ~3:]

    def close(self):
        self.socket.close()


class Log(Socket):
    """NFLOG: what it is told is recorded."""

    def __init__(self, net, group):
        super().__init__(net, NFNL_SUBSYS_ULOG, group)
        config = CONFIG[self.subsystem]
        self.send(config, attribute(1, struct.pack("=B", 1)))  # NFULNL_CFG_CMD_BIND
        self.send(config, attribute(2, struct.pack("!IBB", 0xFFFF, COPY_PACKET, 0)))
        self.send(config, attribute(5, struct.pack("!I", 1)))  # NFULNL_A_CFG_QTHRESH: one packet is enough

    def __call__(self):
        told = self.packets()
        for packet in told:  # header (protocol, hook), mark, devices, prefix, packet
            values = [(kind, packet[kind].hex()) for kind in (1, 2, 4, 5, 9, 10) if kind in packet]
            self.net.note(f"NFLOG {self.number}", " ".join(f"{kind}:{value}" for kind, value in values))
        return bool(told)


class Queue(Socket):
    """NFQUEUE: packets go back as they came, in the order in which they came, with another mark if one is given."""

    def __init__(self, net, number):
        super().__init__(net, NFNL_SUBSYS_QUEUE, number)
        config = CONFIG[self.subsystem]
        self.mark = None
        self.send(config, attribute(1, struct.pack("!BxH", 1, 0)))  # NFQNL_CFG_CMD_BIND
        self.send(config, attribute(2, struct.pack("!IB", 0xFFFF, COPY_PACKET)))

    def __call__(self):
        parked = self.packets()
        for packet in parked:
            self.net.note(f"NFQUEUE {self.number}", packet.get(10, b"").hex())
            mark = attribute(3, struct.pack("!I", self.mark)) if self.mark is not None else b""
            self.send(VERDICT, attribute(2, struct.pack("!II", 1, struct.unpack_from("!I", packet[1])[0])) + mark)
        return bool(parked)
