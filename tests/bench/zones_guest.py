#!/usr/bin/python3
"""What the zone rules cost a packet: the guest's half of tests/bench/zones.

One network namespace per variant, alike but for its rules; the same 1,024 UDP flows forwarded through each, injected at the
receive path of a dummy device (inject.c) and lost behind another. The variants take turns in rotating order; what a
drop at ingress costs (injection and the driver's part) is measured along and subtracted. Every packet that was sent must have left.

Each flow is established by a reply first. Writes a JSON object, variant -> list of cycles per packet, one for each round.
"""

import ctypes
import json
import os
import random
import socket
import struct
import subprocess
import sys

MODULE, DAEMON, OUTPUT = sys.argv[1:4]
FLOWS, PACKETS, ROUNDS, RULES_ROUNDS = 1024, 4096, 11, 3
HOSTS = [f"10.{100 + n // 100}.{n % 100}.7" for n in range(10000)]  # 100 in each of 100 zones
SENDERS = HOSTS[::10]
SERVER = "172.16.0.2"
CLONE_NEWNET = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)


def run(*command, text=None):
    done = subprocess.run(command, input=text, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr[:2000]}")
    return done.stdout


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(mac, source, source_port, destination, destination_port):
    ethernet = bytes.fromhex(mac.replace(":", "")) + b"\x02\0\0\0\0\x01" + b"\x08\0"
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 46, 0, 0x4000, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(destination))
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return ethernet + header + struct.pack("!HHHH", source_port, destination_port, 26, 0) + bytes(18)


def hosts_policy():
    zones = [f"  - {{ name: z{n}, match: [ {{ source: [ {', '.join(HOSTS[n * 100:n * 100 + 100])} ] }} ] }}" for n in range(100)]
    return "version: 1\nzones:\n" + "\n".join(zones)


def prefixes_policy():  # of mixed lengths, each around one host
    def prefix(n):
        length = 26 + n % 6
        last = 7 & ~((1 << (32 - length)) - 1)
        return f"{HOSTS[n].rsplit('.', 1)[0]}.{last}/{length}"

    zones = [f"  - {{ name: z{z}, match: [ {{ source: [ {', '.join(prefix(n) for n in range(z * 100, z * 100 + 100))} ] }} ] }}"
             for z in range(100)]
    return "version: 1\nzones:\n" + "\n".join(zones)


def daemon_rules(policy):
    """Applies a policy in the present namespace as the daemon does, which leaves its table behind when it stops."""
    with open("/tmp/policy.yaml", "w", encoding="utf-8") as file:
        file.write(policy)
    with subprocess.Popen([DAEMON, "--config", "/tmp/policy.yaml", "--state-dir", "/tmp/state", "--runtime-dir", "/tmp/runtime",
                           "--bus", "none"], stderr=subprocess.PIPE, text=True) as daemon:
        log = []
        for line in daemon.stderr:
            log.append(line)
            if "policy applied" in line:
                daemon.terminate()
    if daemon.returncode:
        sys.exit("".join(log)[:2000])


def one_rule_per_match():
    rules = "\n".join(f"ip saddr {host} ct original zone set {n // 10 + 1} accept" for n, host in enumerate(SENDERS))
    return f"""table inet rules {{
        chain prerouting {{ type filter hook prerouting priority raw;
{rules}
        }}
        chain nat {{ type nat hook postrouting priority 90;
        }}
    }}"""


FORWARD = """table inet forward { chain forward { type filter hook forward priority filter; policy drop;
    ct state established accept
    ct state new accept
}
}
"""
DROP = 'table netdev ground { chain in { type filter hook ingress device "in0" priority 0; policy drop; }\n}'


def variants():
    """Name -> rules, policy (None: no netfilter at all)."""
    return {
        "drop at ingress": (DROP, None),
        "no netfilter": (None, None),
        "conntrack, no zones": (FORWARD + "table inet nat { chain nat { type nat hook postrouting priority 90; }\n}", None),
        "1 element": (FORWARD, "version: 1\nzones:\n  - { name: z, match: [ { source: 10.0.0.0/8 } ] }"),
        "10,000 addresses": (FORWARD, hosts_policy()),
        "10,000 prefixes": (FORWARD, prefixes_policy()),
        "1,000 rules": (FORWARD + one_rule_per_match(), None),
    }


