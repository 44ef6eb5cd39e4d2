#!/usr/bin/python3
"""Every condition for a hit, one test each: what else the packet's lookup depends on is a miss, and goes the right way.

Proof mode looks every hit up a second time, so a test that ends with mismatches 0 has compared each of its packets.
"""

import contextlib
import os
import socket
import struct
import time

import kit
from kit import SOL_IPV6, Delta, Net, Skip, Stream, ctc, gained, hits_none, ip, nft, run, same, sysctl, wait_until, yes

IP_OPTIONS, IPV6_DSTOPTS, IPV6_FLOWINFO_SEND, IPV6_UNICAST_HOPS, IPV6_TCLASS = 4, 59, 33, 16, 67
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IPV6_MTU_DISCOVER, IP_TRANSPARENT, IPV6_AUTOFLOWLABEL = 10, 2, 23, 19, 70


@contextlib.contextmanager
def proved(*words, **options):
    """A network in which every hit is proved; in the end some were, and all were right."""
    with Net(config=["proof=1", *words], **options) as net:
        yield net
        delta = Delta().before
        same(delta["mismatches"], 0, "mismatches")


def misses(flow, *reasons, number=3):
    """The next packets: first a miss for such a reason in at least one direction, then hits again; nothing is lost."""
    delta = Delta()
    flow.go(number)
    same(flow.lost, 0, f"lost of IPv{flow.family}")
    yes(any(getattr(delta, f"miss_{reason}") for reason in reasons), f"no miss {reasons} of IPv{flow.family}: {delta.all()}")
    reason = reasons[0]
    wait_until(flow.hits, f"hits of IPv{flow.family} after a miss {reason}")


# --- the packet ---

def test_plain():
    with proved() as net:
        for flow in net.flows():
            gained({"hits": 20, "proofs": 20}, lambda: flow.via("rb", 10))
        for family in (4, 6):
            stream = Stream(family)
            stream.go(3)
            delta = Delta()
            stream.go(10)
            yes(delta.hits >= 20, f"TCP over IPv{family}: {delta.all()}")


def test_mark():
    with proved() as net:
        flows = net.flows()
        nft("r", "table inet m { chain p { type filter hook prerouting priority mangle; iifname ra meta mark set 5; }; }")
        for flow in flows:
            misses(flow, "mark")
        # And by a mark there may be another way, from the very next packet on.
        ip("r", "rule add fwmark 6 lookup 100\n-6 rule add fwmark 6 lookup 100\n"
                "route add 10.0.9.0/24 via 10.0.3.2 table 100\nroute add fd09::/64 via fd03::2 table 100")
        for flow in flows:
            flow.settle().via("rb")
        nft("r", "flush chain inet m p; add rule inet m p iifname ra meta mark set 6")
        for flow in flows:
            flow.via("rc")


def test_dscp():
    with proved() as net:
        flows = net.flows()
        # The kernel's rules know four bits of it for IPv4.
        ip("r", "rule add tos 0x10 lookup 100\n-6 rule add tos 0x10 lookup 100\n"
                "route add 10.0.9.0/24 via 10.0.3.2 table 100\nroute add fd09::/64 via fd03::2 table 100")
        for flow in flows:
            flow.settle().via("rb")
        for flow, level, option in zip(flows, (socket.SOL_IP, SOL_IPV6), (socket.IP_TOS, IPV6_TCLASS)):
            flow.sock.setsockopt(level, option, 0x80)
            misses(flow, "dscp")
            flow.via("rb")
            delta = Delta()
            flow.sock.setsockopt(level, option, 0x81)  # ECN is no part of it
            flow.via("rb")
            same(delta.miss_dscp, 0, "misses for ECN")
            flow.sock.setsockopt(level, option, 0x10)
            flow.via("rc")


def test_input_device():
    with proved() as net:
        flows = net.flows()
        ip("a", "route replace default via 10.0.4.1\nroute replace default via fd04::1")
        for flow in flows:
            misses(flow, "input")
        # A rule that asks for the input device.
        ip("r", "rule add iif rd lookup 100\n-6 rule add iif rd lookup 100\n"
                "route add 10.0.9.0/24 via 10.0.3.2 table 100\nroute add fd09::/64 via fd03::2 table 100")
        for flow in flows:
            flow.via("rc")
        ip("a", "route replace default via 10.0.1.1\nroute replace default via fd01::1")
        for flow in flows:
            flow.via("rb")


