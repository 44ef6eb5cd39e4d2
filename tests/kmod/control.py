#!/usr/bin/python3
"""Every command over generic netlink, good and bad: what is refused is refused whole, with a text."""

import ctypes
import errno
import os
import struct

import client
import kit
from client import ATTR, CMD, ENUM, attribute
from kit import CARRIER, Delta, Net, Stream, Traffic, conntrack, ctc, ip, nft, refused, same, state, sysctl, wait_until, yes

ZONE = ENUM["zone_attr"]
TUPLE = ENUM["tuple_attr"]


def raw(command, payload=b"", dump=False, name="r"):
    """A message made by hand; the answers."""
    with kit.inside(name):
        return [client.MESSAGE(answer) for answer in client.Client().ask(CMD[command], payload, dump)]


def u8(name, value):
    return attribute(ATTR[name], struct.pack("=B", value))


def u16(name, value):
    return attribute(ATTR[name], struct.pack("=H", value))


def u32(name, value):
    return attribute(ATTR[name], struct.pack("=I", value))


def zone(**values):
    size = {"id": "=H", "kinds": "=I", "class": "=I"}
    return attribute(ATTR["zone"], b"".join(attribute(ZONE[key], struct.pack(size[key], value)) for key, value in values.items()),
                     nested=True)


def carrier():
    return u8("carrier", ENUM["carrier"][CARRIER])


def test_config():
    with Net(carrier="none") as net:
        same(ctc("get"), {"generation": 0, "state": "off", "carrier": "none"}, "before any configuration")
        same(ctc("config", CARRIER), {"generation": 1}, "the answer")
        got = ctc("get")
        got.pop("epoch")
        same(got, {"generation": 1, "state": "active", "carrier": CARRIER, "decisions": 65535, "proof": 0, "kinds": 7, "class": 0},
             "defaults")
        same(ctc("config", CARRIER, "decisions=100", "proof=7", "kinds=none", "class=5", "zone=3:route+ipsec:30", "zone=65535:none:9"),
             {"generation": 2}, "the answer")
        got = ctc("get")
        got.pop("epoch")
        same(got, {"generation": 2, "state": "active", "carrier": CARRIER, "decisions": 100, "proof": 7, "kinds": 0, "class": 5,
                   "zones": [{"id": 3, "kinds": 3, "class": 30}, {"id": 65535, "kinds": 0, "class": 9}]}, "what was set")
        for size in (16, 65535):
            ctc("config", CARRIER, f"decisions={size}")
            same(ctc("get")["decisions"], size, "decisions")
        same(ctc("config", "none"), {"generation": 5}, "the answer")
        same(ctc("get"), {"generation": 5, "state": "off", "carrier": "none"}, "switched off")
        same(ctc("config", "none"), {"generation": 6}, "off again")


