"""One router among hosts that are no more than the ends of their wires.

The router is a namespace with an IP stack. A host is a veth's other end in a second namespace, which has no stack: what
a host sends is what a case has made, and what reaches it is recorded and answered by nobody. Names, numbers, hardware
addresses and neighbours are fixed, so two runs can only differ by what the router does.

Nothing waits for a time. All of it runs on one CPU, whose queue of received frames is first in, first out; so a frame
of our own that has come through says that all before it have. `send` puts one behind the packets on their way in, and
the router puts one behind what it sends out of every port.
"""

import ctypes
import fcntl
import os
import re
import socket
import struct
import time
from pathlib import Path

from .cache import PATIENCE, Cache
from .namespace import Namespace, check, libc, write_sysctl, write_sysfs
from .packet import ESP, ETHERTYPE, FRAGMENT, ICMP, TCP, Packet, ether, unpacked
from .tools import Failed, Ip, Nft

ETH_P_ALL, ETH_P_FENCE = 3, 0x88B5
SOL_PACKET, PACKET_IGNORE_OUTGOING, SO_ATTACH_FILTER, SO_RCVBUFFORCE = 263, 23, 26, 33
RECEIVE_BYTES = 4 << 20  # a datagram in fragments of 16 bytes takes hundreds of them
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
SIOCETHTOOL, ETHTOOL_STSO, ETHTOOL_SGRO = 0x8946, 0x1F, 0x2C
IFA_F_TENTATIVE = 0x40

ENDS_SYSCTLS = {"net.ipv6.conf.default.disable_ipv6": 1, "net.ipv6.conf.all.disable_ipv6": 1}
ROUTER_SYSCTLS = {
    "net.ipv4.ip_forward": 1,
    "net.ipv6.conf.all.forwarding": 1,
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.default.dad_transmits": 0,
    "net.ipv6.conf.default.addr_gen_mode": 1,  # no link-local addresses: they come when they like
    "net.ipv6.auto_flowlabels": 0,
    "net.ipv4.icmp_ratemask": 0,
    "net.ipv6.icmp.ratelimit": 0,
    "net.ipv4.icmp_msgs_per_sec": 1000000,
    "net.ipv4.icmp_msgs_burst": 1000000,  # which are IPv6's as well
    "net.ipv4.conf.all.send_redirects": 0,  # there is a limit on them
    "net.ipv4.conf.default.send_redirects": 0,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.netfilter.nf_conntrack_acct": 1,
}
# Of the whole machine: errors about routes that say no have a limit of their own.
MACHINE_SYSCTLS = {"net.ipv4.route.error_cost": 0}
# The router's own reports as a listener, sent by a timer, end before a policy could have them wrapped.
LISTENERS = """chain listeners { type filter hook output priority -400;
icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report } drop; }
"""
# What conntrack tracks (not: multicast listeners) is counted wherever it passes. This is also what makes conntrack work
# at all in the namespace.
COUNTERS = "table inet count {\n" + "".join(
    f"chain {hook} {{ type filter hook {hook} priority {priority}; "
    "ct state established counter; ct state new counter; ct state related counter; ct state invalid counter; }\n"
    for hook, priority in (("prerouting", -150), ("input", 10), ("forward", 10), ("output", 10), ("postrouting", 90))
) + LISTENERS + "}"