def test_options():
    with proved() as net:
        four, six = net.flows()
        four.sock.setsockopt(socket.SOL_IP, IP_OPTIONS, bytes([1, 1, 1, 0]))
        six.sock.setsockopt(SOL_IPV6, IPV6_DSTOPTS, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
        for flow in (four, six):
            delta = Delta()
            flow.via("rb", 5)
            yes(delta.miss_unfit >= 5 and delta.hits <= 5, f"IPv{flow.family}: {delta.all()}")


def test_ttl():
    with proved() as net:
        for flow, level, option in zip(net.flows(), (socket.SOL_IP, SOL_IPV6), (socket.IP_TTL, IPV6_UNICAST_HOPS)):
            def with_others():
                for number in (9, 10, 11, 9):
                    flow.sock.setsockopt(level, option, number)
                    flow.via("rb", 1)
            gained({"hits": 8, "proofs": 8}, with_others)
            flow.sock.setsockopt(level, option, 1)
            flow.lost = 0
            same(flow.go(2, patience=0.3), [None, None], f"a TTL of 1, IPv{flow.family}")


def test_fragments():
    with proved() as net:
        for flow in net.flows():
            same(flow.go(4, size=4000), ["rb"] * 4, f"datagrams in fragments, IPv{flow.family}")


def test_address():
    """Translation that ends in mid-flow: packets go on with other addresses."""
    with proved() as net:
        nft("r", "table ip n { chain p { type nat hook prerouting priority dstnat; ip daddr 10.0.9.7 dnat to 10.0.9.1; }; }")
        ip("r", "route add 10.0.9.7/32 via 10.0.3.2")
        flow = net.flow(4, to="10.0.9.7").settle()
        flow.via("rb")
        nft("r", "delete table ip n")
        delta = Delta()
        ways = flow.go(3, patience=0.3)
        # Without translation it is for b's other address, by the other way, whose answers nobody translates back.
        yes(delta.miss_address >= 1 or None not in ways, f"{ways} {delta.all()}")


# --- the input device ---

def test_rp_filter():
    with proved() as net:
        ip("a", "addr add 10.0.5.2/32 dev lo")
        ip("r", "route add 10.0.5.2/32 via 10.0.4.2")  # answers go another way than questions come
        flow = net.flow(4, source="10.0.5.2").settle()
        sysctl("r", ipv4__conf__ra__rp_filter=2)
        misses(flow, "sysctl", "epoch")
        sysctl("r", ipv4__conf__ra__rp_filter=1)
        same(flow.go(2, patience=0.3), [None, None], "strict filtering")
        sysctl("r", ipv4__conf__ra__rp_filter=0)
        flow.settle()


def test_src_valid_mark():
    """Whether the mark counts for the check of the source: here it leads that to a table in which the source is elsewhere."""
    with proved() as net:
        nft("r", "table inet m { chain p { type filter hook prerouting priority mangle; iifname ra meta mark set 5; }; }")
        ip("r", "rule add fwmark 5 lookup 100\nroute add 10.0.9.0/24 via 10.0.2.2 table 100\nroute add 10.0.1.0/24 via 10.0.4.2 table 100")
        sysctl("r", ipv4__conf__ra__rp_filter=1)
        flow = net.flow(4).settle()
        sysctl("r", ipv4__conf__ra__src_valid_mark=1)
        same(flow.go(2, patience=0.3), [None, None], "strict filtering by mark")
        sysctl("r", ipv4__conf__ra__src_valid_mark=0)
        flow.settle()


def test_accept_local():
    """The source becomes one of the router's own addresses: a martian from then on, unless accept_local."""
    with proved() as net:
        flow = net.flow(4).settle()
        ip("r", "addr add 10.0.1.2/32 dev lo")
        same(flow.go(1, patience=0.3), [None], "a martian source")


def test_forwarding_off():
    with proved() as net:
        four, six = net.flows()
        sysctl("r", ipv4__ip_forward=0)
        same(four.go(2, patience=0.3), [None, None], "forwarding of IPv4 is off")
        sysctl("r", ipv4__ip_forward=1, ipv4__conf__ra__forwarding=0)
        same(four.go(2, patience=0.3), [None, None], "forwarding of IPv4 is off on ra")
        sysctl("r", ipv4__conf__ra__forwarding=1)
        four.settle()
        sysctl("r", ipv6__conf__all__forwarding=0)
        same(six.go(2, patience=0.3), [None, None], "forwarding of IPv6 is off")


def test_disable_policy():
    """The slow path notes in the packet that the input device is exempt from IPsec policies: so must a hit."""
    with Net() as net:  # the second lookup of proof mode would make the note
        flows = net.flows()
        with kit.inside("r"):
            for family, anybody in ((4, "0.0.0.0/0"), (6, "::/0")):
                run("ip", "xfrm", "policy", "add", "src", anybody, "dst", anybody, "dir", "fwd", "tmpl", "proto", "esp", "mode", "tunnel")
        for flow in flows:
            same(flow.go(2, patience=0.3), [None, None], f"a policy asks for protection, IPv{flow.family}")
        sysctl("r", ipv4__conf__ra__disable_policy=1, ipv4__conf__rb__disable_policy=1)
        flows[0].settle().via("rb", 10)


# --- the route ---

def too_big(net, family, mtu, from_device="rb"):
    """r learns a path MTU: it has sent something, and somebody says that it was too big."""
    with kit.inside("r"):
        sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind(("", 0))
    sock.connect((kit.FAR[family], 7))
    sock.send(b"?" * 100)
    source, sport = sock.getsockname()[:2]
    with kit.inside("b"):
        if family == 4:
            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            inner = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 128, 0, 0x4000, 60, 17, 0, socket.inet_aton(source),
                                socket.inet_aton(kit.FAR[4])) + struct.pack("!HHHH", sport, 7, 108, 0)
            icmp = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + inner
            icmp = icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:]
        else:
            raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            inner = struct.pack("!IHBB16s16s", 6 << 28, 108, 17, 60, socket.inet_pton(socket.AF_INET6, source),
                                socket.inet_pton(socket.AF_INET6, kit.FAR[6])) + struct.pack("!HHHH", sport, 7, 108, 0)
            icmp = struct.pack("!BBHI", 2, 0, 0, mtu) + inner
        raw.sendto(icmp, (source, 0))
    wait_until(lambda: str(mtu) in ip_route_get(family), f"a path MTU of {mtu}")