def test_config_refused():
    """Nothing of a bad configuration is taken, whatever stands before the mistake; traffic goes on and hits."""
    with Net(config=["zone=4:route:44", "proof=3"]) as net:
        flow = net.flow(4).settle()
        before = ctc("get")
        good = carrier() + u32("proof", 9) + zone(id=1, kinds=1)
        bad = {
            "no carrier": (errno.EINVAL, zone(id=1, kinds=1)),
            "unknown carrier": (errno.ERANGE, u8("carrier", 3)),
            "short carrier": (errno.EINVAL, attribute(ATTR["carrier"], b"")),
            "long carrier": (errno.EINVAL, attribute(ATTR["carrier"], b"\1\0\0\0")),
            "carrier twice": (errno.EINVAL, good + carrier()),
            "proof twice": (errno.EINVAL, good + u32("proof", 9)),
            "few decisions": (errno.ERANGE, good + u32("decisions", 15)),
            "many decisions": (errno.ERANGE, good + u32("decisions", 65536)),
            "no decisions": (errno.ERANGE, good + u32("decisions", 0)),
            "short decisions": (errno.EINVAL, good + attribute(ATTR["decisions"], b"\x40\0")),
            "unknown kinds": (errno.EINVAL, good + u32("kinds", 0x80000000)),
            "unknown attribute": (errno.EINVAL, good + attribute(ATTR["epoch"] + 1, b"\0\0\0\0")),
            "far attribute": (errno.EINVAL, good + attribute(0x3FFF, b"")),
            "not this command's attribute": (errno.EINVAL, good + u8("family", 2)),
            "padding": (errno.EINVAL, good + attribute(ATTR["pad"], b"")),
            "zone twice": (errno.EEXIST, good + zone(id=1, kinds=0)),
            "zone without id": (errno.EINVAL, good + zone(kinds=1)),
            "zone without kinds": (errno.EINVAL, good + zone(id=2)),
            "empty zone": (errno.EINVAL, good + zone()),
            "zone of unknown kinds": (errno.EINVAL, good + zone(id=2, kinds=9)),
            "zone of IPsec without routes": (errno.EINVAL, good + zone(id=2, kinds=2)),
            "IPsec without routes": (errno.EINVAL, good + u32("kinds", 2)),
            "zone that is not nested": (errno.EINVAL, good + attribute(ATTR["zone"], zone(id=2, kinds=1)[4:])),
            "zone with more": (errno.EINVAL, good + attribute(
                ATTR["zone"], zone(id=2, kinds=1)[4:] + attribute(max(ZONE.values()) + 1, b"\0\0\0\0"), nested=True)),
            "zone with a long id": (errno.EINVAL, good + attribute(
                ATTR["zone"], attribute(ZONE["id"], b"\1\0\0\0") + attribute(ZONE["kinds"], b"\1\0\0\0"), nested=True)),
            "zone with an id twice": (errno.EINVAL, good + attribute(
                ATTR["zone"], attribute(ZONE["id"], b"\5\0") + attribute(ZONE["id"], b"\6\0") +
                attribute(ZONE["kinds"], b"\1\0\0\0"), nested=True)),
            "trailing bytes": (errno.EINVAL, good + b"\1\0\0"),
            "attribute longer than the message": (errno.EINVAL, good + struct.pack("=HHI", 40, ATTR["proof"], 1)),
            "attribute shorter than its head": (errno.EINVAL, good + struct.pack("=HH", 2, ATTR["proof"])),
        }
        wrong = []
        for name, (number, payload) in bad.items():
            try:
                text = refused(number, raw, "config_set", payload)
                if not text:
                    wrong.append(f"{name}: no text")
            except AssertionError as error:
                wrong.append(f"{name}: {error}")
            after = ctc("get")
            after["epoch"] = before["epoch"] = 0
            if after != before:
                wrong.append(f"{name}: something was taken: {after}")
                net.config("zone=4:route:44", "proof=3")
                before = ctc("get")
        same(wrong, [], "what was wrong")
        wait_until(flow.hits, "hits")


def test_missing():
    """What needs a configuration, or more of a message."""
    with Net(carrier="none"):
        for words in (["flush"], ["flush", "zone=3"], ["flow", "10.0.1.2", "10.0.9.1", 17, 1, 2]):
            yes(refused(errno.ENOENT, ctc, *words), f"no text: {words}")
        for words in ("zones", "flows", "decisions"):
            same(ctc(words), [], words)
        stats = ctc("stats")
        same((stats["state"], set(stats["stats"].values()) - {0}), ("off", set()), "stats")
        ctc("config", CARRIER)
        for payload in (b"", attribute(ATTR["tuple"], b"", nested=True),
                        attribute(ATTR["tuple"], attribute(TUPLE["protocol"], b"\x11") + attribute(TUPLE["source"], b"abcd"), True),
                        attribute(ATTR["tuple"], attribute(TUPLE["protocol"], b"\x11") + attribute(TUPLE["source"], b"abcd") +
                                  attribute(TUPLE["destination"], bytes(16)), True),
                        attribute(ATTR["tuple"], attribute(TUPLE["protocol"], b"\x11") + attribute(TUPLE["source"], b"abc") +
                                  attribute(TUPLE["destination"], b"abc"), True)):
            yes(refused(errno.EINVAL, raw, "flow_get", payload), f"no text: {payload}")
        for command in ("config_get", "stats_get"):
            refused(errno.EINVAL, raw, command, u8("family", 2))
        refused(errno.EINVAL, raw, "flush", u8("carrier", 1))
        refused(errno.EINVAL, raw, "flush", u16("zone_id", 1) + u16("zone_id", 2))
        refused(errno.EINVAL, raw, "flow_get", u8("carrier", 1), True)
        refused(errno.EOPNOTSUPP, raw, "decision_get")
        refused(errno.EOPNOTSUPP, raw, "config_get", b"", True)
        with kit.inside("r"):
            one = client.Client()
            for unknown in (0, max(CMD.values()) + 1, 255):
                refused(errno.EOPNOTSUPP, one.ask, unknown)


