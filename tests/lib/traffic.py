#!/usr/bin/python3
"""Traffic that notices when it breaks.

    traffic.py serve PORTS...                 echo servers on every address: tcp:80 udp:53,4172
    traffic.py once FLOW...                   one exchange per flow; prints "ok FLOW" or "broken FLOW: why"
    traffic.py live STATE FLOW...             the same exchanges for ever, each on one socket, with the news in STATE
    traffic.py upload|download FLOW BYTES     one TCP transfer
    traffic.py big FLOW SIZE                  one UDP exchange in fragments
    traffic.py flood ADDRESS N                N UDP flows of one packet
    traffic.py discover FLOW SIZE             sends UDP with DF until the path says that SIZE is too much

A FLOW is tcp:ADDRESS:PORT, udp:ADDRESS:PORT or icmp:ADDRESS, an IPv6 address in brackets, with options behind commas:
sport=N, from=ADDRESS. A server answers each message with the peer's address as it sees it and the message itself, so a
flow whose translation changed under way is broken, as it would be for a real peer that knows its flows by address.

STATE is a JSON object, FLOW -> {"echoes": N, "gap": longest silence in seconds, "broken": reason or null}, replaced as a
whole. A lost message of a live UDP or ICMP flow is a silence, not a break: the next one is sent all the same.
"""

import json
import os
import re
import selectors
import signal
import socket
import struct
import sys
import time

EVERY = float(os.environ.get("TRAFFIC_EVERY", 0.05))  # seconds between two messages of a live flow
PATIENCE = 5.0  # seconds for one exchange
SPEC = re.compile(r"(?P<proto>tcp|udp|icmp):(?:\[(?P<six>[^]]+)\]|(?P<four>[^:,]+))(?::(?P<port>\d+))?(?P<rest>(?:,\w+=[^,]+)*)$")


class Flow:
    """One socket that exchanges messages with a server."""

    def __init__(self, spec):
        match = SPEC.match(spec)
        if not match:
            sys.exit(f"traffic.py: not a flow: {spec}")
        self.spec = spec
        self.proto = match["proto"]
        self.family = socket.AF_INET6 if match["six"] else socket.AF_INET
        self.address = (match["six"] or match["four"], int(match["port"] or 0))
        self.options = dict(item.split("=") for item in match["rest"].split(",") if item)
        self.sequence = 0
        self.echoes = 0
        self.gap = 0.0
        self.broken = None
        self.peer = None
        self.buffer = b""
        self.heard = time.monotonic()

    def open(self):
        if self.proto == "icmp":
            number = socket.IPPROTO_ICMPV6 if self.family == socket.AF_INET6 else socket.IPPROTO_ICMP
            self.sock = socket.socket(self.family, socket.SOCK_RAW, number)
            self.identifier = (os.getpid() * 7 + id(self)) & 0xFFFF
        else:
            self.sock = socket.socket(self.family, socket.SOCK_STREAM if self.proto == "tcp" else socket.SOCK_DGRAM)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if "sport" in self.options or "from" in self.options:
            any_address = "::" if self.family == socket.AF_INET6 else "0.0.0.0"
            self.sock.bind((self.options.get("from", any_address), int(self.options.get("sport", 0))))
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self.address)
        if self.proto == "tcp":
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.sendall(b"echo\n")
        return self

    def send(self):
        self.sequence += 1
        payload = b"message %d\n" % self.sequence
        if self.proto == "icmp":
            kind = 128 if self.family == socket.AF_INET6 else 8
            packet = struct.pack("!BBHHH", kind, 0, 0, self.identifier, self.sequence & 0xFFFF) + payload
            if self.family == socket.AF_INET:  # the kernel fills in the sum of ICMPv6 only
                packet = packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]
            self.sock.send(packet)
        else:
            self.sock.sendall(payload)

    def receive(self):
        """Reads what is there; notes echoes. The server's line is "ADDRESS PORT message N"."""
        data = self.sock.recv(65536)
        if self.proto == "icmp":
            if self.family == socket.AF_INET:
                data = data[(data[0] & 15) * 4:]
            kind, _, _, identifier, _ = struct.unpack("!BBHHH", data[:8])
            if kind in (0, 129) and identifier == self.identifier:
                self.note()
            return
        if not data and self.proto == "tcp":
            raise ConnectionError("closed by the other side")
        self.buffer += data
        while b"\n" in self.buffer:
            line, self.buffer = self.buffer.split(b"\n", 1)
            peer = line.split(b" message ")[0]
            if self.peer not in (None, peer):
                raise ConnectionError(f"the server saw {self.peer.decode()}, now {peer.decode()}")
            self.peer = peer
            self.note()

    def note(self):
        now = time.monotonic()
        if self.echoes:  # until the first answer neighbours are looked for
            self.gap = max(self.gap, now - self.heard)
        self.heard = now
        self.echoes += 1

    def fail(self, error):
        self.broken = str(error) or type(error).__name__

    def state(self):
        silence = time.monotonic() - self.heard if self.echoes else 0.0
        return {"echoes": self.echoes, "gap": round(max(self.gap, silence), 3), "broken": self.broken}


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def once(specs):
    status = 0
    for spec in specs:
        flow = Flow(spec)
        try:
            flow.open()
            for _ in range(3):  # enough to see replies on an established flow
                flow.send()
                wanted = flow.echoes + 1
                while flow.echoes < wanted:
                    flow.receive()
            print(f"ok {spec}", flush=True)
        except OSError as error:
            flow.fail(error)
            print(f"broken {spec}: {flow.broken}", flush=True)
            status = 1
    return status