class Variant:
    def __init__(self, number, name, rules, policy):
        self.name = name
        namespace = f"bench{number}"
        run("ip", "netns", "add", namespace)
        self.namespace = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        self.enter()
        for family in ("all", "default"):  # else the links' own solicitations and reports leave, too, some seconds later
            run("sysctl", "-qw", f"net.ipv4.conf.{family}.rp_filter=0", f"net.ipv6.conf.{family}.disable_ipv6=1")
        for link, net in (("in0", 1), ("out0", 2)):
            run("ip", "link", "add", link, "type", "dummy")
            run("ip", "addr", "add", f"192.168.{net}.1/24", "dev", link)
            run("ip", "link", "set", link, "up")
            run("ip", "neigh", "add", f"192.168.{net}.2", "lladdr", "02:00:00:00:00:02", "dev", link)
        run("ip", "route", "add", "10.0.0.0/8", "via", "192.168.1.2")
        run("ip", "route", "add", "172.16.0.0/16", "via", "192.168.2.2")
        run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        if rules is not None:
            run("nft", "-f", "-", text=rules)
        if policy is not None:
            daemon_rules(policy)
        if rules not in (None, DROP):
            run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=100000",
                "net.netfilter.nf_conntrack_udp_timeout_stream=100000")
        self.frames = []
        replies = []
        order = list(range(FLOWS))
        random.Random(1).shuffle(order)
        macs = {link: json.loads(run("ip", "-j", "link", "show", link))[0]["address"] for link in ("in0", "out0")}
        for flow in order:
            sender = SENDERS[flow % len(SENDERS)]
            self.frames.append(frame(macs["in0"], sender, 20000 + flow, SERVER, 5000))
            replies.append(frame(macs["out0"], SERVER, 5000, sender, 20000 + flow))
        self.index = socket.if_nametoindex("in0")
        self.inject(self.index, self.frames, FLOWS)
        if rules != DROP:
            self.inject(socket.if_nametoindex("out0"), replies, FLOWS)
        self.results = []

    def enter(self):
        if libc.setns(self.namespace, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    @staticmethod
    def inject(index, frames, packets):
        with open("/dev/inject", "r+b", buffering=0) as device:
            device.write(struct.pack("=8IQ", index, 0, len(frames), len(frames[0]), 0, 0, 0, 0, packets) + b"".join(frames))
            sent, cycles, *_ = struct.unpack("=QQII", device.read(24))
        if sent != packets:
            sys.exit(f"{sent} of {packets} packets were injected")
        return cycles

    @staticmethod
    def left():
        for line in open("/proc/thread-self/net/dev", encoding="utf-8"):
            if line.strip().startswith("out0:"):
                return int(line.split(":")[1].split()[9])

    def round(self):
        self.enter()
        before = self.left()
        cycles = self.inject(self.index, self.frames, PACKETS)
        expected = 0 if self.name == "drop at ingress" else PACKETS
        if self.left() - before != expected:
            sys.exit(f"{self.name}: {self.left() - before} packets left, not {expected}")
        self.results.append(cycles / PACKETS)

    def zones(self):
        """How many different zones the flows sit in."""
        self.enter()
        listed = subprocess.run(["conntrack", "-L"], text=True, capture_output=True).stdout
        return len({word for word in listed.split() if word.startswith("zone")}), listed.count("udp ")


def main():
    run("modprobe", "-a", "nf_conntrack", "nf_tables", "dummy")
    run("insmod", MODULE)
    run("sysctl", "-qw", "net.netfilter.nf_conntrack_max=262144", "net.netfilter.nf_conntrack_buckets=262144")
    every = [Variant(number, name, *rules) for number, (name, rules) in enumerate(variants().items())]
    for number in range(ROUNDS):
        turn = number % len(every)
        for variant in every[turn:] + every[:turn]:
            if variant.name != "1,000 rules" or number < RULES_ROUNDS:
                variant.round()
    for variant in every:
        print(variant.name, "zones and flows:", *variant.zones(), "cycles:", *(f"{result:.0f}" for result in variant.results))
    with open(OUTPUT, "w", encoding="utf-8") as file:
        json.dump({"kernel": os.uname().release, "version": os.uname().version,
                   "results": {variant.name: variant.results for variant in every}}, file)


if __name__ == "__main__":
    main()
