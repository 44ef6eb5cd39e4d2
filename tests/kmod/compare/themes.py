"""What the cases of generate.py are about: each theme has a function that sets it up and one that makes a change.

Functions are given the generator: they draw from its choices and say lines of its plan. Changes aim at the addresses
that flows go to, so that most matter; a command that the kernel refuses is no harm.
"""

from .cases.ipsec import NULL

LENGTH, NET_LENGTH, FAMILY = {4: 32, 6: 128}, {4: 24, 6: 64}, {4: "ip", 6: "ip6"}
FAR = {4: ("192.0.2.0", "198.51.100.0", "203.0.113.0"), 6: ("2001:db8:1::", "2001:db8:2::", "2001:db8:3::")}
TOS = (0, 0, 0, 8, 0x10, 0x28, 0xB8, 3)
MARKS = (1, 7, 0x10)
MTUS = (1280, 1300, 1400, 1500)
TABLES = (100, 101)
VRF_TABLE = 200


def inside(network):
    """A far network's host."""
    return network[:-1] + "2" if "." in network else network + "2"


def change_route(plan):
    target = plan.target()
    version, prefix = target.version, plan.prefix(target)
    metric = plan.one("", "", "", " metric 5")
    command = plan.one(
        f"add {prefix} {plan.via(version, target.client)}", f"replace {prefix} {plan.via(version, target.client)}",
        f"replace {prefix} {plan.via(version)}", f"del {prefix}", f"del {prefix}",
        f"add {plan.one('unreachable', 'blackhole', 'prohibit')} {prefix}",
        f"replace default {plan.via(version)}", f"add default {plan.via(version)} metric 2000", "del default",
        f"replace {target.source}/{LENGTH[version]} {plan.via(version)}", f"del {target.source}/{LENGTH[version]}",
        f"replace {prefix} {plan.via(version)} advmss 1000")
    plan.ip(version, f"route {command}{metric}{plan.table}")


def setup_ecmp(plan):
    for version in (4, 6):
        for number, host in enumerate(plan.hosts, 1):
            plan.ip(version, f"nexthop add id {10 * version + number} via {host.address[version]} dev {host.port}")
        plan.ip(version, f"nexthop add id {10 * version} group {group(plan, version)}")
        plan.ip(version, f"route replace {FAR[version][0]}/{NET_LENGTH[version]}{plan.table} {hops(plan, version)}")
        plan.ip(version, f"route replace {FAR[version][1]}/{NET_LENGTH[version]} nhid {10 * version}{plan.table}")


def group(plan, version):
    chosen = plan.random.sample(range(1, len(plan.hosts) + 1), plan.one(1, 2, 2, 3))
    return "/".join(f"{10 * version + number}{plan.one('', '', ',5')}" for number in chosen)


def hops(plan, version):
    chosen = plan.random.sample(plan.hosts, plan.one(2, 2, 3))
    return " ".join(f"nexthop via {host.address[version]} dev {host.port} weight {plan.one(1, 1, 5)}" for host in chosen)


def change_ecmp(plan):
    version, number, host = plan.target().version, plan.random.randrange(len(plan.hosts)) + 1, plan.other_host()
    kind = plan.random.randrange(7)
    if kind == 0:
        plan.say(f"sysctl net.ipv{version}.fib_multipath_hash_policy {plan.one(0, 1, 1, 2)}")
    elif kind == 1 and version == 4:
        plan.say(f"sysctl net.ipv4.fib_multipath_use_neigh {plan.one(0, 1)}")
    elif kind in (1, 2):
        plan.ip(version, f"nexthop replace id {10 * version} group {group(plan, version)}")
    elif kind == 3:
        plan.ip(version, f"nexthop replace id {10 * version + number} " +
                plan.one("blackhole", f"via {host.address[version]} dev {host.port}"))
    elif kind == 4:
        plan.ip(version, f"nexthop del id {10 * version + number}")
    else:
        network = f"{plan.random.choice(FAR[version])}/{NET_LENGTH[version]}"
        plan.ip(version, f"route replace {network}{plan.table} {plan.one(hops(plan, version), f'nhid {10 * version}')}")


def tables(plan):
    """Other tables, which rules lead to."""
    if plan.state.setdefault("tables", False):
        return
    plan.state["tables"] = True
    for table in TABLES:
        for version in (4, 6):
            plan.ip(version, f"route add default {plan.via(version)} table {table}")