def write_state(path, flows):
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump({flow.spec: flow.state() for flow in flows}, file)
    os.rename(path + ".new", path)


def live(path, specs):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    selector = selectors.DefaultSelector()
    flows = []
    for spec in specs:
        flow = Flow(spec)
        flows.append(flow)
        try:
            flow.open()
            flow.sock.setblocking(False)
            selector.register(flow.sock, selectors.EVENT_READ, flow)
        except OSError as error:
            flow.fail(error)
    while True:
        for flow in flows:
            if flow.broken is None:
                try:
                    flow.send()
                except BlockingIOError:
                    pass
                except OSError as error:
                    drop(selector, flow, error)
        until = time.monotonic() + EVERY
        while (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                try:
                    key.data.receive()
                except BlockingIOError:
                    pass
                except OSError as error:
                    drop(selector, key.data, error)
        write_state(path, flows)


def drop(selector, flow, error):
    # A UDP or ICMP socket reports errors of the path (unreachable): news for the state, but it can go on.
    if flow.proto != "tcp" and not isinstance(error, ConnectionError):
        return
    if flow.proto != "tcp" and isinstance(error, ConnectionRefusedError):
        return
    flow.fail(error)
    selector.unregister(flow.sock)


def serve_tcp(selector, sock):
    connection, peer = sock.accept()
    connection.setblocking(False)
    selector.register(connection, selectors.EVENT_READ, Session(selector, connection, peer))


class Session:
    """A TCP connection of the server. Its first line says what the client wants."""

    def __init__(self, selector, sock, peer):
        self.selector, self.sock, self.peer = selector, sock, peer
        self.buffer, self.mode, self.left = b"", None, 0

    def __call__(self, mask):
        try:
            self.write() if mask & selectors.EVENT_WRITE else self.read()
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def close(self):
        self.selector.unregister(self.sock)
        self.sock.close()

    def read(self):
        data = self.sock.recv(65536)
        if not data:
            return self.close()
        if self.mode == "recv":
            return self.take(len(data))
        self.buffer += data
        while b"\n" in self.buffer and self.mode != "recv":
            line, self.buffer = self.buffer.split(b"\n", 1)
            self.line(line)

    def line(self, line):
        if self.mode == "echo":
            self.sock.sendall(b"%s %d %s\n" % (self.peer[0].encode(), self.peer[1], line))
        elif line == b"echo":
            self.mode = "echo"
        else:
            self.mode, size = line.decode().split()
            self.left = int(size)
            if self.mode == "send":
                self.selector.modify(self.sock, selectors.EVENT_WRITE, self)
            else:
                self.take(len(self.buffer))

    def take(self, size):
        self.left -= size
        if self.left <= 0:
            self.sock.sendall(b"done\n")

    def write(self):
        self.left -= self.sock.send(b"x" * min(self.left, 65536))
        if self.left <= 0:
            self.close()


def serve_udp(sock):
    data, peer = sock.recvfrom(65536)
    sock.sendto(b"%s %d %s" % (peer[0].encode(), peer[1], data), peer)


def serve(ports):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    selector = selectors.DefaultSelector()
    for item in ports:
        proto, numbers = item.split(":")
        for port in numbers.split(","):
            # One socket for each family: an IPv4 peer keeps its own form of address, and its own path MTU.
            for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                sock = socket.socket(family, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((address, int(port)))
                if proto == "tcp":
                    sock.listen(128)
                    handler = lambda _, sock=sock: serve_tcp(selector, sock)
                else:
                    handler = lambda _, sock=sock: serve_udp(sock)
                selector.register(sock, selectors.EVENT_READ, handler)
    print("ready", flush=True)
    while True:
        for key, mask in selector.select():
            try:
                key.data(mask)
            except OSError:
                pass  # a peer that went away is the peer's business


def transfer(direction, spec, size):
    flow = Flow(spec)
    sock = socket.socket(flow.family, socket.SOCK_STREAM)
    sock.settimeout(PATIENCE * 2)
    sock.connect(flow.address)
    if direction == "upload":
        sock.sendall(b"recv %d\n" % size)
        left = size
        while left > 0:
            left -= sock.send(b"x" * min(left, 65536))
        if sock.recv(16) != b"done\n":
            raise ConnectionError("the server did not confirm")
    else:
        sock.sendall(b"send %d\n" % size)
        got = 0
        while data := sock.recv(65536):
            got += len(data)
        if got != size:
            raise ConnectionError(f"{got} of {size} bytes came")
    print(f"ok {direction} {spec} {size}")


IP_MTU_DISCOVER, IP_PMTUDISC_DO, IPV6_MTU_DISCOVER = 10, 2, 23  # include/uapi/linux/in.h, in6.h


def discover(spec, size):
    flow = Flow(spec).open()
    if flow.family == socket.AF_INET6:
        flow.sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_DO)
    else:
        flow.sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    flow.sock.settimeout(EVERY)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            flow.sock.send(b"x" * size)
            flow.sock.recv(65536)
            raise ConnectionError(f"{size} bytes went through")
        except TimeoutError:
            continue
        except OSError as error:
            if error.errno == 90:  # EMSGSIZE
                print(f"ok discover {spec} {size}")
                return
            raise
    raise TimeoutError("no error came from the path")


def big(spec, size):
    flow = Flow(spec).open()
    flow.sock.send(b"x" * size)
    got = len(flow.sock.recv(65536))
    if got < size:
        raise ConnectionError(f"{got} of {size} bytes came back")
    print(f"ok big {spec} {size}")


def flood(address, number):
    """One UDP datagram each to as many ports of ADDRESS, from as few ports as that takes."""
    sent = 0
    while sent < number:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for port in range(1, min(65535, number - sent) + 1):
                sock.sendto(b"x", (address, port))
                sent += 1


def main():
    command, *arguments = sys.argv[1:]
    try:
        if command == "serve":
            serve(arguments)
        elif command == "once":
            return once(arguments)
        elif command == "live":
            live(arguments[0], arguments[1:])
        elif command == "flood":
            flood(arguments[0], int(arguments[1]))
        elif command == "big":
            big(arguments[0], int(arguments[1]))
        elif command == "discover":
            discover(arguments[0], int(arguments[1]))
        else:
            transfer(command, arguments[0], int(arguments[1]))
    except OSError as error:
        print(f"broken {' '.join(sys.argv[1:])}: {error or type(error).__name__}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
