"""A plan is what a random case does, as lines of text: they can be read, cut down, kept in a file and carried out again.

    hosts abc                           what network.build() makes; always the first line
    ip|ip6 COMMAND   nft COMMANDS       of the router; whatever is refused must be refused alike
    sysctl NAME VALUE   ct WORDS        the latter are words of conntrack's own command
    vrf NAME TABLE HOST...   own ADDRESS    ports that join a VRF; an address that becomes the router's
    down|up|unplug|plug HOST            the router's port, the host's own end of the wire
    lists HOST                          from now on its packets come in lists
    states COUNT                        room for so many of IPsec's
    echo VERSION PORT                   a program in the router that answers on UDP
    cache COMMAND WORD...               the client's commands, "off", and "wrap"; nothing happens without the cache
    settle                              waits until what has changed is learned for good
    flow N PROTOCOL HOST ADDRESS NAME=VALUE...    flow.Flow, which has the source port 4000 + N: ports tell flows apart
    open N                              its first packets
    send PACKET...                      packets that are sent at once as long as they come from the same host, all
                                        or none of them by IPsec

A packet is the flow's number, > (client to server) or <, and what is special about it: size=, ttl=, tos=, label=,
tcp=FLAGS; from=HOST sends it from another host; esp=SPI/HOST wraps it up, as a tunnel from that host to the router;
cut=N sends it in fragments; error=NAME/MTU is no packet of the flow but a complaint about its last one; pmtu=MTU is a
complaint of a packet of the router's own to whom the flow's client speaks to; options puts IP's options in.

A line that names what is not there does nothing, so lines may be taken out of a plan.
"""

import re
import struct
import subprocess

from .cases.devices import vrf_of
from .cases.ipsec import NULL
from .cases.local import Echo
from .flow import BACK, FORTH, Flow
from .packet import ACK, ESP, FRAGMENT, ICMP, ICMP6, TCP, UDP, Packet, esp, ether, fragments, icmp_error, ip, udp, version
from .tools import Refused

FIRST_PORT = 4000
PACKET = re.compile(r"(\d+)([<>])(?::(.*))?")
RECORD_ROUTE, PAD = b"\7\7\4\0\0\0\0\1", (0, b"\1\4\0\0\0\0")
INNER = {4: (4, 0x0800), 41: (6, 0x86DD)}


def unwrapped(packet):
    """What is in a tunnel's packet, or the packet itself."""
    if packet.protocol != ESP or packet.fragment & 0x3FFF or packet.data[-1] not in INNER:
        return packet
    inner = packet.data[8:-2 - packet.data[-2]]
    return Packet(ether("02:00:00:00:00:00", "02:00:00:00:00:00", INNER[packet.data[-1]][1], inner))