class Host:
    """The end of a wire, and the router's port on the other side."""

    def __init__(self, name, number, net):
        self.name, self.port = name, "r" + name
        self.mac, self.gateway = f"02:00:00:00:{number:02x}:02", f"02:00:00:00:{number:02x}:01"
        self.address = {4: f"10.0.{net}.2", 6: f"fd00:{net}::2"}
        self.router = {4: f"10.0.{net}.1", 6: f"fd00:{net}::1"}
        self.up = True

    def open(self, network):
        self.wire = self.packet_socket(self.name)
        with network.router:
            self.inside = self.packet_socket(self.port, fence_only=True)

    def neighbours(self, verb, device=None):
        """What tells the router who the host is, so that it never asks."""
        return [f"neigh {verb} {address} lladdr {self.mac} dev {device or self.port} nud permanent"
                for address in self.address.values()]

    def revive(self):
        """The wire works again; its sockets still have the news that it did not."""
        self.up = True
        for opened in (self.wire, self.inside):
            opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    @staticmethod
    def packet_socket(interface, fence_only=False):
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        if fence_only:  # ldh [12]; jeq #0x88b5; ret all; ret none
            code = struct.pack("=" + "HBBI" * 4, 0x28, 0, 0, 12, 0x15, 0, 1, ETH_P_FENCE, 6, 0, 0, 0xFFFF, 6, 0, 0, 0)
            program = ctypes.create_string_buffer(code, len(code))
            opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 4, ctypes.addressof(program)))
        opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
        opened.bind((interface, ETH_P_ALL))
        opened.settimeout(PATIENCE)
        return opened

    def fence(self, way_in, number):
        """What has arrived at the other side before our frame of this number."""
        sender, receiver = (self.wire, self.inside) if way_in else (self.inside, self.wire)
        source, destination = (self.mac, self.gateway) if way_in else (self.gateway, self.mac)
        mine = ether(source, destination, ETH_P_FENCE, struct.pack("!Q", number) + bytes(40))
        try:
            sender.send(mine)
        except OSError as error:
            raise Failed(f"{self.name}: {error}") from error
        arrived = []
        while True:
            try:
                frame = receiver.recv(65536)
            except TimeoutError:
                raise Failed(f"{self.name}: {'the router' if way_in else 'the host'} got no fence") from None
            if frame == mine:
                return arrived
            if frame[12:14] != mine[12:14]:
                arrived.append(frame)


class Step:
    """What was done (a text, or frames that were sent), and what came of it: [(host's name, frame)], or a text."""

    def __init__(self, what, outcome):
        self.what, self.outcome = what, outcome

    def __str__(self):
        if isinstance(self.what, str):
            return self.what
        return "; ".join(f"{name} sends {Packet(frame)}" for name, frame in self.what)


