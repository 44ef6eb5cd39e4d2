"""What is measured: the scenarios of the forwarding benchmark, their variants and limits. Used on the host and in the
guest.

A limit is a share: what a packet costs in one variant divided by what it costs in another, the cost of the base
(injection, and a drop at ingress) taken from both.
"""

import math
from dataclasses import dataclass

STANDARD = ("base", "none", "plain", "plain, no early demux", "ctcache", "floor", "flowtable")
TUNNEL = tuple(name for name in STANDARD if name != "flowtable")  # which would send them in the clear
# The floor is wrong for new flows, and for packets that are decapsulated and come again.
FLOORLESS = tuple(name for name in TUNNEL if name != "floor")
FLOOD = 8192  # packets of one round of new flows: few enough for their entries to be of memory used before


@dataclass(frozen=True)
class Limit:
    """Of `variant` / `of`: one over `must` fails the benchmark, `aim` is where we want to be."""
    must: float
    aim: float
    variant: str = "ctcache"
    of: str = "plain"


@dataclass(frozen=True)
class Scenario:
    name: str
    flows: int = 1024
    routes: int = 1
    rules: int = 0
    family: int = 4
    policies: str = ""  # 1,000 of IPsec that match nothing, each way (network.py, POLICIES)
    cipher: str = ""  # of the tunnel that packets leave by (network.py, CIPHERS), with a policy of its own
    inbound: bool = False  # they come by it instead
    local: str = ""  # they are delivered here, to sockets of this kind (sockets.py)
    sockets: int = 1  # that listen, of the same protocol
    rp_filter: int = 0
    accounting: int = 1  # as the daemon has it unless told otherwise; packets then touch a flow's extensions anyway
    burst: int = 0  # packets of one netif_receive_skb_list()
    length: int = 0  # packets of a flow that begins in the round; 0: all flows are established before
    variants: tuple = STANDARD
    limits: tuple = ()
    above_floor: tuple = (1.08, 1.04)  # must and aim of ctcache / floor

    @property
    def packets(self):
        """Of one round and variant."""
        if self.length:
            return FLOOD
        return max(20480, self.flows)

    @property
    def turns(self):
        """How many rounds for one of many flows, which are long: every batch is to have a quiet moment."""
        return 1 if self.flows > 32768 else 4

    @property
    def period(self):
        """Of inject.h: the second packet of a new flow is its reply."""
        return self.length if self.length > 1 else 0

    @property
    def hits(self):
        """Of one round: all packets of known flows; of new ones those after the first two and the reply."""
        return max(0, self.length - 3) * self.flows if self.length else self.packets


def new(length, must, aim):
    plural = "" if length == 1 else "s"
    return Scenario(f"flow of {length} packet{plural}", flows=FLOOD // length, length=length, variants=FLOORLESS,
                    limits=(Limit(must, aim),))