def test_swap_under_traffic():
    """A configuration takes the other's place in one step: no packet is lost, and the carrier changes in flight."""
    with Net() as net:
        flows = net.flows()
        with Traffic(flows) as traffic:
            for turn in range(6):
                ctc("config", ("labels", "act_ct")[turn % 2] if CARRIER == "act_ct" else "labels", f"zone={turn}:route:{turn}",
                    f"decisions={16 + turn}", "proof=1")
                traffic.more(10)
                same(ctc("get")["zones"], [{"id": turn, "kinds": 1, "class": turn}], "zones")
            records = traffic.stop()
        same([record for record in records if record[2] != "rb"], [], "lost or astray")
        net.config("proof=1")
        for family in (4, 6):
            net.flow(family).settle()
        same(kit.stat("mismatches"), 0, "mismatches")


def test_stats():
    with Net(config=["kinds=route", "zone=7:route:1", "zone=8:none"]) as net:
        nft("r", "table inet z { chain p { type filter hook prerouting priority raw; ip saddr 10.0.1.2 ct zone set 7; "
                 "ip daddr 10.0.1.2 ct zone set 7; }; }")
        four, six = net.flows()
        zones = ctc("zones")
        same([entry.get("zone_id") for entry in zones], [None, 7, 8], "zones")
        before, total = {entry.get("zone_id"): entry["stats"] for entry in zones}, Delta()
        wait_until(lambda: four.hits(), "hits")
        four.go(5)
        after = {entry.get("zone_id"): entry["stats"] for entry in ctc("zones")}
        gain = {name: {key: after[name][key] - before[name][key] for key in after[name]} for name in after}
        yes(gain[7]["hits"] >= 10 and gain[7]["hits"] == total.hits, f"{gain}")
        same((gain[None]["hits"], gain[8]["hits"]), (0, 0), "hits of other zones")
        # Totals of a zone outlive a configuration; one that is no longer named counts on among the others.
        ctc("config", net.carrier, "zone=7")
        yes(ctc("zones")[1]["stats"]["hits"] >= after[7]["hits"], "hits of zone 7 were forgotten")
        ctc("config", net.carrier)
        yes(ctc("zones")[0]["stats"]["hits"] >= after[7]["hits"], "hits of zone 7 went nowhere")
        six.settle()


def test_flow():
    with Net(config=["class=3", "zone=7:route:77"]) as net:
        sysctl("r", netfilter__nf_conntrack_acct=1, netfilter__nf_conntrack_timestamp=1)
        nft("r", "table ip z { chain p { type filter hook prerouting priority raw; iifname { ra, rb } ct zone set 7; }; "
                 "chain m { type filter hook prerouting priority mangle; ct mark set 0x55; }; }")
        four, six = net.flows()
        refused(errno.ENOENT, four.descriptor)  # its zone is not 0

        def learned():
            four.go(1)
            flow = ctc("flow", *four.tuple(), "zone=7")["flow"]
            return "decision" in flow["original"] and "decision" in flow["reply"] and flow

        got = wait_until(learned, "a flow with decisions")
        source, destination, _, sport, dport = four.tuple()
        same((got["zone"], got["class"], got["family"], got["mark"]), (7, 77, 2, 0x55), "zone, class, family, mark")
        same(got["original"]["tuple"], {"protocol": 17, "source": source, "destination": destination, "source_port": sport,
                                        "destination_port": dport, "zone": 7}, "tuple")
        yes(got["timeout"] > 0 and got["start"] > 1e18 and got["original"]["packets"] >= 4, f"{got}")
        decision = got["original"]["decision"]
        same((decision["gateway"], decision["zone"], decision["mtu"], decision["family"]), ("10.0.2.2", 7, 1500, 2), "decision")
        yes("gateway" not in got["reply"]["decision"], "a gateway on link")
        got = six.descriptor()
        same((got["family"], got["class"], got["original"]["decision"]["gateway"]), (10, 3, "fd02::2"), "of IPv6")
        yes("zone" not in got["original"]["decision"], "a zone that is not named")
        # By the reply's tuple it is the same flow.
        swapped = (destination, source, 17, dport, sport, "zone=7")
        same(ctc("flow", *swapped)["flow"]["original"]["tuple"]["source"], source, "found by the reply's tuple")
        yes(refused(errno.ENOENT, ctc, "flow", "10.0.1.2", "10.0.9.99", 17, 1, 1), "no text")
        yes(refused(errno.ENOENT, ctc, "flow", "fd01::2", "fd09::99", 17, 1, 1, "zone=7"), "no text")