def rule_selector(plan):
    target = plan.target()
    return target.version, plan.one(
        f"iif {target.client.port}", f"from {target.source}", f"to {target.address}", f"tos {plan.one(8, 0x10)}",
        f"fwmark {plan.random.choice(MARKS)}", "fwmark 0x10/0x10", f"ipproto {plan.one('tcp', 'udp')}",
        f"sport {target.sport}", f"dport {target.dport}", f"not from {target.source}", f"ipproto udp dport {target.dport}",
        f"sport {target.dport}")


def change_rule(plan):
    if plan.chance(30):
        plan.ip(plan.one(4, 6), f"rule del pref {plan.one(50, 51)}")
    elif plan.chance(10):
        plan.ip(4, f"route replace default {plan.via(4)} table {plan.random.choice(TABLES)}")
    else:
        version, selector = rule_selector(plan)
        action = plan.one(*(f"table {table}" for table in TABLES * 2), "prohibit", "unreachable", "blackhole")
        plan.ip(version, f"rule add pref {plan.one(50, 51)} {selector} {action}")


def setup_mark(plan):
    tables(plan)
    plan.say("nft table inet marking { map marks { type inet_service : mark; }; }",
             "nft table inet marking { chain prerouting { type filter hook prerouting priority -140; meta mark set ct mark; "
             "udp dport vmap { 5002 : accept }; meta mark set th dport map @marks ct mark set meta mark; }; }")
    for version in (4, 6):
        for number, mark in enumerate(MARKS):
            action = plan.one(*(f"table {table}" for table in TABLES * 2), "prohibit", "table main")
            plan.ip(version, f"rule add pref {60 + number} fwmark {mark} {action}")


def change_mark(plan):
    kind, ports = plan.random.randrange(6), plan.random.sample((5000, 5001, *range(4000, 4005)), 2)
    if kind < 4:
        elements = ", ".join(f"{port} : {plan.random.choice((*MARKS, 2))}" for port in ports)
        plan.say(f"nft flush map inet marking marks; add element inet marking marks {{ {elements} }}")
    elif kind == 4:
        plan.say(f"nft add rule inet marking prerouting {plan.one('ip dscp set', 'ip6 dscp set')} {plan.one(0, 2, 4)}")
    else:
        port = plan.target().client.port
        plan.say(f"sysctl net.ipv4.conf.{port}.src_valid_mark {plan.one(0, 1, 1)}",
                 f"sysctl net.ipv4.conf.{port}.rp_filter {plan.one(0, 1, 1)}")


def setup_nat(plan):
    for host in plan.hosts:  # nobody is asked who has the addresses that translation gives
        for address in (f"10.0.{host.number}.77", f"fd00:{host.number}::77"):
            plan.say(f"ip neigh add {address} lladdr 02:00:00:00:{host.number:02x}:02 dev {host.port} nud permanent")
    for version, family in FAMILY.items():
        rules = {"prerouting": [], "postrouting": []}
        for port, protocol in ((5000, "udp"), (5000, "tcp"), (5001, "udp"), (5001, "tcp")):
            host = plan.random.choice(plan.hosts)
            to = f"[{host.address[version]}]" if version == 6 else host.address[version]
            rules["prerouting"].append(f"fib daddr type local {protocol} dport {port} dnat to {to}:{plan.one(port, 6000)}")
        for host in plan.hosts:
            if plan.chance(50):
                to = plan.one(host.router[version], host.address[version][:-1] + "77")
                quiet = not {"links", "sysctl", "local"} & set(plan.themes)
                rules["postrouting"].append(f"oifname {host.port} " + plan.one(
                    f"snat to {to}", *["masquerade"] * quiet))
        for hook, priority in (("prerouting", -100), ("postrouting", 100)):
            plan.say(f"nft table {family} nat {{ chain {hook} {{ type nat hook {hook} priority {priority}; "
                     f"{'; '.join(rules[hook])}; }}; }}")


def change_nat(plan):
    if plan.chance(20):
        plan.say(f"nft delete table {plan.one('ip', 'ip6')} nat")
    elif plan.chance(50):
        plan.say(f"ct -D -f {plan.one('ipv4', 'ipv6')} -p {plan.one('udp', 'tcp')}")
    else:
        change_route(plan)