class Network:
    """The topology of one run of a case, and its recording."""

    def __init__(self, mode):
        self.home, self.ends, self.router = os.open("/proc/self/ns/net", os.O_RDONLY), Namespace(), Namespace()
        check(libc.setns(self.ends.fd, 0))
        self.hosts, self.steps, self.pumps, self.own, self.fences = {}, [], [], set(), 0
        self.first_sequence, self.idents = {}, {}
        for name, value in ENDS_SYSCTLS.items():
            write_sysctl(name, value)
        with self.router:
            for name, value in ROUTER_SYSCTLS.items():
                write_sysctl(name, value)
            self.tools = self.run_ip, self.run_ip6, self.run_nft = Ip(self.router, "-details"), Ip(self.router, "-6"), Nft()
            self.run_nft(COUNTERS)
        self.mode, self.cache = mode, None

    # --- setting up ---

    def build(self, names, same=0):
        """Hosts a, b ..., each in a network of its own. With `same` networks begin anew after so many."""
        found = [Host(name, number + 1, (number % same if same else number) + 1) for number, name in enumerate(names)]
        lines = ["link set lo up"]
        for host in found:
            peer = f"peer name {host.name} address {host.mac} netns {os.getpid()}"
            lines += [f"link add dev {host.port} address {host.gateway} type veth {peer}",
                      f"link set dev {host.port} up",
                      f"addr add {host.router[4]}/24 dev {host.port}",
                      f"addr add {host.router[6]}/64 dev {host.port} nodad"]
            self.own |= set(host.router.values())
        self.run_ip(*lines)
        for host in found:
            set_up(host.name, True)
        for host in found:
            self.wait(f"{host.port} to run", lambda host=host: self.runs(host.port))
        self.wait("IPv6 addresses", self.addresses_ready)
        self.run_ip(*(line for host in found for line in host.neighbours("add")))
        for host in found:
            host.open(self)
            self.hosts[host.name] = host
        with self.router:
            self.cache = Cache(self.mode)
        return found

    def runs(self, port):
        """Whether the port is up and has its carrier, as the whole stack has been told: the carrier comes first, and until
        the news has gone round (linkwatch_do_dev, net/core/link_watch.c) the port drops all that it is to send, and says
        to nobody that it does. The flags do not tell: a new port runs by them until the first news of it. Whoever asks
        for a link waits for the end of news that are under way."""
        return " state UP " in self.run_ip(f"link show dev {port}")

    def addresses_ready(self):
        with self.router, open("/proc/net/if_inet6", encoding="ascii") as file:
            return not any(int(line.split()[4], 16) & IFA_F_TENTATIVE for line in file)

    @staticmethod
    def wait(what, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise Failed(f"waited in vain for {what}")
            time.sleep(0.001)

    # --- changing ---

    def change(self, act):
        with self.router:
            before = self.cache.epochs()
        act()
        with self.router:
            self.cache.changed(before)

    def ip(self, *lines):
        """iproute2's commands in the router; the family is that of their addresses."""
        self.change(lambda: self.run_ip(*lines))

    def ip6(self, *lines):
        """The same for IPv6, if there are no addresses."""
        self.change(lambda: self.run_ip6(*lines))

    def family(self, version):
        """The one of the two above for words that do not tell the family."""
        return self.ip if version == 4 else self.ip6

    def chain(self, table, hook, priority, *rules, kind="filter"):
        """A base chain of a table's, which is made if need be; both have the hook's name in the text of the rules."""
        head = [f"table {table} {{", f"chain {hook} {{", f"type {kind} hook {hook} priority {priority};"]
        self.nft("\n".join([*head, *rules, "}", "}"]))

    def nft(self, text):
        def act():
            with self.router:
                self.run_nft(text)
        self.change(act)

    def sysctl(self, name, value):
        def act():
            with self.router:
                write_sysctl(name, value)
        self.change(act)

    def settle(self):
        with self.router:
            self.cache.settle()

    def unplug(self, host):
        """The host's own end goes down, and the router's port loses its carrier."""
        set_up(host.name, False)
        self.wait(f"{host.port} to lose its carrier", lambda: not self.runs(host.port))
        host.up = False

    def plug(self, host):
        set_up(host.name, True)
        self.wait(f"{host.port} to run", lambda: self.runs(host.port))
        host.revive()

    def lists(self, host):
        """From now on the router receives in lists what the host sends at once, as from a driver that does GRO.

        A veth does GRO for a sender that does not segment (veth_skb_is_eligible_for_gro()), in a thread, which on the
        same CPU has to wait while we send (send())."""
        ethtool(host.name, ETHTOOL_STSO, 0)
        with self.router:
            ethtool(host.port, ETHTOOL_SGRO, 1)
            write_sysfs(f"class/net/{host.port}/threaded", 1)
        for comm in Path("/proc").glob("[0-9]*/comm"):
            if comm.read_text(encoding="utf-8").startswith(f"napi/{host.port}-"):
                os.sched_setaffinity(int(comm.parent.name), os.sched_getaffinity(0))

    def port_down(self, host):
        host.up = False
        self.ip(f"link set dev {host.port} down")

    def port_up(self, host):
        self.ip(f"link set dev {host.port} up")
        self.restore(host)

    def restore(self, *hosts):
        """What their ports have forgotten by going down and up: IPv6 addresses and neighbours."""
        for host in hosts:
            self.wait(f"{host.port} to run", lambda host=host: self.runs(host.port))
            self.ip(f"addr replace {host.router[6]}/64 dev {host.port} nodad")
            self.wait("IPv6 addresses", self.addresses_ready)
            self.ip(*host.neighbours("replace"))
            host.revive()

    # --- traffic ---

    def send(self, host, *packets, to=None):
        """Sends them one after the other without a pause; what then comes out of the router, as [(host, Packet)]."""
        frames = [ether(host.mac, to or host.gateway, ETHERTYPE[packet[0] >> 4], packet) for packet in packets]
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        for frame in frames:
            host.wire.send(frame)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        return self.collect([(host.name, frame) for frame in frames], host)

    def collect(self, what, sender=None):
        """Records what has come out since the last time."""
        # What was decrypted waits once more (gro_cells, in xfrm_input()), behind a fence that came together with it.
        for _ in range(2):
            self.fences += 1
            if sender and sender.up:
                sender.fence(True, self.fences)
        while any([pump() for pump in self.pumps]):
            pass
        self.fences += 1
        packets = [(host, packet) for host in self.hosts.values() if host.up
                   for packet in map(Packet, host.fence(False, self.fences)) if not packet.is_neighbourly()]
        self.steps.append(Step(what, [(host.name, self.comparable(packet)) for host, packet in packets]))
        return packets

    def note(self, what, text):
        """Records something else that must be equal."""
        self.steps.append(Step(what, text))

    def comparable(self, packet):
        """The frame without what the router draws at random or from a clock: identifiers of its own packets and of the
        IPv6 packets that it fragments, its first TCP sequence numbers, times in IPv4's options."""
        data = bytearray(packet.frame)
        if packet.version == 6 and packet.ip[6] == FRAGMENT:
            data[58:62] = struct.pack("!I", self.idents.setdefault(bytes(data[58:62]), len(self.idents)))
        if packet.version == 4 and packet.ip[0] > 0x45 and packet.ip[20] == 0x44:
            data[24:26], data[38:14 + (packet.ip[0] & 15) * 4] = b"\0\0", bytes((packet.ip[0] & 15) * 4 - 24)
        if packet.version == 4 and not packet.fragment & 0x1FFF and (packet.protocol == ESP or packet.is_icmp_error()):
            self.mask_inner(data, packet)
        if packet.source not in self.own:
            return bytes(data)
        if packet.version == 4:
            data[18:20] = data[24:26] = b"\0\0"
        if packet.protocol == TCP:
            at = packet.frame.index(packet.data, 14)
            sequence = struct.unpack_from("!I", packet.data, 4)[0]
            key = packet.source, packet.sport, packet.destination, packet.dport
            first = self.first_sequence.setdefault(key, sequence)
            data[at + 4:at + 8] = struct.pack("!I", (sequence - first) & 0xFFFFFFFF)
            data[at + 16:at + 18] = b"\0\0"
        return bytes(data)

    def mask_inner(self, data, packet):
        """Of a packet of the router's own in a tunnel that does not hide it, or in an error that quotes it."""
        at = packet.frame.index(packet.data, 14) + 8
        if len(packet.data) < 28 or data[at] >> 4 != 4 or unpacked(bytes(data[at + 12:at + 16])) not in self.own:
            return
        data[at + 4:at + 6] = data[at + 10:at + 12] = b"\0\0"
        if packet.protocol == ICMP:
            data[at - 6:at - 4] = b"\0\0"

    # --- the end ---

    def finish(self):
        """Records what is left behind: every rule's counters, conntrack's entries, the stack's counters."""
        with self.router:
            self.note("nft's counters", self.run_nft("list ruleset"))
            self.note("conntrack's entries", conntrack_entries())
            self.note("the stack's counters", stack_counters())
            return self.cache.totals()

    def close(self):
        if self.cache:
            with self.router:
                self.cache.close()
        check(libc.setns(self.home, 0))
        for host in self.hosts.values():
            host.wire.close()
            host.inside.close()
        for opened in (*self.pumps, *self.tools):
            opened.close()
        for opened in (self.ends, self.router):
            opened.close()
        os.close(self.home)


def ethtool(interface, command, value):
    data = ctypes.create_string_buffer(struct.pack("II", command, value), 8)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), ctypes.addressof(data)))


