"""Programs on the router that come and go under flows to them: which socket gets a packet, and what rules see of it.

The rules of `seen` see a packet's socket where the stack has found it before the route (meta skuid), and where they look
for themselves (socket transparent).
"""

import ctypes
import socket
import struct

from ..case import case
from ..flow import Flow
from ..namespace import Namespace
from ..packet import ACK, FIN, RST, SYN
from ..tools import Ip
from .devices import vrf_of
from .forwarding import VERSIONS
from .local import SOCKET_FAMILY, queue_in
from .routing import LENGTH, again

SO_ATTACH_REUSEPORT_CBPF = 51
ODD_OR_EVEN = struct.pack("=HBBIHBBIHBBI", 0x30, 0, 0, 0, 0x54, 0, 0, 1, 0x16, 0, 0, 0)  # ldb [0]; and #1; ret a
NOWHERE = {4: "198.51.100.0/24", 6: "2001:db8:1::/48"}


class Program:
    """A UDP socket in the router; what it gets is recorded and answered. `peer`: connected to it. `group`: of SO_REUSEPORT,
    whose members share a name where the kernel chooses by a hash. `where`: in this namespace instead. A pump."""

    def __init__(self, net, version, name, address="", port=5000, device=None, peer=None, group=False, answers=True,
                 where=None):
        self.net, self.name, self.answers = net, name, answers
        with where or net.router:
            self.socket = socket.socket(SOCKET_FAMILY[version], socket.SOCK_DGRAM)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if group else socket.SO_REUSEADDR, 1)
            if device:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            self.socket.bind((address, port))
            if peer:
                self.socket.connect(peer)
        net.pumps.append(self)

    def choose(self, code):
        """The program that chooses the member of the group."""
        memory = ctypes.create_string_buffer(code, len(code))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF,
                               struct.pack("HP", len(code) // 8, ctypes.addressof(memory)))
        return self

    def __call__(self):
        try:
            data, sender = self.socket.recvfrom(65536, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionRefusedError):
            return False
        self.net.note(self.name, f"{data!r} from {sender[:2]}")
        if self.answers:
            self.socket.sendto(b"echo of " + data, sender)
        return True

    def close(self):
        if self in self.net.pumps:
            self.net.pumps.remove(self)
        self.socket.close()


def seen(net):
    net.chain("inet seen", "input", 0, "udp dport 5000 meta skuid 0 counter", "udp dport 5000 counter")


def refresh(net, version):
    """Whatever flows remember is forgotten."""
    net.ip(f"route add blackhole {NOWHERE[version]}", f"route del blackhole {NOWHERE[version]}")


@case()
def udp_sockets(net):
    """An unconnected socket, and connected, narrower and bound ones that come before it; closed, and opened again."""
    a, b = net.build("ab")
    seen(net)
    for version in VERSIONS:
        here = a.router[version]
        anyone = Program(net, version, "anyone")
        flows = [Flow(net, a, here, sport=port).warm() for port in (4000, 4001)]
        again(net, *flows)
        for options in ({"address": here, "peer": (a.address[version], 4000)}, {"address": here}, {"device": "ra"},
                        {"device": "rb"}):
            for forgotten in (False, True):
                special = Program(net, version, f"{options}", **options)
                if forgotten:
                    refresh(net, version)
                again(net, *flows)
                special.close()
                again(net, *flows)
        anyone.close()
        again(net, *flows)
        anyone = Program(net, version, "anyone again")
        again(net, *flows)
        for early in (0, 1):
            net.sysctl("net.ipv4.udp_early_demux", early)
            again(net, *flows)
        anyone.close()


@case()
def udp_matched(net):
    """Rules that look for the socket themselves."""
    a, b = net.build("ab")
    net.chain("inet seen", "prerouting", -150, "udp dport 5000 socket transparent 0 counter", "udp dport 5000 socket wildcard 0 counter")
    for version in VERSIONS:
        anyone = Program(net, version, "anyone")
        flow = Flow(net, a, a.router[version]).warm()
        again(net, flow)
        connected = Program(net, version, "connected", a.router[version], peer=(a.address[version], 4000))
        again(net, flow)
        connected.close()
        anyone.close()
        again(net, flow)


@case()
def udp_opened_here(net):
    """Flows that a socket of the router opens."""
    a, b = net.build("ab")
    seen(net)
    for version in VERSIONS:
        for name, port, peer in (("unconnected", 5000, None), ("connected", 5001, (a.address[version], 4000))):
            opener = Program(net, version, name, port=port, peer=peer)
            opener.socket.sendto(b"hello", (a.address[version], 4000))
            net.collect("it opens the flow")
            flow = Flow(net, a, a.router[version], dport=port)
            flow.forth(6)
            again(net, flow)
            opener.close()
            flow.forth(2)


@case()
def udp_group(net):
    """SO_REUSEPORT, where a program chooses the socket by what is in the packet, or the kernel by a hash."""
    a, b = net.build("ab")
    for version in VERSIONS:
        for chosen in (True, False):
            group = [Program(net, version, f"member {number}" if chosen else "a member", group=True) for number in range(2)]
            if chosen:
                group[0].choose(ODD_OR_EVEN)
            flows = [Flow(net, a, a.router[version], sport=port).warm() for port in (4000, 4001)]
            again(net, *flows)
            for flow in flows:
                flow.forth(data=b"0 is even")
                flow.forth(data=b"1 is odd")
            group[0].close()
            again(net, *flows)
            group[1].close()


@case(needs=["vrf"])
def udp_vrf(net):
    """Sockets of a VRF, of its port, and of none, which hears VRFs by a sysctl; the latter cannot answer."""
    a, b = net.build("ab")
    seen(net)
    vrf_of(net, "red", 100, a, b)
    for version in VERSIONS:
        flow = Flow(net, a, a.router[version])
        for device, peer in (("red", None), ("ra", (a.address[version], 4000)), (None, None)):
            net.sysctl("net.ipv4.udp_l3mdev_accept", int(not device))
            program = Program(net, version, f"of {device}", a.router[version] if peer else "", device=device, peer=peer,
                              answers=device == "red")
            flow.forth(4)
            again(net, flow)
            program.close()


@case()
def udp_elsewhere(net):
    """Another namespace has the router's address, and sockets on it that would be found first here."""
    a, b = net.build("ab")
    seen(net)
    elsewhere = Namespace()
    lines = [f"addr add {address}/{LENGTH[version]} dev lo" for version, address in a.router.items()]
    ip = Ip(elsewhere)
    ip("link set lo up", *lines, *(f"route add {a.address[version]} dev lo" for version in VERSIONS))
    ip.close()
    for version in VERSIONS:
        here, peer = a.router[version], (a.address[version], 4000)
        programs = [Program(net, version, "ours", here)]
        flow = Flow(net, a, here).warm()
        for name, where, options in (("theirs", elsewhere, {}), ("theirs, connected", elsewhere, {"peer": peer}),
                                     ("ours, connected", None, {"peer": peer})):
            programs.append(Program(net, version, name, here, where=where, **options))
            for forgotten in (False, True):
                if forgotten:
                    refresh(net, version)
                again(net, flow)
        for program in reversed(programs):
            again(net, flow)
            program.close()
    elsewhere.close()


@case()
def udp_queued(net):
    """What a connected socket receives waits in NFQUEUE before it gets there."""
    a, b = net.build("ab")
    for version in VERSIONS:
        connected = Program(net, version, "connected", a.router[version], peer=(a.address[version], 4000))
        flow = Flow(net, a, a.router[version]).warm()
        queue_in(net, "input", 0, version)
        flow.forth(6)
        net.nft(f"delete table inet queue{version}")
        again(net, flow)
        connected.close()
        again(net, flow)


class Connection:
    """A TCP connection of a host to a program on the router, which listens on `device`."""

    def __init__(self, net, host, version, device=None):
        self.net = net
        with net.router:
            self.listener = socket.socket(SOCKET_FAMILY[version], socket.SOCK_STREAM)
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if device:
                self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            self.listener.bind(("", 5000))
            self.listener.listen()
        self.flow = Flow(net, host, host.router[version], "tcp")

    def open(self):
        answer = self.flow.forth(data=b"", flags=SYN)
        self.flow.sequence[1] = int.from_bytes(answer[0][1].data[4:8], "big") + 1
        self.flow.forth(data=b"")
        self.socket, _ = self.listener.accept()

    def ask(self, count=1):
        for _ in range(count):
            self.flow.forth(data=b"a request ")
            self.net.note("accepted", repr(self.socket.recv(100)))

    def reset(self):
        self.flow.forth(data=b"", flags=RST | ACK)
        self.socket.close()
        self.listener.close()


def unhurried(net, host, *more):
    """Nothing by a clock: every segment is acknowledged at once, and none is sent again."""
    net.ip(*(f"route add {host.address[version]} dev {device} rto_min 60s quickack 1 {table}" for version in VERSIONS
             for device, table in (("ra", ""), *more)))


@case()
def tcp_sockets(net):
    """Connections that stay, while early demultiplexing, routes and rules change; another one on the same ports."""
    a, b = net.build("ab")
    net.chain("inet seen", "input", 0, "tcp dport 5000 meta skuid 0 counter", "tcp dport 5000 counter")
    unhurried(net, a)
    for version in VERSIONS:
        for _ in range(2):
            connection = Connection(net, a, version)
            connection.open()
            connection.ask(6)
            for name in ("tcp_early_demux", "ip_early_demux"):
                for early in (0, 1):
                    net.sysctl(f"net.ipv4.{name}", early)
                    connection.ask(4)
            refresh(net, version)
            connection.ask(4)
            net.chain("inet match", "prerouting", -150, "tcp dport 5000 socket transparent 0 counter")
            connection.ask(3)
            net.nft("delete table inet match")
            connection.ask(3)
            connection.reset()
            net.first_sequence.clear()


@case(needs=["vrf"])
def tcp_vrf(net):
    """Connections to programs of a VRF, and of none, which hears VRFs by a sysctl."""
    a, b = net.build("ab")
    vrf_of(net, "red", 100, a, b)
    unhurried(net, a, ("ra", "table 100"))
    for version in VERSIONS:
        for device in ("red", None):
            net.sysctl("net.ipv4.tcp_l3mdev_accept", int(not device))
            connection = Connection(net, a, version, device)
            connection.open()
            connection.ask(6)
            refresh(net, version)
            connection.ask(4)
            connection.reset()
            net.first_sequence.clear()


@case()
def tcp_again(net):
    """A connection's own end after the other: TIME_WAIT, what comes late, the same ports again, SYN cookies."""
    a, b = net.build("ab")
    net.chain("inet seen", "input", 0, "tcp dport 5000 meta skuid 0 counter", "tcp dport 5000 counter")
    unhurried(net, a)
    for version in VERSIONS:
        connection = Connection(net, a, version)
        flow = connection.flow
        for cookies in (1, 2):
            net.sysctl("net.ipv4.tcp_syncookies", cookies)
            net.first_sequence.clear()
            connection.open()
            connection.ask(4)
            refresh(net, version)
            connection.ask()
            connection.socket.close()
            net.collect("the program closes")
            flow.sequence[1] += 1
            flow.forth(data=b"", flags=FIN | ACK)
            flow.forth(2, data=b"")
            flow.forth(data=b"late")
            flow.sequence[0] += 100000
        connection.reset()