def ip_route_get(family):
    return run("ip", "-n", "r", "route", "get", kit.FAR[family]).stdout


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def path_mtu(family):
    with proved() as net:
        flow, other = net.flow(family).settle(), net.flow(family, to={4: "10.0.9.2", 6: "fd09::2"}[family]).settle()
        level, option = ((socket.SOL_IP, IP_MTU_DISCOVER), (SOL_IPV6, IPV6_MTU_DISCOVER))[family == 6]
        sysctl("r", ipv4__ip_forward_use_pmtu=1)
        for one in (flow, other):
            one.sock.setsockopt(level, option, IP_PMTUDISC_DO)
        same(flow.go(3, size=1420 - 20 * (family == 6)), ["rb"] * 3, "big packets before")
        too_big(net, family, 1300)
        same(flow.go(1, size=1400, patience=0.3), [None], "a packet that is too big now")
        same(other.go(2, size=1400), ["rb"] * 2, "to another address of the same next hop")
        flow.go(1, patience=0.3)  # takes the socket's error
        flow.via("rb", 3, size=1000)
        wait_until(flow.hits, lambda: f"hits on the route with the smaller MTU, but {flow.gains()}")


def test_path_mtu4():
    path_mtu(4)


def test_path_mtu6():
    path_mtu(6)


def test_expiry():
    """A route with a lifetime leads nowhere after it, though nothing tells of its end."""
    with proved() as net:
        ip("r", "route add fd09::1/128 via fd03::2 expires 3")
        began = time.monotonic()
        flow = net.flow(6).settle()
        yes(set(flow.go(3)) == {"rc"} or time.monotonic() > began + 2.5, "the route is not in use")
        delta = Delta()
        while time.monotonic() < began + 4.2:
            way = flow.exchange()
            yes(way == "rc" or time.monotonic() > began + 1.9, "the route was left early")
        yes(delta.hits > 0, "no hits on a route with a lifetime")
        flow.via("rb")