class Player:
    """Carries out a plan in a network."""

    def __init__(self, net):
        self.net, self.hosts, self.flows, self.wrapped = net, {}, {}, {}

    def play(self, lines):
        for number, line in enumerate(lines, 1):
            verb, *words = line.split()
            if verb != "hosts":
                self.net.note(f"line {number}", line)
            try:
                getattr(self, f"do_{verb}")(line.partition(" ")[2], words)
            except TimeoutError:
                raise
            except (Refused, OSError) as error:
                # Lines of the co-process are numbered, and some wait for a state in a loop.
                self.net.note("refused", re.sub(r"-:\d+", "", str(error)))

    def do_hosts(self, names, _):
        self.hosts = {host.name: host for host in self.net.build(names)}
        # Addresses that plans translate to: the router's own packets may leave with them.
        self.net.own |= {host.router[4][:-1] + "77" for host in self.hosts.values()}

    def do_ip(self, command, _):
        self.net.ip(command)

    def do_ip6(self, command, _):
        self.net.ip6(command)

    def do_nft(self, text, _):
        self.net.nft(text)

    def do_sysctl(self, _, words):
        self.net.sysctl(*words)

    def do_ct(self, _, words):
        """No flow's other side speaks before its client has spoken again: translated, two flows could meet then, and one
        would get a random port."""
        with self.net.router:
            subprocess.run(["conntrack", *words], check=False, capture_output=True)
        for flow in self.flows.values():
            flow.side[BACK] = None

    def do_vrf(self, _, words):
        vrf_of(self.net, words[0], int(words[1]), *(self.hosts[name] for name in words[2:] if name in self.hosts))

    def do_own(self, address, _):
        self.net.own.add(address)

    def do_down(self, name, _):
        self.net.port_down(self.hosts[name])

    def do_up(self, name, _):
        self.net.port_up(self.hosts[name])

    def do_unplug(self, name, _):
        self.net.unplug(self.hosts[name])

    def do_plug(self, name, _):
        self.net.plug(self.hosts[name])

    def do_lists(self, name, _):
        self.net.lists(self.hosts[name])

    def do_echo(self, _, words):
        Echo(self.net, *map(int, words))

    def do_states(self, count, _):
        """A table that grows turns its chains round, some time later, and with them which of two equal states is found."""
        for last in range(16, 256, 16):
            self.net.ip(*(f"xfrm state add src 192.0.2.1 dst 192.0.2.{number} proto esp spi {number} mode tunnel {NULL}"
                          for number in range(last - 15, last + 1)))
            with self.net.router:
                said = subprocess.run(["ip", "-s", "xfrm", "state", "count"], check=True, capture_output=True, text=True)
            if int(re.search(r"buckets count (\d+)", said.stdout)[1]) >= int(count):
                break
        self.net.ip("xfrm state flush")

    def do_cache(self, _, words):
        with self.net.router:
            {"off": self.net.cache.off, "wrap": self.net.cache.wrap}.get(words[0], lambda: self.net.cache.do(*words))()

    def do_settle(self, *_):
        self.net.settle()

    # --- flows ---

    def do_flow(self, _, words):
        number, protocol, client, address = words[:4]
        header = {name: value if name == "source" else int(value)
                  for name, _, value in (word.partition("=") for word in words[4:])}
        port = FIRST_PORT + int(number)
        self.flows[port] = Flow(self.net, self.hosts[client], address, protocol, sport=port, **header)

    def do_open(self, number, _):
        if flow := self.flows.get(FIRST_PORT + int(number)):
            flow.side[BACK] = None
            flow.sequence = [1000, 500000]
            for way, flags in ((FORTH, 2), (BACK, 18), (FORTH, ACK)) if flow.protocol == TCP else ((FORTH, 0), (BACK, 0)):
                if packet := self.packet(flow, way, {"tcp": flags}):
                    self.emit(*packet)

    def do_send(self, _, words):
        """Packets of one host are gathered until there is one of another. What IPsec decrypts waits in a queue of its own,
        so nothing in the clear is sent at once with it: who overtakes whom is a matter of time. Nor are both directions
        of a flow: GRO turns the order of what it holds round, and TCP's window does not take what is acknowledged before
        it came."""
        sender, waiting, ways = None, [], {}
        for word in words:
            number, way, special = PACKET.fullmatch(word).groups()
            flow = self.flows.get(FIRST_PORT + int(number))
            values = dict(item.partition("=")[::2] for item in special.split(",")) if special else {}
            made = flow and self.packet(flow, BACK if way == "<" else FORTH, values)
            if not made:
                continue
            if waiting and (sender != (made[0], "esp" in values) or ways.get(number, way) != way):
                self.emit(sender[0], waiting)
                waiting, ways = [], {}
            sender = made[0], "esp" in values
            waiting += made[1]
            ways[number] = way
        if waiting:
            self.emit(sender[0], waiting)

    def packet(self, flow, way, values):
        """(who sends, packets), or nothing when there is nobody or nothing to be said."""
        side, values = flow.side[way], dict(values)
        host = side and self.hosts.get(values.pop("from", side.host.name))
        if not host or not host.up:
            return None
        if "error" in values:
            name, mtu = values["error"].split("/")
            quoted = side.seen
            return quoted and (host, [icmp_error(side.own, side.peer, name.replace("-", " "), quoted, int(mtu))])
        if "pmtu" in values:
            own = host.router[version(side.own)]
            quoted = ip(own, side.own, UDP, udp(own, side.own, 9, 9, bytes(1400)))
            return host, [icmp_error(host.address[version(own)], own, "too big", quoted, int(values["pmtu"]))]
        wrapping, size = values.pop("esp", None), int(values.pop("cut", 0))
        packets = [self.make(flow, way, values)]
        if wrapping:
            return self.wrap(packets[0], *wrapping.split("/"))
        return host, fragments(packets[0], size, flow.sent) if size else packets

    @staticmethod
    def make(flow, way, values):
        v = version(flow.side[way].own)
        content = {name: int(values[name]) for name in ("size", "ttl", "tos", *["label"] * (v == 6)) if name in values}
        if "tcp" in values:
            flags = int(values["tcp"])
            content |= {"flags": flags} | ({} if flags == ACK or flow.protocol != TCP else {"data": b""})
        if "options" in values:
            content |= {"options": RECORD_ROUTE} if v == 4 else {"extensions": (PAD,)}
        return flow.make(way, **content)

    def wrap(self, packet, spi, name):
        host, v = self.hosts.get(name), packet[0] >> 4
        if not host or not host.up:
            return None
        self.wrapped[spi] = self.wrapped.get(spi, 0) + 1
        return host, [esp(host.address[v], host.router[v], int(spi), self.wrapped[spi], packet)]

    def emit(self, host, packets):
        try:
            arrived = self.net.send(host, *packets)
        except OSError as error:  # none of them has come in if one is too long
            self.net.note("not sent", str(error))
            return
        for where, packet in arrived:
            self.look(where, unwrapped(packet))

    def look(self, host, packet):
        """Tells the packet's flow where it came out. What the router made fragments of has a random number: nobody quotes it."""
        if packet.protocol is None or packet.version == 6 and packet.ip[6] == FRAGMENT:
            return
        if packet.protocol in (ICMP, ICMP6) and not packet.is_icmp_error():
            port, way = struct.unpack_from("!H", packet.data, 4)[0], BACK if packet.data[0] in (0, 129) else FORTH
        elif packet.protocol in (TCP, UDP) and packet.sport is not None:
            way = FORTH if packet.sport in self.flows else BACK
            port = packet.sport if way == FORTH else packet.dport
        else:
            return
        if port in self.flows:
            self.flows[port].look(way, [(host, packet)])


def player(lines):
    """A function for judge.run_case()."""
    return lambda net: Player(net).play(lines)