def setup_zones(plan):
    ports = plan.random.sample([host.port for host in plan.hosts], 2)
    plan.say("nft table inet zones { chain prerouting { type filter hook prerouting priority -300; "
             f"iifname {ports[0]} ct zone set 1; udp dport 5001 ct zone original set 2; }}; }}",
             "nft table inet keep { chain postrouting { type nat hook postrouting priority 100; }; }")


def change_zones(plan):
    plan.say(plan.one(
        "nft flush chain inet zones prerouting",
        f"nft add rule inet zones prerouting iifname {plan.random.choice(plan.hosts).port} ct zone set {plan.one(1, 2)}",
        f"nft add rule inet zones prerouting th dport 500{plan.one(0, 1)} ct zone original set {plan.one(1, 2)}",
        f"cache flush zone={plan.one(0, 1, 2)}", "cache config zone=1:none", "cache config kinds=none zone=2:route",
        "cache config"))


def setup_local(plan):
    if plan.chance(50):
        plan.say("echo 4 5000", "echo 6 5001")
    plan.say(f"sysctl net.ipv4.ip_early_demux {plan.one(0, 1)}")


def change_local(plan):
    target = plan.target()
    address = f"{target.address}/{LENGTH[target.version]}"
    plan.say(*plan.one([f"own {target.address}", f"ip addr add {address} dev lo{' nodad' * (target.version == 6)}"],
                       [f"ip addr del {address} dev lo"],
                       [f"ip addr del {address} dev lo"],
                       [f"sysctl net.ipv4.ip_early_demux {plan.one(0, 1)}"],
                       [f"sysctl net.ipv4.{plan.one('udp', 'tcp')}_early_demux {plan.one(0, 1)}"],
                       ["sysctl net.ipv4.icmp_echo_ignore_all 1"],
                       [f"own {target.address}", f"ip route add local {address} dev lo{plan.table}"]))


def setup_mtu(plan):
    plan.say(f"sysctl net.ipv4.ip_forward_use_pmtu {plan.one(0, 1, 1)}")


def change_mtu(plan):
    target = plan.target()
    number = plan.random.randrange(len(plan.flows))
    sizes = " ".join(f"{number}{way}:size={size}" for way in "><" for size in (1400, 1350, 1260))
    plan.say(plan.one(
        f"ip link set dev {plan.random.choice(plan.hosts).port} mtu {plan.random.choice(MTUS)}",
        f"ip route replace {plan.prefix(target)} {plan.via(target.version, target.client)} "
        f"mtu {plan.one('', 'lock ')}{plan.random.choice(MTUS)}{plan.table}",
        f"send {number}<:pmtu={plan.one(1280, 1300, 1400)}", f"send {number}<:pmtu={plan.one(1280, 1300)}",
        f"sysctl net.ipv4.ip_forward_use_pmtu {plan.one(0, 1)}"), f"send {sizes}")


def change_links(plan):
    """Up it comes again at once, or with the next change of this kind."""
    down, host = plan.state.setdefault("down", []), plan.random.choice(plan.hosts)
    if down:
        plan.say(f"{down.pop(0)} {down.pop(0)}")
    elif plan.chance(60):
        plan.say(f"down {host.name}")
        down += ["up", host.name]
    elif plan.chance(15):
        plan.say(f"unplug {host.name}")
        down += ["plug", host.name]
    else:
        mac = f"02:00:00:00:{host.number:02x}:{plan.one('02', '22')}"
        plan.say(f"ip neigh replace {host.address[plan.one(4, 6)]} lladdr {mac} dev {host.port} nud permanent")


def change_filter(plan):
    hook, priority = plan.one(("prerouting", -310), ("prerouting", 0), ("forward", 0), ("postrouting", 0), ("input", 0))
    match = plan.one(f"iifname {plan.random.choice(plan.hosts).port}", f"th dport {plan.target().dport}",
                     f"th sport {plan.target().sport}", "meta l4proto tcp", "ct state established")
    if hook == "postrouting" and match.startswith("iifname"):
        match = "meta l4proto udp"
    if plan.state.get("filter") and plan.chance(50):
        plan.say("nft delete table inet no")
        plan.state["filter"] = False
        return
    plan.state["filter"] = True
    notrack = [f"{match} notrack"] if priority < -300 and "nat" not in plan.themes else []
    verdict = plan.one("drop", "counter", "accept", *["reject"] * (hook in ("forward", "input")))
    rule = plan.one(f"{match} {verdict}", *notrack, f"{match} ct mark set 5" if priority > -300 else f"{match} counter")
    plan.say(f"nft table inet no {{ chain {hook}{abs(priority)} {{ type filter hook {hook} priority {priority}; "
             f"{rule}; }}; }}")