def test_lifetime_shortened():
    """The prefix route of an address, whose lifetime changes without an event of its own."""
    with proved() as net:
        ip("r", "addr add fd0b::1/64 dev rb valid_lft 1000 preferred_lft 1000")
        ip("b", "addr add fd0b::2/64 dev rb nodad")
        flow = net.flow(6, to="fd0b::2").settle()
        ip("r", "addr change fd0b::1/64 dev rb valid_lft 2 preferred_lft 2")
        flow.via("rb", 3)
        wait_until(lambda: flow.exchange(0.3) is None, "the end of the prefix", 8)


def ecmp(family, **sysctls):
    if family == 4:
        ip("r", "route replace 10.0.9.0/24 nexthop via 10.0.2.2 nexthop via 10.0.3.2")
    else:
        ip("r", "route del fd09::/64\nroute add fd09::/64 nexthop via fd02::2 nexthop via fd03::2")
    sysctl("r", **sysctls)


def spread(net, family, number=12):
    """Flows that use both ways, each only one of them."""
    flows = [net.flow(family, to={4: f"10.0.9.{n}", 6: f"fd09::{n:x}"}[family], connected=False) for n in range(20, 20 + number)]
    ways = []
    for flow in flows:
        flow.settle(hits=False)
        seen = set(flow.go(4))
        same((len(seen), flow.lost), (1, 0), f"ways of one flow {seen}, lost")
        ways += seen
    same(set(ways), {"rb", "rc"}, "ways of all flows")
    return flows


def test_multipath_by_address():
    with proved() as net:
        for family in (4, 6):
            ecmp(family, ipv4__fib_multipath_hash_policy=0, ipv6__fib_multipath_hash_policy=0)
            for flow in spread(net, family):
                wait_until(flow.hits, lambda: f"hits over several next hops, but {flow.gains()}")


def test_multipath_by_port():
    with proved() as net:
        for family in (4, 6):
            ecmp(family, ipv4__fib_multipath_hash_policy=1, ipv6__fib_multipath_hash_policy=1)
            for flow in spread(net, family):
                wait_until(flow.hits, lambda: f"hits over several next hops, but {flow.gains()}")


def test_multipath_l4_hash():
    """Packets that bring a hash of their own (a local socket's TCP, through veth) are spread by that."""
    with proved() as net:
        for family in (4, 6):
            ecmp(family, ipv4__fib_multipath_hash_policy=1, ipv6__fib_multipath_hash_policy=1)
            stream = Stream(family)
            stream.go(4)
            for connection in (stream, net.flow(family).settle(hits=False)):
                delta = Delta()
                connection.go(5)
                yes(delta.refused + delta.miss_multipath >= 5, f"IPv{family}: {delta.all()}")


def test_multipath_dissected():
    """Policies that look into the packet's inside."""
    with proved() as net:
        for family in (4, 6):
            ecmp(family, ipv4__fib_multipath_hash_policy=2, ipv6__fib_multipath_hash_policy=2)
            for flow in spread(net, family):
                delta = Delta()
                flow.go(3)
                yes(delta.hits <= 3, f"the question is looked up, IPv{family}: {delta.all()}")


def test_multipath_policy_changes():
    """What was learned under one policy does not count under another."""
    with proved() as net:
        ecmp(4, ipv4__fib_multipath_hash_policy=0)
        flows = [flow.settle() for flow in spread(net, 4)]
        for policy in (1, 0, 3, 1, 0):
            sysctl("r", ipv4__fib_multipath_hash_policy=policy)
            for flow in flows:
                same(None in flow.go(2), False, "a loss")


def test_multipath_use_neigh():
    with proved() as net:
        ecmp(4, ipv4__fib_multipath_hash_policy=0)
        flows = [flow.settle() for flow in spread(net, 4)]
        sysctl("r", ipv4__fib_multipath_use_neigh=1)
        for flow in flows:
            delta = Delta()
            flow.go(3)
            # (refused: by those whose number an epoch has voided)
            yes(delta.miss_multipath + delta.refused >= 2 and delta.hits <= 3, f"{delta.all()}")
        # What it is for: a next hop whose neighbour is known to fail is left, without an event.
        ip("r", "neigh replace 10.0.3.2 dev rc nud failed")
        ip("b", "link set rc arp off")
        for flow in flows:
            flow.go(1, patience=0.3)
        for flow in flows:
            flow.via("rb", 2)


