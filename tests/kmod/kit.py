"""What the suites of nf_ctcache share: a network of three namespaces, traffic that counts what is lost, the module's words.

    a --ra-- r --rb-- b      a and b are hosts, r is the router with the cache; b has 10.0.9.0/24 and fd09::/64 to itself.
      --rd--   --rc--        r reaches those by rb (a second *way* is rc), a sends by ra (a second input is rd).

Everything runs in one process, which makes its sockets in whichever namespace it likes: an *exchange* is a datagram from a
that b has received and answered, in four system calls and without waiting for anybody. A flow tells by which of its devices
b received each datagram, so a test sees which way the router chose, whatever the module says. Traffic that must go on while
something else happens is the same exchange in a process of its own (Traffic).

Suites run as root in a machine that may break (tests/vm/run): $KMOD is nf_ctcache.ko, built with CTCACHE_TEST=1, $KMOD_late
that of selftest/. Each test is a function named test_*; a suite ends with kit.main().
"""

import contextlib
import ctypes
import errno
import mmap
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback

import client

CARRIER = os.environ.get("CARRIER", "act_ct")
PATIENCE = 5.0  # for an answer that must come
DEBUG = os.path.exists("/sys/kernel/debug/kmemleak")  # the kernel with all its checks, which takes its time
LIMIT = 600  # seconds for a test: it hangs, however slow the machine
CLONE_NEWNET = 0x40000000
SOL_IPV6, IP_PKTINFO, IPV6_RECVPKTINFO, IPV6_PKTINFO, IPV6_FREEBIND = 41, 8, 49, 50, 78
LINKS = {"ra": ("a", 1), "rb": ("b", 2), "rc": ("b", 3), "rd": ("a", 4)}  # device of r: the host behind, net
FAR = {4: "10.0.9.1", 6: "fd09::1"}
libc = ctypes.CDLL(None, use_errno=True)


class Skip(Exception):
    """This kernel or build cannot do what the test needs."""


def yes(condition, what):
    if not condition:
        raise AssertionError(what)


def same(got, wanted, what):
    if got != wanted:
        raise AssertionError(f"{what}: {got!r}, not {wanted!r}")


def refused(number, function, *words):
    """The text of the refusal; it must have this errno, and a text."""
    try:
        function(*words)
    except client.Refused as error:
        same(errno.errorcode[error.errno], errno.errorcode[number], f"errno ({error})")
        return str(error).partition(": ")[2]
    raise AssertionError(f"not refused: {words}")


def wait_until(condition, what, seconds=60.0):
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain for {what() if callable(what) else what}")
        select.select([], [], [], 0.01)
    return value


# --- programs, files, namespaces ---

def run(*command, text=None, check=True):
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done


def setns(fd):
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def inside(name):
    """In the namespace of that name: sockets made here stay there."""
    here, there = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        setns(there)
        yield
    finally:
        setns(here)
        os.close(here)
        os.close(there)


def ip(name, lines, check=True):
    """Commands of ip(8), one a line, in a namespace; those that begin with -6 come last."""
    six = [line[3:] for line in lines.splitlines() if line.startswith("-6 ")]
    rest = [line for line in lines.splitlines() if not line.startswith("-6 ")]
    for words, batch in ((["ip"], rest), (["ip", "-6"], six)):
        if batch:
            done = run(*words, "-n", name, "-batch", "-", text="\n".join(batch) + "\n", check=check)
    return done


def nft(name, text, check=True):
    with inside(name):
        return run("nft", "-f", "-", text=text, check=check)


def sysctl(name, **values):
    """Dots of a sysctl's name are written as two underscores."""
    with inside(name):
        for key, value in values.items():
            with open("/proc/sys/net/" + key.replace("__", "/"), "w") as file:
                file.write(str(value))


def conntrack(name, *words):
    with inside(name):
        return run("conntrack", *words, check=False).stdout


def ctc(*words, name="r"):
    """A command of client.py in a namespace: its answers."""
    with inside(name):
        answers = [client.MESSAGE(answer) for answer in client.run([str(word) for word in words])]
    return answers if words[0] in ("zones", "flows", "decisions") else answers[0] if answers else None


def loaded(module="nf_ctcache"):
    return os.path.exists(f"/sys/module/{module}")


def load():
    if not loaded():
        run("modprobe", "nf_conntrack")
        run("insmod", os.environ["KMOD"])


def unload():
    if loaded():
        run("rmmod", "nf_ctcache")


# --- the network ---

