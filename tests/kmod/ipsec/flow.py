"""Traffic between a and b that tells what became of each datagram, without waiting for what will not come.

On one processor a datagram has reached its end, or died, before a later one has come back: so a *fence*, an exchange
that no policy concerns, tells that the wait for another is over.
"""

import errno
import select
import socket
import struct
import time

from ipsec import state
from kit import inside, yes

IP_RECVERR, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, IPV6_RECVERR = 11, 10, 23, 25
DONT, PROBE = 0, 3  # *_MTU_DISCOVER: never "don't fragment"; always, whatever is known of the path
DOMAIN = {4: socket.AF_INET, 6: socket.AF_INET6}
PATIENCE = 10.0


def udp(name, family, address, port):
    with inside(name):
        sock = socket.socket(DOMAIN[family], socket.SOCK_DGRAM)
    sock.bind((address, port))
    return sock


def comes(sock, wanted, patience):
    """Whether it comes; older ones are thrown away, and so is what they met."""
    while select.select([sock], [], [], patience)[0]:
        try:
            if sock.recv(65536) == wanted:
                return True
        except OSError as error:
            yes(error.errno not in (errno.EAGAIN, errno.EBADF), error)
            return False
    return False


class Fence:
    """An exchange that always succeeds, in ESP that a and b speak themselves.

    What they decrypt in transport mode waits in the one queue in which all namespaces' such packets wait.
    """

    SPIS = 0x9A, 0x9B

    def __init__(self, net, near, far, port=9):
        self.near, self.far, self.count = udp("a", 4, near, port), udp("b", 4, far, port), 0
        self.near.connect((far, port))
        self.far.connect((near, port))
        self.ways = (near, far), (far, near)
        self.up(net, "ab")

    def up(self, net, names):
        for name in names:
            for ends, spi, direction in zip(self.ways, self.SPIS, ("out", "in") if name == "a" else ("in", "out")):
                net.do(name, state.state(ends, spi, "transport", "null", 999, window=0),
                       state.policy(*ends, direction, state.template(ends, "transport", 999)))

    def __call__(self):
        self.count += 1
        data = b"%d" % self.count
        self.near.send(data)
        yes(comes(self.far, data, PATIENCE), "the fence is lost on its way to b")
        self.far.send(data)
        yes(comes(self.near, data, PATIENCE), "the fence is lost on its way to a")

    def close(self):
        self.near.close()
        self.far.close()


class Flow:
    """A connected UDP socket in a, another in b, and what happens between them."""

    count = 0

    def __init__(self, net, family, to, port=5000, fragment=False):
        self.family, self.to, self.fence = family, to, net.fence
        self.spis = None, None  # of the states by which it leaves r and comes back
        self.near = udp("a", family, net.a[family], 0)
        self.far = udp("b", family, to, port)
        self.near.connect((to, port))
        self.far.connect(self.near.getsockname())
        level, discover, report = ((socket.SOL_IP, IP_MTU_DISCOVER, IP_RECVERR) if family == 4 else
                                   (41, IPV6_MTU_DISCOVER, IPV6_RECVERR))
        for sock in (self.near, self.far):
            sock.setsockopt(level, discover, DONT if fragment else PROBE)
            sock.setsockopt(level, report, 1)

    def tuple(self):
        """Words for `client.py flow`."""
        (source, sport), (destination, dport) = self.near.getsockname()[:2], self.near.getpeername()[:2]
        return source, destination, 17, sport, dport

    def arrives(self, sender, receiver, data):
        try:
            sender.send(data)
        except OSError:  # what an ICMP error has left
            sender.send(data)
        if comes(receiver, data, 0):
            return True
        self.fence()
        self.fence()
        return comes(receiver, data, 0)

    def exchange(self, size=16):
        """How far a datagram of this size and its short answer got."""
        Flow.count += 1
        data = (b"%d " % Flow.count).ljust(size, b".")
        if not self.arrives(self.near, self.far, data):
            return "lost"
        return "ok" if self.arrives(self.far, self.near, data[:20]) else "unanswered"

    def late(self, wanted, patience=3.0):
        """How many datagrams came to b that nobody waited for; waits for so many."""
        end, count = time.monotonic() + patience, 0
        while count < wanted and select.select([self.far], [], [], max(0, end - time.monotonic()))[0]:
            self.far.recv(65536)
            count += 1
        return count

    def drain(self):
        """What came to b is not waited for."""
        comes(self.far, None, 0)

    def errors(self):
        """ICMP's, as they came to a and to b: (end, origin, type, code, info)."""
        return [("ab"[sock is self.far], *error) for sock in (self.near, self.far) for error in queued(sock)]

    def close(self):
        self.near.close()
        self.far.close()


def queued(sock):
    found = []
    while True:
        try:
            _, notes, _, _ = sock.recvmsg(65536, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return found
        for level, kind, note in notes:
            if (level, kind) in ((socket.SOL_IP, IP_RECVERR), (41, IPV6_RECVERR)):
                _, origin, what, code, info = struct.unpack_from("=IBBBxI", note)
                found.append((origin, what, code, info))
