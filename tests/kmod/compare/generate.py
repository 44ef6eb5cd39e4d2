"""A plan from a seed: a topology, flows through it, and changes in mid-flow.

A plan has some *themes* (themes.py), each of which sets something up and makes changes. After every change flows go on
at once, which is when what is stale shows, and most times once more when the cache has learned the new state.

What a plan must not do is have the kernel choose at random, or by a clock: see `apart`, and Player.do_ct().
"""

from random import Random

from .themes import APART, FAR, LENGTH, MTUS, NET_LENGTH, THEMES, TOS, VRF_TABLE, inside, wrap


class Host:
    def __init__(self, name, number):
        self.name, self.port, self.number = name, "r" + name, number
        self.address = {4: f"10.0.{number}.2", 6: f"fd00:{number}::2"}
        self.router = {4: f"10.0.{number}.1", 6: f"fd00:{number}::1"}


class Target:
    """Where a flow goes, or whence it comes, in one version."""

    def __init__(self, client, address, protocol, ports):
        self.version = 6 if ":" in address else 4
        self.client, self.address, self.protocol, (self.sport, self.dport) = client, address, protocol, ports
        self.source = client.address[self.version]


class Generator:
    """Lines of a plan; `random` is all that they depend on."""

    def __init__(self, seed):
        self.random, self.lines, self.flows, self.wraps, self.state = Random(seed), [], [], {}, {}
        pick = self.random
        self.hosts = [Host(name, number) for number, name in enumerate("abcde"[:pick.choice((3, 3, 4, 5))], 1)]
        self.themes = []
        wanted = pick.choice((1, 2, 2, 3, 3, 4))
        for theme in pick.sample(sorted(THEMES), len(THEMES)):
            if len(self.themes) < wanted and not any({theme, other} <= pair for other in self.themes for pair in APART):
                self.themes.append(theme)
        self.vrf = "vrf" in self.themes
        self.table = f" table {VRF_TABLE}" if self.vrf else ""
        self.behind = {(version, network): pick.choice(self.hosts) for version in (4, 6) for network in FAR[version]}

    # --- choices ---

    def one(self, *choices):
        return self.random.choice(choices)

    def chance(self, percent):
        return self.random.randrange(100) < percent

    def target(self):
        """One of a flow's, so that what is done to it matters."""
        return self.random.choice(self.flows)

    def other_host(self, *hosts):
        return self.random.choice([host for host in self.hosts if host not in hosts])

    def say(self, *lines):
        self.lines += lines

    def ip(self, version, command):
        """For words that do not tell the family."""
        self.say(f"{'ip' if version == 4 else 'ip6'} {command}")

    def prefix(self, target):
        """A flow's destination, alone or with its neighbours."""
        far = [network for network in FAR[target.version] if inside(network) == target.address]
        if far and self.chance(50):
            return f"{far[0]}/{NET_LENGTH[target.version]}"
        return f"{target.address}/{LENGTH[target.version]}"

    # --- the whole ---

    def plan(self):
        self.say(f"hosts {''.join(host.name for host in self.hosts)}")
        if self.vrf:
            self.say(f"vrf red {VRF_TABLE} {' '.join(host.name for host in self.hosts)}")
        for (version, network), host in self.behind.items():
            self.say(f"ip route add {network}/{NET_LENGTH[version]} via {host.address[version]}{self.table}")
        if self.chance(25):
            self.say(f"lists {self.random.choice(self.hosts).name}")
        for theme in self.themes:
            if THEMES[theme][0]:
                THEMES[theme][0](self)
        for _ in range(self.one(2, 3, 4, 5)):
            self.flow()
        self.say(*(f"open {number}" for number in range(len(self.flows))))
        if "ipsec" in self.themes:
            wrap(self)
        self.traffic()
        self.say("settle")
        self.traffic()
        for _ in range(self.random.randrange(5, 12)):
            self.change()
        return self.lines

    def flow(self):
        version, client = self.one(4, 4, 6), self.random.choice(self.hosts)
        protocol = self.one("udp", "udp", "tcp", "icmp")
        places = [host.address[version] for host in self.hosts if host is not client]
        places += [inside(network) for network in FAR[version] if self.behind[version, network] is not client]
        if "nat" in self.themes:
            places += [client.router[version]] * len(places)
        if "local" in self.themes:
            places += [host.router[version] for host in self.hosts]
        number = len(self.flows)
        ports = 4000 + number, 5000 + self.random.randrange(3)
        target = Target(client, self.random.choice(places), protocol, ports)
        words = [f"dport={ports[1]}", f"tos={self.random.choice(TOS)}"]
        if version == 4 and self.chance(30):
            words.append("flags=0")
        if version == 6 and self.chance(30):
            words.append(f"label={self.random.randrange(1, 1 << 20)}")
        self.flows.append(target)
        self.say(f"flow {number} {protocol} {client.name} {target.address} {' '.join(words)}")

    def change(self):
        for _ in range(self.one(1, 1, 1, 2, 3)):
            theme = self.random.choice(self.themes + ["ways"])
            THEMES[theme][1](self) if theme in THEMES else self.ways()
        self.traffic()
        if self.chance(75):
            self.say("settle")
            self.traffic()

    def traffic(self):
        """Some flows go on, both ways, and now and then one that is special."""
        chosen = self.random.sample(range(len(self.flows)), self.random.randrange(1, len(self.flows) + 1))
        words = []
        for way, place in ((">", lambda number: self.flows[number].client.name),
                           ("<", lambda number: self.flows[number].address)):
            for number in sorted(chosen, key=place):
                if self.chance(80):
                    usual = self.wraps.get((number, way), "")
                    words += [f"{number}{way}{self.special() if self.chance(20) else usual}"
                              for _ in range(self.one(2, 3, 4))]
        if self.chance(15):
            self.random.shuffle(words)
        self.say(f"send {' '.join(words or [f'{chosen[0]}>'])}")

    def special(self):
        pick = self.random
        kind = self.one("size", "size", "size", "ttl", "tos", "tos", "from", "tcp", "cut", "error", "options", "label", *(
            ["esp"] * 4 if "ipsec" in self.themes else []),
            *(["pmtu"] * 4 if "mtu" in self.themes else []))
        value = {
            "size": lambda: pick.choice((0, 1, 100, 1200, 1250, 1340, 1400, 1430)),
            "ttl": lambda: pick.choice((1, 2, 2, 255)), "tos": lambda: pick.choice(TOS),
            "from": lambda: pick.choice(self.hosts).name, "tcp": lambda: pick.choice((1 | 16, 4, 4 | 16, 2, 2 | 16)),
            "cut": lambda: f"{pick.choice((16, 400))},size={pick.choice((100, 1400, 2500))}",
            "error": lambda: f"{pick.choice(('port', 'host', 'time', 'too-big'))}/{pick.choice(MTUS)}",
            "label": lambda: pick.randrange(1 << 20), "pmtu": lambda: pick.choice((1280, 1300, 1400)),
            "esp": lambda: f"{512 + pick.randrange(2)}/{pick.choice(self.hosts).name}",
        }.get(kind)
        if kind == "tcp" and "nat" in self.themes:  # nothing ends an entry that is translated
            return ""
        return f":{kind}={value()}" if value else f":{kind}"

    def ways(self):
        """Nothing of the router changes: what flows themselves do."""
        number = self.random.randrange(len(self.flows))
        other = self.random.choice(self.hosts).name
        self.say(self.one(f"open {number}", f"send {number}>:ttl=1 {number}<:ttl=1 {number}> {number}<",
                          f"send {number}>:from={other} {number}>:from={other} {number}> {number}>:from={other}",
                          f"send {number}>:tos=16 {number}>:tos=16 {number}> {number}>:tos=16"))

    def via(self, version, *hosts):
        return f"via {self.other_host(*hosts).address[version]}"