def change_sysctl(plan):
    host = plan.random.choice((plan.target().client, *plan.hosts))
    where = plan.one(host.port, host.port, "all")
    name, values = plan.random.choice((
        (f"ipv4.conf.{where}.rp_filter", (0, 1, 2)), (f"ipv4.conf.{where}.rp_filter", (1, 2)), ("ipv4.ip_forward", (0, 1, 1)),
        (f"ipv4.conf.{host.port}.forwarding", (0, 1)), (f"ipv4.conf.{where}.accept_local", (0, 1)),
        (f"ipv4.conf.{where}.route_localnet", (0, 1)), (f"ipv4.conf.{where}.src_valid_mark", (0, 1)),
        (f"ipv4.conf.{host.port}.disable_policy", (0, 1)), (f"ipv4.conf.{host.port}.disable_xfrm", (0, 1)),
        (f"ipv4.conf.{where}.ignore_routes_with_linkdown", (0, 1)), ("ipv4.ip_forward_update_priority", (0, 1)),
        ("ipv4.fib_multipath_hash_policy", (0, 1)), ("ipv4.ip_forward_use_pmtu", (0, 1)), ("ipv4.ip_default_ttl", (64, 9)),
        ("ipv6.conf.all.forwarding", (0, 1, 1)), (f"ipv6.conf.{host.port}.forwarding", (0, 1)),
        (f"ipv6.conf.{where}.disable_policy", (0, 1)), (f"ipv6.conf.{host.port}.disable_ipv6", (1,)),
        ("ipv6.fib_multipath_hash_policy", (0, 1)), ("ipv6.flowlabel_consistency", (0, 1))))
    plan.say(f"sysctl net.{name} {plan.random.choice(values)}")
    if "forward" in name and plan.chance(70):
        # Without forwarding nothing else matters for long.
        plan.traffic()
        plan.say(f"sysctl net.{name} 1")


def change_conntrack(plan):
    plan.say(plan.one("ct -F", f"ct -D -p {plan.one('udp', 'tcp')} --orig-port-src {plan.target().sport}",
                      "sysctl net.netfilter.nf_conntrack_tcp_be_liberal 1", f"ct -U -m {plan.random.choice(MARKS)}"))
    for number in plan.random.sample(range(len(plan.flows)), 2):
        plan.say(f"open {number}")


def change_module(plan):
    carrier = [["cache off", "cache config"]]
    plan.say(*plan.one(["cache flush"], ["cache config decisions=16"], ["cache config"], ["cache config kinds=none"],
                       ["cache config kinds=route zone=1:route"], *carrier, ["cache wrap"], ["cache wrap"]))


def setup_ipsec(plan):
    plan.say("states 64")
    plan.state["ends"] = plan.other_host(), plan.other_host()
    for end in dict.fromkeys(plan.state["ends"]):
        for version in (4, 6):
            plan.say(f"ip xfrm state add src {end.router[version]} dst {end.address[version]} proto esp spi 0x100 "
                     f"reqid 1 mode tunnel {NULL}")
    for version in (4, 6):
        for end in plan.hosts:
            plan.say(*(f"ip xfrm state add src {end.address[version]} dst {end.router[version]} proto esp "
                     f"spi {spi} reqid {plan.one(2, 2, 4)} mode tunnel {NULL}" for spi in (512, 513)))
    if plan.chance(60):
        for number in range(6000, 6000 + plan.random.randrange(8)):
            for direction in ("out", "fwd"):
                plan.say(f"ip xfrm policy add src {plan.one('0.0.0.0/0 dst 0.0.0.0/0', '::/0 dst ::/0')} proto udp "
                         f"dport {number} dir {direction} priority 100 action block")


def wrap(plan):
    """One way of a flow comes in a tunnel from now on, or in the clear."""
    number, way = plan.random.randrange(len(plan.flows)), plan.one("<", ">")
    target = plan.flows[number]
    servers = [host for host in plan.hosts if host.address[target.version] == target.address]
    host = servers if way == "<" else [target.client]
    plan.wraps[number, way] = plan.one("", *[
        f":esp={512 + plan.random.randrange(2)}/{(host or plan.hosts)[0].name}"] * 3)