def set_up(interface, up):
    """In the namespace that we are in."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16s24x", interface.encode()))
        flags = struct.unpack_from("H", request, 16)[0]
        flags = flags | IFF_UP if up else flags & ~IFF_UP
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", interface.encode(), flags))


def conntrack_entries():
    """Without timeouts and references; whether a UDP flow has lasted is a matter of time as well."""
    with open("/proc/net/nf_conntrack", encoding="ascii") as file:
        lines = [re.sub(r"^(\S+ +\d+ \S+ +\d+) \d+| use=\d+", r"\1", line) for line in file]
    return "".join(sorted(line.replace(" [ASSURED]", "") if " udp " in line else line for line in lines))


def stack_counters():
    """IP's own, without those that count what nobody asked for (neighbours, multicast listeners)."""
    lines = []
    with open("/proc/net/snmp", encoding="ascii") as file:
        names, values = [line.split()[1:] for line in file if line.startswith("Ip:")]
        lines += [f"{name} {value}" for name, value in zip(names, values)]
    with open("/proc/net/snmp6", encoding="ascii") as file:
        lines += [" ".join(line.split()) for line in file
                  if re.match(r"Ip6(In(Hdr|Too|NoR|Addr|Unk|Trunc|Disc|Deliv)|Out(Forw|NoR)|Reasm|Frag)", line)]
    return "".join(f"{line}\n" for line in lines)