def test_multipath_flow_label():
    with proved() as net:
        ecmp(6, ipv6__fib_multipath_hash_policy=0)
        sysctl("a", ipv6__auto_flowlabels=3)
        flow = net.flow(6).settle(hits=False)
        delta = Delta()
        flow.go(5)
        yes(delta.hits <= 5 and delta.refused + delta.miss_multipath >= 5, f"{delta.all()}")


def test_resilient_group():
    with proved() as net:
        ip("r", "nexthop add id 1 via 10.0.2.2 dev rb\nnexthop add id 2 via 10.0.3.2 dev rc\n"
                "nexthop add id 3 group 1/2 type resilient buckets 8 idle_timer 0")
        ip("r", "route replace 10.0.9.0/24 nhid 3")
        flow = net.flow(4).settle(hits=False)
        delta = Delta()
        flow.go(5)
        yes(delta.hits <= 5 and delta.refused + delta.miss_multipath >= 5, f"{delta.all()}")


def test_nexthop_objects():
    with proved() as net:
        ip("r", "nexthop add id 1 via 10.0.2.2 dev rb\nnexthop add id 4 via 10.0.3.2 dev rc\n"
                "nexthop add id 6 via fd02::2 dev rb")
        ip("r", "route replace 10.0.9.0/24 nhid 1\nroute del fd09::/64\nroute add fd09::/64 nhid 6")
        flows = net.flows()
        ip("r", "nexthop replace id 1 via 10.0.3.2 dev rc\nnexthop replace id 6 via fd03::2 dev rc")
        for flow in flows:
            flow.via("rc")
        ip("r", "nexthop replace id 1 via 10.0.2.2 dev rb\nnexthop replace id 6 via fd02::2 dev rb")
        for flow in flows:
            flow.via("rb")


def test_shared_next_hop6():
    """A thousand routes by one gateway are one decision for each input."""
    with proved("decisions=64") as net:
        ip("r", "route del fd09::/64\n" + "\n".join(f"route add fd09::{n:x}/128 via fd02::2" for n in range(1, 1001)))
        flows = [net.flow(6, to=f"fd09::{n:x}") for n in range(1, 1001, 5)]
        net.flow(6).settle()
        for flow in flows:
            flow.go(3)
        number = 2 * len(flows)
        gained({"hits": number, "proofs": number}, lambda: [flow.go(1) for flow in flows])
        same(sum(flow.lost for flow in flows), 0, "lost")
        yes(kit.stat("decisions") <= 6, f"{kit.stat('decisions')} decisions")
        # But not where their metrics differ.
        ip("r", "route replace fd09::1/128 via fd02::2 mtu 1300")
        sock = flows[0].sock
        sock.setsockopt(SOL_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_DO)
        flows[0].via("rb")
        same(flows[0].go(1, size=1400, patience=0.3), [None], "a packet too big for its own route")


# --- other ways through the stack ---

def test_local_delivery():
    with proved() as net:
        sysctl("r", ipv4__ip_early_demux=0)
        for family, address in ((4, "10.0.1.1"), (6, "fd01::1")):
            flow = net.flow(family, at="r", to=address).settle(hits=False)
            wait_until(lambda: flow.hits(directions=1), f"hits of local delivery, IPv{family}")
            yes(flow.descriptor()["original"]["decision"]["local"], "local")
        # Forwarded flows of the same key have decisions of their own.
        for flow in net.flows():
            yes("local" not in flow.descriptor()["original"]["decision"], "not local")


def test_early_demux():
    """A socket's cached route is another packet's: nothing is learned from it."""
    with proved() as net:
        sysctl("r", ipv4__ip_early_demux=1)
        for family, address in ((4, "10.0.1.1"), (6, "fd01::1")):
            stream = Stream(family, to=address, peer="r")
            stream.go(3)
            delta = Delta()
            stream.go(5)
            same(delta.mismatches, 0, "mismatches")
            yes(delta.refused + delta.miss_socket + delta.hits >= 5, f"{delta.all()}")


