"""A variant: one namespace that forwards a scenario's packets in one way, and what it must prove of every round.

Every packet that was sent must have left. In `ctcache` hits must equal the packets of flows that are known; in
`flowtable` no packet may have come to the forward chain.
"""

import json
import statistics
import sys
from pathlib import Path

from network import Network, run, sysctl
from sockets import Sockets

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kmod"))
import client  # noqa: E402

TRIES = 50  # of the flows to be established and learned; events of the set-up may still come in between

ZONES = {4: "ct original zone set ip saddr map { 10.0.0.0/8 : 1, 172.16.0.0/12 : 2 }",
         6: "ct original zone set ip6 saddr map { fd00::/16 : 1, fd80::/16 : 2 }"}
RULES = """table inet bench {{
    {flowtable}
    chain raw {{ type filter hook prerouting priority raw; {zones}; }}
    chain forward {{ type filter hook forward priority filter; {add}
        ct state established accept
        ct state new accept
        drop
    }}
}}"""
FLOWTABLE = "flowtable fast { hook ingress priority filter; devices = { in0, out0 }; }"
DROP = 'table netdev ground { chain in { type filter hook ingress devices = { in0, out0 } priority 0; policy drop; }\n}'


def middle(values):
    """The mean of the middle half: a batch that the host's scheduler fell into does not count."""
    values = sorted(values)
    quarter = len(values) // 4
    return statistics.fmean(values[quarter:len(values) - quarter])


class Variant:
    def __init__(self, name, scenario, traffic, module):
        self.name, self.scenario, self.traffic, self.module = name, scenario, traffic, module
        self.cached = name.startswith("ctcache")
        self.rounds, self.least, self.floor, self.sockets = [], None, None, None
        self.network = Network()
        self.set_up()
        if name != "base" and scenario.local:
            self.sockets = Sockets(scenario.local, traffic.flows, scenario.sockets)

    def set_up(self):
        family, scenario = self.scenario.family, self.scenario
        if self.name == "base":
            run("nft", "-f", "-", text=DROP)
            return
        alone = self.name == "ctcache, 1 route"
        self.network.add_routes(family, ((0, 0),) if alone else self.traffic.routes)
        self.network.add_rules(family, 0 if alone else scenario.rules)
        if scenario.policies and not alone:
            self.network.add_policies(family, scenario.policies)
        if scenario.cipher:
            self.network.add_tunnel(scenario.cipher, scenario.inbound)
        sysctl("ipv4/conf/in0/rp_filter", scenario.rp_filter)
        if self.name == "none":
            return
        flowtable = self.name == "flowtable"
        add = "counter; ct state established flow add @fast;" if flowtable else ""
        run("nft", "-f", "-", text=RULES.format(zones=ZONES[family], flowtable=FLOWTABLE if flowtable else "", add=add))
        sysctl("netfilter/nf_conntrack_acct", scenario.accounting)
        sysctl("netfilter/nf_conntrack_tcp_be_liberal", 1)
        sysctl("netfilter/nf_conntrack_udp_timeout", 1000000)
        sysctl("netfilter/nf_conntrack_udp_timeout_stream", 1000000)
        if flowtable:
            sysctl("netfilter/nf_flowtable_udp_timeout", 1000000)
        if self.name == "plain, no early demux":
            sysctl("ipv4/ip_early_demux", 0)
        if self.name == "floor":
            self.floor = open("/dev/floor", "wb", buffering=0)
            self.floor.write(b"\n")
        if self.cached:
            client.run(["config", "act_ct"])

    def establish(self):
        """Makes every flow known, in both directions, and to the cache; in the order of their numbers."""
        links, flows = self.network.links, self.scenario.flows
        if self.name == "base" or self.scenario.length:
            return
        self.network.enter()
        if self.sockets:
            self.sockets.receive()
        self.traffic.first.send(links, flows)
        if self.sockets:
            self.sockets.answer()
        else:
            self.traffic.replies.send(links[::-1], flows)
        for _ in range(TRIES):
            before = self.counters()
            self.traffic.first.send(links, flows)
            after = self.counters()
            if self.floor:
                self.floor.write(b"\n")  # it has learned
            expected = min(flows, self.scenario.hits) if self.cached else 0
            if after["hits"] - before["hits"] == expected and after["passed"] == before["passed"]:
                return
        raise SystemExit(f"{self.name}: flows are not established after {TRIES} rounds: {before}, {after}")

    def counters(self):
        arrived = self.sockets.received() if self.sockets else sum(self.network.sent().values())
        counters = {"hits": 0, "misses": 0, "passed": 0, "arrived": arrived}
        if self.cached:
            stats = client.MESSAGE(client.run(["stats"])[0])
            counters |= {"hits": stats["stats"]["hits"], "misses": stats["stats"]["misses"], "why": stats["misses"]}
        if self.name == "flowtable":
            listed = json.loads(run("nft", "-j", "list", "chain", "inet", "bench", "forward"))["nftables"]
            first = next(item["rule"] for item in listed if "rule" in item)
            counters["passed"] = first["expr"][0]["counter"]["packets"]
        return counters

    def round(self):
        self.network.enter()
        if self.name == "unconfigured":
            run("insmod", self.module)
        scenario = self.scenario
        if not scenario.length:  # the other variants have just had the caches
            self.traffic.scattered.send(self.network.links, scenario.flows)
        before = self.counters()
        times = self.traffic.scattered.send(self.network.links, scenario.packets, scenario.burst, scenario.period,
                                            scenario.inbound)
        self.check(before, self.counters())
        if self.name == "unconfigured":
            run("rmmod", "nf_ctcache")
        if scenario.length and self.name not in ("base", "none"):
            self.network.flush_conntrack()
        self.least = [min(pair) for pair in zip(self.least or times, times)]
        # By their place in the period: a first packet is not like the others.
        places = [middle(times[place::scenario.length or 1]) for place in range(scenario.length or 1)]
        self.rounds.append(statistics.fmean(places))

    def results(self):
        """Every batch has the same packets in every round: the mean of the least that each has taken is what they
        cost on a machine of our own, if each had one quiet moment. The rounds show how far from that we were.
        """
        return {"least": statistics.fmean(self.least), "rounds": self.rounds}

    def check(self, before, after):
        arrived = after["arrived"] - before["arrived"]
        expected = 0 if self.name == "base" else self.scenario.packets
        if arrived != expected:
            raise SystemExit(f"{self.name}: {arrived} packets left or were delivered, not {expected}")
        hits = after["hits"] - before["hits"]
        if self.cached and hits != self.scenario.hits:
            raise SystemExit(f"{self.name}: {hits} hits, not {self.scenario.hits}: {before}, {after}")
        if after["passed"] != before["passed"]:
            raise SystemExit(f"{self.name}: {after['passed'] - before['passed']} packets came to the forward chain")

    def close(self):
        self.network.enter()
        if self.floor:
            self.floor.close()
        if self.sockets:
            self.sockets.close()
        self.network.close()


def established(names, scenario, traffic, module=None):
    """The variants of these names, whose flows are known."""
    variants = [Variant(name, scenario, traffic, module) for name in names]
    for variant in variants:
        variant.establish()
    return variants