MANY, FULL = 65536, 500000
SCENARIOS = (
    Scenario("1 route, 1 flow", flows=1, limits=(Limit(0.83, 0.80),)),
    Scenario("1 route, 1,024 flows", limits=(Limit(0.83, 0.80),)),
    Scenario("1 route, 65,536 flows", flows=MANY, limits=(Limit(0.90, 0.87),)),
    Scenario("1 route, 1,024 flows, no accounting", accounting=0),
    Scenario("1 route, 65,536 flows, no accounting", flows=MANY, accounting=0, limits=(Limit(1.00, 0.90),)),
    Scenario("500,000 routes, 1,024 flows", routes=FULL),
    Scenario("500,000 routes, 65,536 flows", flows=MANY, routes=FULL, limits=(Limit(0.55, 0.53),)),
    Scenario("500,000 routes + 10 rules, 1,024 flows", routes=FULL, rules=10, limits=(Limit(0.43, 0.40),)),
    Scenario("500,000 routes + 10 rules, 65,536 flows", flows=MANY, routes=FULL, rules=10, limits=(Limit(0.46, 0.44),)),
    Scenario("500,000 routes + 100 rules, 1,024 flows", routes=FULL, rules=100,
             variants=(*STANDARD, "ctcache, 1 route"),
             limits=(Limit(0.20, 0.18), Limit(1.06, 1.03, of="ctcache, 1 route"))),
    Scenario("500,000 routes + 100 rules, 65,536 flows", flows=MANY, routes=FULL, rules=100,
             limits=(Limit(0.32, 0.30),)),
    Scenario("1 route + 10 rules, 1,024 flows", rules=10),
    Scenario("1 route + 100 rules, 1,024 flows", rules=100),
    Scenario("1 route, strict rp_filter, 1,024 flows", rp_filter=1),
    Scenario("1 route, lists of 8, 1 flow", flows=1, burst=8),
    Scenario("1 route, lists of 8, 1,024 flows", burst=8),
    Scenario("1 route, lists of 8, 65,536 flows", flows=MANY, burst=8, limits=(Limit(1.00, 0.90),)),
    Scenario("IPv6, 1 route, 1,024 flows", family=6, limits=(Limit(0.77, 0.72),)),
    Scenario("IPv6, 100,000 routes, 1,024 flows", family=6, routes=100000),
    Scenario("IPv6, 100,000 routes, 65,536 flows", family=6, routes=100000, flows=MANY, limits=(Limit(0.50, 0.35),)),
    Scenario("1,000 subnet policies, 1,024 flows", policies="subnets", limits=(Limit(0.53, 0.50),)),
    Scenario("1,000 port policies, 1,024 flows", policies="ports", limits=(Limit(0.02, 0.011),)),
    Scenario("IPv6, 1,000 subnet policies, 1,024 flows", family=6, policies="subnets"),
    Scenario("ESP null, 1 policy, 1,024 flows", cipher="null", variants=TUNNEL, limits=(Limit(0.60, 0.55),)),
    Scenario("ESP null, 1,000 policies, 1,024 flows", cipher="null", policies="subnets", variants=TUNNEL,
             limits=(Limit(0.55, 0.50),)),
    Scenario("ESP AES-GCM, 1 policy, 1,024 flows", cipher="gcm", variants=TUNNEL),
    Scenario("ESP AES-GCM, 1,000 policies, 1,024 flows", cipher="gcm", policies="subnets", variants=TUNNEL),
    Scenario("inbound ESP null, 1 policy, 1,024 flows", cipher="null", inbound=True, variants=FLOORLESS),
    Scenario("inbound ESP null, 1,000 policies, 1,024 flows", cipher="null", inbound=True, policies="subnets",
             variants=FLOORLESS),
    Scenario("500,000 routes + 100 rules + 1,000 policies, 1,024 flows", routes=FULL, rules=100, policies="subnets",
             variants=(*STANDARD, "ctcache, 1 route"), limits=(Limit(1.08, 1.04, of="ctcache, 1 route"),)),
    *(Scenario(f"local {name}, {sockets:,} socket{'s' * (sockets > 1)}, 1,024 flows", local=kind, sockets=sockets,
               variants=TUNNEL, limits=(Limit(1.00, 0.95),), above_floor=(math.inf, 1.05))
      for kind, name in (("tcp", "TCP"), ("connected", "connected UDP"), ("udp", "UDP")) for sockets in (1, 10000)),
    new(1, 1.04, 1.02),
    new(4, 1.00, 0.96),
    new(16, 0.92, 0.88),
    Scenario("module loaded, not configured", variants=("base", "plain", "unconfigured"),
             limits=(Limit(1.01, 1.00, variant="unconfigured"),)),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}

# What a short run looks at, and what instructions can tell: no cache misses, and nothing that takes an emulated
# machine minutes to set up.
QUICK = ("1 route, 1,024 flows", "IPv6, 1 route, 1,024 flows", "flow of 4 packets")
COUNTED = ("1 route, 1,024 flows", "1 route + 10 rules, 1,024 flows", "1 route + 100 rules, 1,024 flows",
           "1 route, strict rp_filter, 1,024 flows", "1 route, lists of 8, 1,024 flows", "IPv6, 1 route, 1,024 flows",
           "1,000 subnet policies, 1,024 flows", "ESP null, 1,000 policies, 1,024 flows", "flow of 1 packet", "flow of 4 packets", "flow of 16 packets", "module loaded, not configured")