def test_zone_without_cache():
    with proved("zone=7:none:0") as net:
        flows = net.flows()
        nft("r", "table inet z { chain p { type filter hook prerouting priority raw; iifname { ra, rb } ct zone set 7; }; }")
        for family in (4, 6):
            hits_none(net.flow(family).settle(hits=False))
        for flow in flows:
            hits_none(flow)  # it is in zone 7 now
        nft("r", "delete table inet z")
        for flow in flows:
            flow.settle()


def test_bridged():
    with proved() as net:
        if run("modprobe", "-a", "bridge", "br_netfilter", check=False).returncode:
            raise Skip("no br_netfilter")
        # r is a bridge for a second network of a and b, beside being their router.
        ip("r", "link add br0 type bridge\nlink set rd master br0\nlink set rc master br0\nlink set br0 up")
        ip("r", "addr flush dev rd\naddr flush dev rc")
        ip("a", "addr add 10.0.6.1/24 dev rd\naddr add fd06::1/64 dev rd nodad")
        ip("b", "addr add 10.0.6.2/24 dev rc\naddr add fd06::2/64 dev rc nodad")
        with kit.inside("r"):
            for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
                with open(f"/proc/sys/net/bridge/{name}", "w") as file:
                    file.write("1")
        for family, to in ((4, "10.0.6.2"), (6, "fd06::2")):
            hits_none(net.flow(family, to=to).settle(hits=False), miss_unfit=8)
        # Routed over the bridge's own address: the bridge is the input device then.
        ip("r", "addr add 10.0.6.9/24 dev br0\naddr add fd06::9/64 dev br0 nodad")
        ip("a", "route replace 10.0.9.0/24 via 10.0.6.9\nroute replace fd09::/64 via fd06::9")
        for family in (4, 6):
            flow = net.flow(family).settle(hits=False)
            flow.via("rb", 10)


def test_vrf():
    with proved() as net:
        if ip("r", "link add red type vrf table 10\nlink set red up", check=False).returncode:
            raise Skip("no VRF")
        commands = [f"link set {device} master red" for device in ("ra", "rb", "rc")]
        commands += ["addr add fd01::1/64 dev ra nodad", "addr add fd02::1/64 dev rb nodad", "addr add fe80::1/64 dev ra nodad",
                     "addr add fe80::1/64 dev rb nodad"]
        ip("r", "\n".join(commands), check=False)
        ip("r", "route replace 10.0.9.0/24 via 10.0.2.2 vrf red\nroute replace fd09::/64 via fd02::2 vrf red")
        for family in (4, 6):
            flow = net.flow(family).settle(hits=False)
            flow.via("rb", 5)
            wait_until(flow.hits, lambda: f"hits in a VRF, but {flow.gains()}")


def test_tproxy():
    with proved() as net:
        four = net.flow(4, port=7).settle()
        with kit.inside("r"):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
            sock.bind(("", 5555))
            sock.settimeout(kit.PATIENCE)
        ip("r", "rule add fwmark 1 lookup 100\nroute add local default dev lo table 100")
        if nft("r", "table ip p { chain p { type filter hook prerouting priority mangle; iifname ra udp dport 7 "
                    "tproxy to :5555 meta mark set 1 accept; }; }", check=False).returncode:
            raise Skip("no tproxy")
        delta = Delta()
        for _ in range(3):
            four.sock.send(b"to the proxy")
            same(sock.recv(100), b"to the proxy", "what the proxy gets")
        yes(delta.miss_unfit >= 3 and delta.hits == 0, f"{delta.all()}")
        nft("r", "delete table ip p")
        four.settle().via("rb")


def test_related():
    """ICMP errors carry their flow's entry, with other addresses."""
    with proved() as net:
        for family, to in ((4, "10.0.9.1"), (6, "fd09::1")):
            flow = net.flow(family, to=to).settle()
            flow.peer.sock.close()
            delta = Delta()
            flow.sock.settimeout(kit.PATIENCE)
            flow.sock.send(b"anybody?")
            try:
                flow.sock.recv(10)
                raise AssertionError("no error came back")
            except ConnectionRefusedError:
                pass
            same(delta.hits, 1, f"hits, {delta.all()}")


if __name__ == "__main__":
    kit.main()