def test_flow_ipsec():
    """What policies said of a flow, and by which states its packets go."""
    with Net() as net:
        ip("r", "xfrm policy add src 0.0.0.0/0 dst 203.0.113.0/24 dir out action block")
        four, _ = net.flows()

        def says(way="original", **expected):
            four.go(1, patience=0.01)
            decision = four.descriptor()[way].get("decision", {"nothing": True})
            return expected == {name: decision[name] for name in ("nothing", "clear", "spi", "policy") if name in decision}

        four.settle()
        for way in ("original", "reply"):
            wait_until(lambda way=way: says(way, clear=True), lambda: f"policies that were asked: {four.descriptor()}")
        ip("r", "xfrm state add src 10.0.2.1 dst 10.0.2.2 proto esp spi 0x1234 reqid 1 mode tunnel "
                "enc ecb(cipher_null) '' auth digest_null ''\n"
                f"xfrm policy add src 10.0.1.2 dst {four.to} dir out index 0x91 tmpl src 10.0.2.1 dst 10.0.2.2 proto esp reqid 1 mode tunnel")
        wait_until(lambda: says(spi=0x1234, policy=0x91), lambda: f"state and policy: {four.descriptor()}")


def test_flow_socket():
    """Whose socket receives a flow, while there is one."""
    with Net() as net:
        for family, address in ((4, "10.0.1.1"), (6, "fd01::1")):
            flow = net.flow(family, at="r", to=address).settle(hits=False)
            stream = Stream(family, to=address, peer="r")
            (source, sport), (to, port) = stream.sock.getsockname()[:2], stream.sock.getpeername()[:2]
            for words, own in ((flow.tuple(), flow.peer.sock), ((source, to, 6, sport, port), stream.other)):
                os.fchown(own.fileno(), 1234, -1)
                got = ctc("flow", *words)["flow"]
                same(got["original"].get("socket_inode"), os.fstat(own.fileno()).st_ino, "inode")
                same(got["original"].get("socket_uid"), 1234, "uid")
                yes("socket_inode" not in got["reply"], "a socket in another namespace")
                own.close()
                yes(not ctc("flow", *words)["flow"]["original"].get("socket_inode"), "a socket that was closed")


def test_flow_dump():
    with Net(config=["zone=7"]) as net:
        nft("r", "table inet z { chain p { type filter hook prerouting priority raw; udp dport 9 ct zone set 7; }; }")
        flows = net.flows()
        with kit.inside("a"):
            sock = kit.socket.socket(kit.socket.AF_INET, kit.socket.SOCK_DGRAM)
        for last in range(1, 51):
            for port in range(2000, 2100):
                sock.sendto(b"x", (f"10.0.9.{last}", port))
        for port in range(20):
            with kit.inside("a"):
                extra = kit.socket.socket(kit.socket.AF_INET, kit.socket.SOCK_DGRAM)
            extra.sendto(b"x", ("10.0.9.1", 9))
        for flow in flows:
            flow.settle()
        everything = ctc("flows")
        tuples = {tuple(entry["flow"]["original"]["tuple"].values()) for entry in everything}
        wanted = int(conntrack("r", "-C") or 0)
        yes(len(everything) >= 5022, f"{len(everything)} flows")
        same(len(tuples), len(everything), "different ones")
        yes(abs(wanted - len(everything)) < 20, f"{len(everything)} flows, conntrack counts {wanted}")
        zone7 = ctc("flows", "zone=7")
        same((len(zone7), {entry["flow"]["zone"] for entry in zone7}), (20, {7}), "flows of zone 7")
        six = ctc("flows", "family=6")
        yes(six and {entry["flow"]["family"] for entry in six} == {10}, "flows of IPv6")
        wanted = {flow.sock.getsockname()[1] for flow in flows}

        def cached_ports():
            return {entry["flow"]["original"]["tuple"]["source_port"] for entry in ctc("flows", "cached")}

        # A link that is up by now may have begun an epoch.
        wait_until(lambda: cached_ports() == wanted or [flow.go(2) for flow in flows] == 0, "cached flows")
        cached = ctc("flows", "cached")
        same(len(ctc("flows", "cached", "family=4")), 1, "cached flows of IPv4")
        same(ctc("flows", "zone=8"), [], "flows of zone 8")
        yes(all("decision" in entry["flow"]["reply"] for entry in cached), "decisions")