class Net:
    """The namespaces; gone when the `with` ends."""

    def __init__(self, carrier=None, config=(), conntracked=True):
        self.carrier = carrier or CARRIER
        self.config_words = config
        self.conntracked = conntracked

    def __enter__(self):
        lines = [f"netns add {name}" for name in "arb"]
        hosts = {name: ["link set lo up"] for name in "arb"}
        for device, (host, number) in LINKS.items():
            lines.append(f"link add {device} netns r type veth peer name {device} netns {host}")
            for name, last in (("r", 1), (host, 2)):
                hosts[name] += [f"link set {device} addrgenmode none", f"addr add 10.0.{number}.{last}/24 dev {device}",
                                f"addr add fd0{number}::{last}/64 dev {device} nodad",
                                f"addr add fe80::{last}/64 dev {device} nodad", f"link set {device} up"]
        hosts["a"] += ["route add default via 10.0.1.1", "route add default via fd01::1"]
        hosts["b"] += ["route add default via 10.0.2.1", "route add default via fd02::1",
                       "route add local 10.0.9.0/24 dev lo", "route add local fd09::/64 dev lo"]
        hosts["r"] += ["route add 10.0.9.0/24 via 10.0.2.2", "route add fd09::/64 via fd02::2"]
        self.__exit__()
        run("ip", "-batch", "-", text="\n".join(lines) + "\n")
        for name, commands in hosts.items():
            ip(name, "\n".join(commands))
        sysctl("r", ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        for name in "ab":
            sysctl(name, ipv6__auto_flowlabels=0)  # routes with next hop objects are not cached for packets with labels
        if self.conntracked:
            nft("r", "table inet t { chain f { type filter hook forward priority 0; ct state established accept; }; }")
        # A carrier is told of late, and begins an epoch.
        wait_until(lambda: len(re.findall("^r.@.* UP ", run("ip", "-n", "r", "-br", "link").stdout, re.M)) == len(LINKS), "carriers")
        if self.carrier != "none":
            self.config(*self.config_words)
        return self

    def __exit__(self, *_):
        names = [name for name in "arb" if os.path.exists(f"/run/netns/{name}")]
        if names:
            run("ip", "-batch", "-", text="".join(f"netns del {name}\n" for name in names))

    def config(self, *words):
        return ctc("config", self.carrier, *words)

    def flow(self, family=4, **options):
        return Flow(family, **options)

    def flows(self):
        """One of each family, which hit in both directions."""
        flows = [self.flow(family).settle() for family in (4, 6)]
        return [flow.settle() for flow in flows]

    def way(self, device, family=None):
        """Sends what is for b's own addresses by this device of r."""
        number = LINKS[device][1]
        lines = {4: f"route replace 10.0.9.0/24 via 10.0.{number}.2", 6: f"route replace fd09::/64 via fd0{number}::2"}
        ip("r", "\n".join(line for key, line in lines.items() if family in (None, key)))


class Peer:
    """A flow's other end: answers from the address that was asked, and tells by which device it was asked."""

    def __init__(self, family, name, port):
        self.family = family
        with inside(name):
            self.devices = dict(socket.if_nameindex())
            self.sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        if family == 4:
            self.sock.setsockopt(socket.SOL_IP, IP_PKTINFO, 1)
        else:
            self.sock.setsockopt(SOL_IPV6, IPV6_RECVPKTINFO, 1)
            self.sock.setsockopt(SOL_IPV6, IPV6_FREEBIND, 1)  # answers from any address of its /64
        self.sock.bind(("", port))
        self.port = self.sock.getsockname()[1]

    def answer(self, wanted, patience):
        """Answers the datagram `wanted` and returns the device that it came by; None when it did not come."""
        end = time.monotonic() + patience
        while True:
            if not select.select([self.sock], [], [], max(0, end - time.monotonic()))[0]:
                return None
            data, notes, _, peer = self.sock.recvmsg(65536, 256)
            if data != wanted:
                continue  # late: of an exchange that was given up
            for _, kind, note in notes:
                if self.family == 4 and kind == IP_PKTINFO:
                    index, address = struct.unpack("=i4x4s", note[:12])
                    reply = (socket.SOL_IP, IP_PKTINFO, struct.pack("=i4s4x", 0, address))
                elif self.family == 6 and kind == IPV6_PKTINFO:
                    address, index = struct.unpack("=16si", note)
                    reply = (SOL_IPV6, IPV6_PKTINFO, struct.pack("=16si", address, 0))
            try:
                self.sock.sendmsg([data], [reply], 0, peer)
            except OSError:
                pass  # no way back: the asking end will miss it
            return self.devices.get(index, index)


class Flow:
    """A UDP socket of a, its peer in b, and their exchanges.

    One that is not connected sends packets without a hash of their own, as they come from a wire.
    """

    count = 0

    def __init__(self, family, to=None, at="b", port=0, source=None, connected=True):
        self.family, self.lost, self.sent, self.connected = family, 0, 0, connected
        self.to = to or FAR[family]
        self.peer = Peer(family, at, port)
        with inside("a"):
            self.sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        self.sock.bind((source or "", 0))
        if connected:
            self.sock.connect((self.to, self.peer.port))
        Flow.count += 1
        self.head = b"%d." % Flow.count

    def close(self):
        self.sock.close()
        self.peer.sock.close()

    def tuple(self):
        """Words for `client.py flow`."""
        (source, sport), (destination, dport) = self.sock.getsockname()[:2], self.sock.getpeername()[:2]
        return source, destination, 17, sport, dport

    def descriptor(self, *words, name="r"):
        return ctc("flow", *self.tuple(), *words, name=name)["flow"]

    def exchange(self, patience=PATIENCE, size=0):
        """The device by which b got it, or None when it or the answer was lost."""
        self.sent += 1
        data = b"%s%d " % (self.head, self.sent) + bytes(size)
        way = answered = self.error = None
        try:
            self.sock.send(data) if self.connected else self.sock.sendto(data, (self.to, self.peer.port))
            way = self.peer.answer(data, patience)
            while way and not answered and select.select([self.sock], [], [], patience)[0]:
                answered = self.sock.recv(65536) == data
        except OSError as error:  # of ICMP, or the host's own
            self.error = error
        if not answered:
            self.lost += 1
            return None
        return way

    def go(self, number=10, **options):
        return [self.exchange(**options) for _ in range(number)]

    def via(self, device, number=5, **options):
        """All exchanges must succeed by this device."""
        same(self.go(number, **options), [device] * number, f"ways of IPv{self.family} to {self.to}")
        return self

    def settle(self, hits=True):
        """Until neighbours are found, both directions are established and, unless they cannot, hit."""
        ways = self.go(4)
        yes(None not in ways[1:], f"IPv{self.family} to {self.to} does not get through: {ways}")
        if hits:
            wait_until(self.hits, lambda: f"hits of IPv{self.family} to {self.to}, but {self.gains()}")
        self.lost = 0
        return self

    def gains(self, number=5):
        """What the counters gain by so many exchanges."""
        delta = Delta()
        self.go(number)
        return delta.all()

    def hits(self, number=2, directions=2):
        """Whether every packet of these exchanges is a hit."""
        delta = Delta()
        return None not in self.go(number) and delta.hits == number * directions


class Stream:
    """A TCP connection from a to b, with exchanges of a byte."""

    def __init__(self, family=4, to=None, name="a", peer="b", port=0):
        domain = socket.AF_INET if family == 4 else socket.AF_INET6
        with inside(peer):
            listener = socket.socket(domain, socket.SOCK_STREAM)
            listener.bind(("", port))
            listener.listen()
        with inside(name):
            self.sock = socket.socket(domain, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect((to or FAR[family], listener.getsockname()[1]))
        self.other = listener.accept()[0]
        self.other.settimeout(PATIENCE)

    def go(self, number=10):
        for _ in range(number):
            for one, two in ((self.sock, self.other), (self.other, self.sock)):
                one.send(b"x")
                same(two.recv(1), b"x", "a byte by TCP")


class Traffic:
    """Exchanges in a process of its own, as fast as it can or one every `pace` seconds, until stop()."""

    RECORD = struct.Struct("=dbb6x")  # when it was sent; flow; 0: lost, or 1 + index in ways
    ROOM = 400_000

    def __init__(self, flows, cpu=None, pace=0.0, patience=PATIENCE):
        self.flows, self.ways = flows, sorted(LINKS) + ["?"]
        self.memory = mmap.mmap(-1, 16 + self.ROOM * self.RECORD.size)
        self.child = os.fork()
        if not self.child:
            status = 1
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                if cpu is not None:
                    os.sched_setaffinity(0, {cpu})
                self.loop(pace, patience)
                status = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        wait_until(lambda: self.sent() >= 2 * len(flows), "the first exchanges")

    def loop(self, pace, patience):
        sent = 0
        while not self.memory[8] and sent < self.ROOM:
            index = sent % len(self.flows)
            began = time.monotonic()
            way = self.flows[index].exchange(patience)
            if way is None:
                self.tell_of_loss(self.flows[index], began)
            code = 0 if way is None else 1 + (self.ways.index(way) if way in self.ways else len(self.ways) - 1)
            self.RECORD.pack_into(self.memory, 16 + sent * self.RECORD.size, began, index, code)
            sent += 1
            struct.pack_into("=q", self.memory, 0, sent)
            if pace:
                time.sleep(pace)

    def tell_of_loss(self, flow, began):
        """Said at once, on standard error, though it may be what the test expects: later nobody knows."""
        neighbours = [run("ip", "-n", name, f"-{flow.family}", "neigh").stdout for name in "arb"]
        print(f"lost: IPv{flow.family} to {flow.to} at {began:.3f}, {time.monotonic() - began:.3f} s, {flow.error},", *neighbours,
              sep="\n", file=sys.stderr, flush=True)

    def sent(self):
        return struct.unpack_from("=q", self.memory)[0]

    def more(self, number):
        """Waits until so many more exchanges were made."""
        goal = self.sent() + number
        wait_until(lambda: self.sent() >= goal, f"{number} more exchanges", 60)

    def stop(self):
        """[(when, flow, way or None)]"""
        self.memory[8] = 1
        _, status = os.waitpid(self.child, 0)
        self.child = 0
        same(status, 0, "exit status of the traffic")
        records = (self.RECORD.unpack_from(self.memory, 16 + i * self.RECORD.size) for i in range(self.sent()))
        return [(when, flow, self.ways[code - 1] if code else None) for when, flow, code in records]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child:
            self.memory[8] = 1
            os.waitpid(self.child, 0)


# --- what the module says ---

class Delta:
    """What the counters gained since it was made."""

    def __init__(self, name="r"):
        self.name = name
        self.before = self.read()

    def read(self):
        answer = ctc("stats", name=self.name)
        values = dict(answer["stats"])
        values.update({f"miss_{key}": value for key, value in answer["misses"].items()})
        values.update({f"epoch_{key}": value for key, value in answer["epochs"].items()})
        return values

    def __getattr__(self, key):
        return self.read()[key] - self.before[key]

    def all(self):
        now = self.read()
        return {key: value - self.before[key] for key, value in now.items() if value != self.before[key]}


def gained(wanted, action):
    """The action's effect on the counters is exactly this; not at the first try, if a link that came up told it late."""
    for attempt in range(3):
        delta = Delta()
        action()
        got = delta.all()
        if got == wanted:
            return
    same(got, wanted, "gained by the counters")


def stat(key, name="r"):
    return Delta(name).before[key]


def state(name="r"):
    return ctc("get", name=name)["state"]


def hits_none(flow, number=5, **counted):
    """No packet of these exchanges is a hit, none is lost, and the counters gain at least as much as is told."""
    delta, lost = Delta(), flow.lost
    flow.go(number)
    same((flow.lost - lost, delta.hits), (0, 0), f"lost, hits of IPv{flow.family}; {delta.all()}")
    for key, value in counted.items():
        yes(getattr(delta, key) >= value, f"{key} of IPv{flow.family}: not {value}; {delta.all()}")


# --- running ---

def one(test):
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError(f"not done in {LIMIT} s")))
    signal.alarm(LIMIT)
    try:
        test()
        return "PASS", ""
    except Skip as reason:
        return "SKIP", f": {reason}"
    except Exception:
        return "FAIL", "\n" + "".join(f"     {line}\n" for line in traceback.format_exc().splitlines())
    finally:
        signal.alarm(0)


def main():
    suite = os.path.basename(sys.argv[0]).removesuffix(".py")
    module = sys.modules["__main__"]
    names = sys.argv[1:] or [name for name in vars(module) if name.startswith("test_")]
    failed = False
    for name in names:
        load()
        began = time.monotonic()
        verdict, text = one(getattr(module, name if name.startswith("test_") else f"test_{name}"))
        print(f"{verdict} kmod/{suite}/{name.removeprefix('test_')} ({(time.monotonic() - began) * 1000:.0f} ms){text}".rstrip(),
              flush=True)
        failed |= verdict == "FAIL"
        Net().__exit__()
    verdict, text = one(unload)
    print(f"{verdict} kmod/{suite}/unload{text}".rstrip(), flush=True)
    sys.exit(failed or verdict == "FAIL")
