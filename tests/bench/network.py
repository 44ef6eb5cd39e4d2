"""A network namespace with two dummy links, its sysctls, and routes by the hundred thousand."""

import ctypes
import functools
import os
import random
import socket
import struct
import subprocess
from pathlib import Path

import traffic

CLONE_NEWNET = 0x40000000
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_DUMP = 1, 4, 0x400, 0x200, 0x300
RTM_NEWROUTE, NLMSG_ERROR, NLMSG_NOOP = 24, 2, 1
NETLINK_NETFILTER = 12  # which Python 3.11 has no name for
CONNTRACK_DELETE = 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE

libc = ctypes.CDLL(None, use_errno=True)


def run(*command, text=None):
    done = subprocess.run(command, input=text, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[:2000]}")
    return done.stdout


def sysctl(name, value):
    Path("/proc/sys/net", name).write_text(f"{value}\n", encoding="ascii")


def refused(answers):
    """The first error among netlink answers, or 0; None while there is no answer yet."""
    verdict = None
    while len(answers) >= 16:
        length, kind = struct.unpack_from("=IH", answers)
        if kind == NLMSG_ERROR:
            verdict = -struct.unpack_from("=i", answers, 16)[0]
            if verdict:
                return verdict
        answers = answers[(length + 3) & ~3:]
    return verdict