def test_decision_dump():
    with Net(config=["zone=7"]) as net:
        flow = net.flow(4).settle(hits=False)
        for value in range(63):
            flow.sock.setsockopt(kit.socket.SOL_IP, kit.socket.IP_TOS, value << 2)
            flow.go(1)
        wait_until(flow.hits, "hits")
        entries = ctc("decisions")
        same(len(entries), ctc("stats")["stats"]["decisions"], "decisions")
        numbers = [entry["decision"]["number"] & 0xFFFF for entry in entries]
        same(numbers, list(range(1, len(entries) + 1)), "numbers, in order")
        yes(len({entry["decision"]["dscp"] for entry in entries}) > 1, "DSCP of the decisions")
        ctc("flush")
        same(ctc("decisions"), [], "after a flush")


def test_flush():
    with Net(config=["zone=7"]) as net:
        nft("r", "table ip z { chain p { type filter hook prerouting priority raw; iifname { ra, rb } ct zone set 7; }; }")
        four, six = net.flows()
        hits = epoch = None
        while not hits and epoch != ctc("stats")["epoch"]:  # an address that becomes valid meanwhile begins one
            for flow in (six, four):
                flow.settle()
            delta, epoch = Delta(), ctc("stats")["epoch"]
            ctc("flush", "zone=7")
            yes("decision" not in ctc("flow", *four.tuple(), "zone=7")["flow"]["original"], "zone 7 has forgotten")
            hits = six.hits()
        yes(hits, f"zone 0 has not: {delta.all()}")
        before = delta.miss_none
        four.go(1)
        yes(delta.miss_none > before, f"learns anew: {delta.all()}")
        ctc("flush", "zone=9")
        ctc("flush")
        same(delta.epoch_flush, 1, "epochs by flush")
        yes("decision" not in six.descriptor()["original"], "zone 0 has forgotten")
        for flow in (four, six):
            flow.settle()


def as_nobody(function):
    """Calls it with a client in r, in a process without rights; what went wrong."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            kit.setns(os.open("/run/netns/r", os.O_RDONLY))
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            function(client.Client())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text


def ask_everything(one):
    for name, command in CMD.items():
        if name in ("unspec", "fault"):
            continue
        for dump in (False, True):
            try:
                one.ask(command, carrier() if name == "config_set" else b"", dump)
            except client.Refused as error:
                yes(error.errno in (errno.EPERM, errno.EOPNOTSUPP), f"{name}: {error}")
                continue
            raise AssertionError(f"{name} was not refused")


def test_permission():
    with Net() as net:
        flow = net.flow(4).settle()
        before = ctc("get")["generation"]
        same(as_nobody(ask_everything), "", "what went wrong")
        same((state(), ctc("get")["generation"]), ("active", before), "state, generation")
        flow.settle()


def test_namespaces():
    with Net(config=["zone=7"]) as net:
        for name in "ab":
            same(ctc("get", name=name), {"generation": 0, "state": "off", "carrier": "none"}, f"the state of {name}")
        ctc("config", CARRIER, "class=9", name="b")
        same(ctc("get", name="b")["class"], 9, "class of b")
        same((ctc("get")["class"], len(ctc("get")["zones"])), (0, 1), "class of r, zones")
        net.flow(4).settle()
        same([len(ctc("flows", "cached", name=name)) for name in "ab"], [0, 0], "flows elsewhere")


def test_many_zones():
    """As many zones as a message can carry, in traffic."""
    with Net() as net:
        flow = net.flow(4).settle()
        words = [f"zone={number}:route:{number}" for number in range(5, 4005)]
        net.config(*words)
        got = ctc("get")
        same((len(got["zones"]), got["zones"][-1]), (4000, {"id": 4004, "kinds": 1, "class": 4004}), "zones")
        same(len(ctc("zones")), 4001, "messages")
        flow.settle()


if __name__ == "__main__":
    kit.main()