def policy_selector(plan, target):
    """A selector of one of the flow's ways, in a direction."""
    source, destination = (target.source, target.address) if plan.chance(60) else (target.address, target.source)
    any_one = {4: "0.0.0.0/0", 6: "::/0"}[target.version]
    ends = f"src {plan.one(source, source, any_one)} dst {plan.one(destination, destination, any_one)}"
    more = plan.one("", "", f" proto {target.protocol}") if target.protocol != "icmp" else ""
    if more and plan.chance(50):
        port = plan.one(f"dport {target.dport}", f"sport {target.sport}", f"sport {target.dport}", f"dport {target.sport}")
        more += f" {port}"
    return f"{ends}{more}"


def change_ipsec(plan):
    target = plan.target()
    version, end = target.version, plan.random.choice(plan.state["ends"])
    ends, policies = f"src {end.router[version]} dst {end.address[version]}", plan.state.setdefault("policies", [])
    kind = plan.random.randrange(14)
    if kind == 12:
        wrap(plan)
    elif kind == 13:
        plan.say(f"nft table inet late {{ chain postrouting {{ type filter hook postrouting priority -150; "
                 f"{plan.one('meta l4proto udp ', '')}meta mark set {plan.random.choice(MARKS)}; }}; }}")
    elif kind < 5:
        direction = plan.one("out", "out", "fwd")
        mark = plan.one("", "", "", f" mark {plan.random.choice(MARKS)}")
        selector = f"{policy_selector(plan, target)} dir {direction}{mark}"
        inward = f"tmpl src {end.address[version]} dst {end.router[version]} proto esp reqid 2 mode tunnel"
        outward = f"tmpl {ends} proto esp reqid 1 mode tunnel"
        level = plan.one("", "", "", " level use")
        action = plan.one("action block", "action allow", *[(outward if direction == "out" else inward) + level] * 3)
        policies.append(selector)
        plan.say(f"ip xfrm policy {plan.one('add', 'add', 'update')} {selector} priority {plan.one(1, 10, 50)} {action}")
    elif kind < 7 and policies:
        plan.say(f"ip xfrm policy del {policies.pop(plan.random.randrange(len(policies)))}")
    elif kind == 7:
        limit = plan.one("", "", f" limit packet-hard {plan.one(5, 9)}")
        plan.say(f"ip xfrm state add {ends} proto esp spi {plan.one(0x100, 0x101, 0x102)} reqid 1 mode tunnel {NULL}{limit}")
    elif kind == 8:
        plan.say(f"ip xfrm state del {ends} proto esp spi {plan.one(0x100, 0x101, 0x102)}")
    elif kind == 9:
        mode = f"src {target.source} dst {target.address}"
        plan.say(f"ip xfrm state add {mode} proto esp spi 0x110 reqid 3 mode transport {NULL}",
                 f"ip xfrm policy add {mode} dir out priority 2 tmpl proto esp reqid 3 mode transport")
        policies.append(f"{mode} dir out")
    elif kind == 10:
        plan.say(plan.one("ip xfrm policy flush", "ip xfrm state flush",
                          f"ip xfrm policy setdefault {plan.one('fwd', 'out')} {plan.one('block', 'accept', 'accept')}"))
    else:
        plan.say(plan.one(f"ip link set dev {end.port} mtu {plan.random.choice(MTUS)}",
                          f"ip route replace {end.address[version]}/{LENGTH[version]} {plan.via(version)}{plan.table}",
                          f"ip route del {end.address[version]}/{LENGTH[version]}{plan.table}"))


THEMES = {  # name -> what sets it up, and what makes a change
    "route": (None, change_route), "ecmp": (setup_ecmp, change_ecmp),
    "rule": (tables, change_rule), "mark": (setup_mark, change_mark),
    "nat": (setup_nat, change_nat), "zones": (setup_zones, change_zones),
    "local": (setup_local, change_local), "mtu": (setup_mtu, change_mtu),
    "links": (None, change_links), "filter": (None, change_filter),
    "sysctl": (None, change_sysctl), "conntrack": (None, change_conntrack),
    "module": (None, change_module), "ipsec": (setup_ipsec, change_ipsec),
    "vrf": (None, change_route),
}
# Themes that do not go together: two entries that translation makes equal get a port at random.
APART = ({"nat", "zones"}, {"nat", "conntrack"})