def tell(protocol, messages):
    """Sends netlink messages, of which the last asks for an answer."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as kernel:
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        kernel.bind((0, 0))
        for message in messages:
            kernel.send(message)
        while (error := refused(kernel.recv(1 << 16))) is None:
            pass
    if error:
        raise OSError(error, os.strerror(error))


@functools.lru_cache(maxsize=2)  # namespaces are alike
def route_batches(family, prefixes, gateway, link):
    """RTM_NEWROUTE messages of the main table, a few thousand in each batch."""
    af, size = (socket.AF_INET, 4) if family == 4 else (socket.AF_INET6, 16)
    tail = struct.pack("=HH", 4 + size, 5) + traffic.address(gateway) + struct.pack("=HHI", 8, 4, link)
    length = 16 + 12 + 4 + size + len(tail)
    flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL
    layout = struct.Struct(f"=IHHIIBBBBBBBBIHH{size}s{len(tail)}s")
    batches = []
    for start in range(0, len(prefixes), 2048):
        batch = prefixes[start:start + 2048]
        last = start + 2048 >= len(prefixes)
        messages = [layout.pack(length, RTM_NEWROUTE, flags, 1, 0, af, bits, 0, 0, 254, 3, 0, 1, 0, 4 + size, 1,
                                first.to_bytes(size, "big"), tail) for first, bits in batch]
        if last:
            messages[-1] = messages[-1][:6] + struct.pack("=H", flags | NLM_F_ACK) + messages[-1][8:]
        batches.append(b"".join(messages))
    return batches


GATEWAY = {4: "192.168.2.2", 6: "fd00:2::2"}
LINKS = """link set lo up
link add in0 address 02:00:00:00:a0:01 type dummy
link add out0 address 02:00:00:00:a0:02 type dummy
addr add 192.168.1.1/24 dev in0
addr add 192.168.2.1/24 dev out0
addr add fd00:1::1/64 dev in0 nodad
addr add fd00:2::1/64 dev out0 nodad
link set in0 up
link set out0 up
neigh add 192.168.1.2 lladdr 02:00:00:00:b0:01 dev in0
neigh add 192.168.2.2 lladdr 02:00:00:00:b0:02 dev out0
neigh add fd00:1::2 lladdr 02:00:00:00:b0:01 dev in0
neigh add fd00:2::2 lladdr 02:00:00:00:b0:02 dev out0
route add 10.0.0.0/8 via 192.168.1.2
route add fd00::/64 via fd00:1::2
"""


POLICY_COUNT = 1000


def subnet_policies(family):
    """Between networks of clients and of others than those that the flows go to; the kernel keeps them in trees."""
    chosen = random.Random(2)
    for _ in range(POLICY_COUNT):
        if family == 4:
            yield (f"src 10.{chosen.randrange(256)}.{chosen.randrange(256)}.0/24 "
                   f"dst {chosen.randrange(128, 224)}.{chosen.randrange(256)}.{chosen.randrange(16) * 16}.0/{chosen.randrange(20, 25)}")
        else:
            yield f"src fd{chosen.randrange(256):02x}:{chosen.randrange(65536):x}::/32 dst 2b{chosen.randrange(256):02x}:{chosen.randrange(65536):x}::/32"


def port_policies(family):
    """For any address, which the kernel keeps in a list."""
    any_one = "0.0.0.0/0" if family == 4 else "::/0"
    for number in range(POLICY_COUNT):
        yield f"src {any_one} dst {any_one} proto udp dport {10000 + number}"


POLICIES = {"subnets": subnet_policies, "ports": port_policies}
CIPHERS = {
    "null": "enc ecb(cipher_null) '' auth digest_null ''",
    "gcm": "aead rfc4106(gcm(aes)) 0x" + "11" * 20 + " 128",
}


class Network:
    """One namespace; enter() it before anything else of it is used."""

    def __init__(self):
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        self.handle = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        for family in ("all", "default"):
            sysctl(f"ipv4/conf/{family}/rp_filter", 0)
            sysctl(f"ipv6/conf/{family}/accept_ra", 0)
            sysctl(f"ipv6/conf/{family}/router_solicitations", 0)
        sysctl("ipv4/ip_forward", 1)
        sysctl("ipv6/conf/all/forwarding", 1)
        # Linux 6.1 has a limit for cached IPv6 routes, beyond which it collects garbage with every one.
        sysctl("ipv6/route/max_size", 1 << 24)
        sysctl("ipv6/route/gc_thresh", 1 << 24)
        run("ip", "-batch", "-", text=LINKS)
        self.links = tuple(socket.if_nametoindex(link) for link in ("in0", "out0"))

    def enter(self):
        if libc.setns(self.handle, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    def close(self):
        """Back to the first namespace; the kernel takes this one apart when nobody holds it any more."""
        with open("/proc/1/ns/net", "rb") as first:
            libc.setns(first.fileno(), CLONE_NEWNET)
        os.close(self.handle)

    def add_routes(self, family, prefixes):
        tell(socket.NETLINK_ROUTE, route_batches(family, prefixes, GATEWAY[family], self.links[1]))

    @staticmethod
    def add_rules(family, count):
        """Rules of which none matches, before the one of the main table."""
        prefix = "198.18.{}.0/24" if family == 4 else "2001:db8:{}::/48"
        rules = "".join(f"rule add pref {1000 + number} from {prefix.format(number)} lookup {1000 + number}\n"
                        for number in range(count))
        run("ip", f"-{family}", "-batch", "-", text=rules)

    @staticmethod
    def add_policies(family, kind):
        run("ip", "-batch", "-", text="".join(
            f"xfrm policy add {selector} dir {direction} priority 1 action block\n"
            for selector in POLICIES[kind](family) for direction in ("out", "fwd")))

    @staticmethod
    def add_tunnel(cipher, inbound):
        """ESP to the next hop, or from the one before, for everything that comes from the clients."""
        ends = "src 192.168.1.2 dst 192.168.1.1" if inbound else "src 192.168.2.1 dst 192.168.2.2"
        template = f"tmpl {ends} proto esp reqid 1 mode tunnel"
        run("ip", "-batch", "-", text=f"xfrm state add {ends} proto esp spi {traffic.SPI} reqid 1 mode tunnel {CIPHERS[cipher]}\n"
            f"xfrm policy add src 10.0.0.0/8 dst 0.0.0.0/0 dir {'fwd' if inbound else 'out'} priority 2 {template}\n")

    @staticmethod
    def flush_conntrack():
        body = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
        header = struct.pack("=IHHII", 16 + len(body), CONNTRACK_DELETE, NLM_F_REQUEST | NLM_F_ACK, 1, 0)
        tell(NETLINK_NETFILTER, [header + body])

    @staticmethod
    def sent():
        """Packets that left, by link."""
        with open("/proc/thread-self/net/dev", encoding="ascii") as file:
            lines = (line.split(":") for line in file if ":" in line)
            return {name.strip(): int(values.split()[9]) for name, values in lines}
