#!/usr/bin/python3
"""A number never leads a flow to a decision that a new lookup would not find.

Each test brings about a moment in which a conntrack entry holds a number that means something else by now, and looks where the
packets go: b tells by which device they came. Proof mode is off where that counts, since it corrects what it finds.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kit
from kit import Delta, Net, Skip, Traffic, conntrack, ctc, ip, nft, run, same, state, sysctl, wait_until, yes


def flow_to(net, device, last, family=4, **options):
    """A flow to an address of its own, which r reaches by that device."""
    to = {4: f"10.0.9.{last}", 6: f"fd09::{last:x}"}[family]
    number = kit.LINKS[device][1]
    ip("r", f"route replace {to} via " + {4: f"10.0.{number}.2", 6: f"fd0{number}::2"}[family])
    return net.flow(family, to=to, **options)


def event():
    """Something that starts an epoch and changes nothing else."""
    ip("r", "route add 192.0.2.0/24 via 10.0.1.2\nroute del 192.0.2.0/24")


def quiet(name="r"):
    """Waits until no second epoch of an event is due any more; returns the epoch."""
    while True:
        epoch = ctc("get", name=name)["epoch"]
        time.sleep(0.15)
        if epoch and ctc("get", name=name)["epoch"] == epoch:
            return epoch


def number(flow, direction="original"):
    decision = flow.descriptor()[direction].get("decision")
    return decision["number"] if decision else 0


# --- old numbers ---

def test_reload():
    """A new life of the module counts its epochs and slots from 1 again."""
    with Net() as net:
        left, right = (flow_to(net, device, last) for device, last in (("rb", 11), ("rc", 12)))
        for flow in (left, right):
            flow.settle(hits=False)
        quiet()
        ctc("config", "none")
        net.config()  # epoch 1; the first to learn has slot 1
        left.via("rb")
        same(number(left) >> 16, 1, "epoch of the first decision")
        kit.unload()
        yes(not kit.loaded(), "still loaded")
        left.via("rb")
        kit.load()
        net.config()
        right.via("rc")
        left.via("rb")
        right.via("rc")


def test_planted():
    """Whatever lies where the numbers will be when the cache is switched on counts for nothing."""
    with Net(carrier="labels") as net:
        left, right = flow_to(net, "rb", 11), flow_to(net, "rc", 12)
        quiet()
        ctc("config", "none")
        nft("r", "table inet l { chain p { type filter hook prerouting priority -10; ct label set 64; ct label set 80; "
                 "ct label set 96; ct label set 112; }; }")
        for flow in (left, right):
            flow.settle(hits=False)
        nft("r", "delete table inet l")
        net.config()
        right.via("rc", 3)
        same(number(right), 1 << 16 | 1, "number of the first decision")
        left.via("rb", 3)


def test_slots_again():
    """A slot means something else in every epoch."""
    with Net() as net:
        left, right = flow_to(net, "rb", 11), flow_to(net, "rc", 12)
        for flow in (left, right):
            flow.settle(hits=False)
        for _ in range(5):
            for first, device, second, other in ((left, "rb", right, "rc"), (right, "rc", left, "rb")):
                event()
                quiet()
                first.via(device, 2)
                second.via(other, 2)
        yes(number(left) & 0xFFFF != number(right) & 0xFFFF, "both have the same slot")


def wrap():
    """Goes to the end of the epochs and beyond."""
    ctc("fault", "epoch=32764")
    sweeps, wraps = kit.stat("sweeps"), kit.stat("epoch_wrap")
    wait_until(lambda: event() or kit.stat("epoch_wrap") > wraps, "the wrap")
    wait_until(lambda: state() == "active", "the end of the sweep")
    yes(kit.stat("sweeps") > sweeps, "no sweep was counted")
    yes(quiet() < 100, "the epochs did not start over")


def wrapped(carrier):
    with Net(carrier=carrier) as net:
        left, right = flow_to(net, "rb", 11), flow_to(net, "rc", 12)
        for flow in (left, right):
            flow.settle(hits=False)
        quiet()
        ctc("fault", "epoch=32762")
        left.via("rb", 2)
        old = number(left)
        same(old >> 16, 32762, "epoch of what was learned")
        wrap()
        # The same epoch again, in which the slot is the other flow's.
        ctc("fault", "epoch=32762")
        right.via("rc", 2)
        same(number(right), old, "number of the other flow")
        left.via("rb", 3)


def test_wrapped_act_ct():
    wrapped("act_ct")


def test_wrapped_labels():
    wrapped("labels")


def test_wrap_under_traffic():
    with Net(config=["proof=1"]) as net:
        flows = [flow.settle() for flow in net.flows()]
        with Traffic(flows) as traffic:
            for _ in range(3):
                wrap()
                traffic.more(20)
            records = traffic.stop()
        same([record for record in records if record[2] != "rb"], [], "lost or astray")
        same(kit.stat("mismatches"), 0, "mismatches")
        for flow in flows:
            flow.settle()


def test_config_while_sweeping():
    """A configuration at the very end of the epochs."""
    with Net() as net:
        left, right = flow_to(net, "rb", 11).settle(), flow_to(net, "rc", 12).settle()
        for epoch in (32766, 32767):
            quiet()
            ctc("fault", f"epoch={epoch}")
            left.via("rb", 2)
            for _ in range(4):
                net.config()
                event()
            wait_until(lambda: state() == "active", "active")
            right.via("rc", 3)
            left.via("rb", 3)
            left.settle()


def test_recycled():
    """A conntrack entry that was another flow's: under a cache that hears of nothing, old numbers would be valid."""
    with Net() as net:
        net.flow(4, to="10.0.9.11").settle()
        ctc("fault", "deaf")
        try:
            olds = [net.flow(4, to="10.0.9.11").settle(hits=False) for _ in range(50)]
            yes(all(number(flow) for flow in olds[-5:]), "nothing was learned")
            conntrack("r", "-F")
            ip("r", "route add 10.0.9.11 via 10.0.3.2")
            for _ in range(60):
                net.flow(4, to="10.0.9.11").via("rc", 3)
            for flow in olds:
                flow.via("rc", 2)
        finally:
            ctc("fault", "none")


def test_two_namespaces():
    """b caches as well: the same epochs and slots there are other decisions."""
    with Net(config=["proof=1"]) as net:
        sysctl("b", ipv4__ip_early_demux=0, ipv6__conf__all__forwarding=1)
        nft("b", "table inet t { chain f { type filter hook input priority 0; ct state established accept; }; }")
        ctc("config", net.carrier, "proof=1", name="b")
        flows = net.flows()
        here, there = Delta(), Delta("b")
        for flow in flows:
            flow.via("rb", 5)
        yes(here.hits >= 18 and there.hits >= 9, f"hits: {here.all()} {there.all()}")
        # What happens in one is nothing to the other.
        epoch = quiet("b")
        ip("r", "route add 192.0.2.0/24 via 10.0.1.2")
        ctc("flush")
        same(ctc("get", name="b")["epoch"], epoch, "epoch of b")
        ctc("config", "none", name="b")
        same((state("b"), state("r")), ("off", "active"), "states")
        for flow in flows:
            flow.settle().via("rb")
        same((here.mismatches, state()), (0, "active"), "mismatches and state")


def test_two_zones():
    """Two flows of one tuple."""
    with Net(config=["zone=1:route:11", "zone=2:route:22"]) as net:
        # The same source by two inputs; zone and mark tell them apart, on the way back as well.
        ip("a", "rule add fwmark 9 lookup 9\nroute add default via 10.0.4.1 table 9")
        ip("a", "addr add 10.0.5.5/32 dev lo")
        ip("r", "route add 10.0.5.5 via 10.0.1.2\nrule add fwmark 2 lookup 100\nroute add 10.0.9.0/24 via 10.0.3.2 table 100\n"
                "route add 10.0.5.5 via 10.0.4.2 table 100")
        ip("b", "rule add fwmark 9 lookup 9\nroute add default via 10.0.3.1 table 9")
        nft("r", "table ip z { chain p { type filter hook prerouting priority raw; iifname { ra, rb } ct zone set 1; "
                 "iifname { rd, rc } ct zone set 2; }; "
                 "chain m { type filter hook prerouting priority mangle; iifname { rd, rc } meta mark set 2; }; }")
        flow = net.flow(4, source="10.0.5.5")
        so_mark = 36
        quiet()
        for _ in range(3):
            for mark, device in ((0, "rb"), (9, "rc")):
                flow.sock.setsockopt(kit.socket.SOL_SOCKET, so_mark, mark)
                flow.peer.sock.setsockopt(kit.socket.SOL_SOCKET, so_mark, mark)
                flow.via(device, 4)
        one, two = (ctc("flow", *flow.tuple(), f"zone={zone}")["flow"] for zone in (1, 2))
        same((one["class"], two["class"]), (11, 22), "classes")
        yes(one["original"]["decision"]["oif"] != two["original"]["decision"]["oif"], "the same way")
        # To flush one zone leaves the other's numbers alone.
        quiet()
        flow.via("rc", 2)
        ctc("flush", "zone=1")
        one, two = (ctc("flow", *flow.tuple(), f"zone={zone}")["flow"] for zone in (1, 2))
        yes("decision" not in one["original"] and "decision" in two["original"], f"after the flush: {one} {two}")
        zones = {entry.get("zone_id"): entry["stats"] for entry in ctc("zones")}
        yes(zones[1]["hits"] > 0 and zones[2]["hits"] > 0, f"{zones}")


# --- changes ---

def test_every_change():
    """From the moment on when the command has returned no packet takes the old way."""
    with Net() as net:
        four, six = net.flows()
        changes = [("route replace 10.0.9.0/24 via 10.0.3.2\nroute replace fd09::/64 via fd03::2", "rc"),
                   ("route add 10.0.9.1/32 via 10.0.2.2\nroute add fd09::1/128 via fd02::2", "rb"),
                   ("route del 10.0.9.1/32\nroute del fd09::1/128", "rc"),
                   ("route replace 10.0.9.0/24 via 10.0.2.2\nroute replace fd09::/64 via fd02::2", "rb"),
                   ("route add 10.0.9.0/24 via 10.0.3.2 table 7\nroute add fd09::/64 via fd03::2 table 7\n"
                    "rule add from 10.0.1.0/24 lookup 7\n-6 rule add from fd01::/64 lookup 7", "rc"),
                   ("rule del from 10.0.1.0/24\n-6 rule del from fd01::/64", "rb"),
                   ("route add 10.0.9.0/24 via 10.0.3.2 metric 9\nroute add fd09::/64 via fd03::2 metric 9999", "rb"),
                   ("link set rb down", "rc"),
                   ("link set rb up\naddr add fd02::1/64 dev rb nodad\naddr add fe80::1/64 dev rb nodad\n"
                    "route replace 10.0.9.0/24 via 10.0.2.2\nroute replace fd09::/64 via fd02::2", "rb"),
                   ("addr del 10.0.2.1/24 dev rb\naddr del fd02::1/64 dev rb\n"
                    "route replace 10.0.9.0/24 via 10.0.3.2\nroute replace fd09::/64 via fd03::2", "rc")]
        ip("b", "route replace default via 10.0.3.1\nroute replace default via fd03::1")
        for _ in range(2):
            for flow in (four, six):
                flow.settle()
        for commands, device in changes:
            ip("r", commands)
            for flow in (four, six):
                flow.via(device, 2)


# The route that it hides stays valid: one that goes is given up by the kernel, which a hit notices by itself.
BETTER = "route add 10.0.9.1/32 via 10.0.3.2\nroute add fd09::1/128 via fd03::2"


def test_deaf():
    """Proof mode sees a stale route, and the packet goes the right way all the same."""
    with Net(config=["proof=1"]) as net:
        flows = net.flows()
        ctc("fault", "deaf")
        try:
            for flow in flows:
                flow.settle()  # an epoch of before may have been due
            ip("r", BETTER)
            delta = Delta()
            for flow in flows:
                before = delta.mismatches
                flow.via("rc", 3)
                yes(delta.mismatches > before, f"no mismatch was seen, IPv{flow.family}: {delta.all()}")
        finally:
            ctc("fault", "none")


def test_deaf_unproved():
    """Without proof the same fault sends packets astray: so the tests of ways here can fail."""
    with Net() as net:
        flow = net.flow(4)
        ctc("fault", "deaf")
        try:
            flow.settle()
            ip("r", BETTER)
            same(flow.go(3), ["rb"] * 3, "ways of a deaf cache")
        finally:
            ctc("fault", "none")
        event()
        flow.via("rc", 3)


# --- late publication ---

LATE = [
    (4, "route replace 10.0.9.0/24 via 10.0.3.2", "rc"),
    (4, "route add 10.0.9.1/32 via 10.0.2.2", "rb"),
    (4, "route del 10.0.9.1/32", "rc"),
    (4, "rule add from 10.0.1.0/24 lookup 7", "rb"),
    (4, "rule del from 10.0.1.0/24", "rc"),
    (6, "route replace fd09::/64 via fd03::2", "rc"),
    (6, "route add fd09::1/128 via fd02::2", "rb"),
    (6, "route del fd09::1/128", "rc"),
    (6, "-6 rule add from fd01::/64 lookup 7", "rb"),
    (6, "-6 rule del from fd01::/64", "rc"),
]


def late(words):
    """Changes that are published late, with packets looked up on the other CPU meanwhile; none takes the old way afterwards."""
    if "KMOD_late" not in os.environ:
        raise Skip("selftest/late is not built")
    if os.cpu_count() < 2:
        raise Skip("needs two CPUs")
    with Net(config=words) as net:
        flows = {flow.family: flow for flow in net.flows()}
        ip("r", "route add 10.0.9.0/24 via 10.0.2.2 table 7\nroute add fd09::/64 via fd02::2 table 7")
        with kit.inside("r"):
            run("insmod", os.environ["KMOD_late"])
        os.sched_setaffinity(0, {1})
        try:
            for family, command, device in LATE:
                late_change(flows[family], command, device)
        finally:
            os.sched_setaffinity(0, {0, 1})
            run("rmmod", "late")
        same(kit.stat("mismatches"), 0, "mismatches")


def late_change(flow, command, device):
    """Processor 0 makes the change and is held in it; 1, where we are, sends meanwhile."""
    parameters = Path("/sys/module/late/parameters")
    calls = lambda: int((parameters / "calls").read_text())

    def change():
        os.sched_setaffinity(0, {0})  # of this thread, and of what it starts
        ip("r", command)

    with Traffic([flow], cpu=1) as traffic, ThreadPoolExecutor() as pool:
        traffic.more(5)
        before = calls()
        (parameters / "held").write_text("1")
        changed = pool.submit(change)
        try:
            wait_until(lambda: calls() > before, f"the news of {command}")
            heard = time.monotonic()
            traffic.more(20)
            released = time.monotonic()
        finally:
            (parameters / "held").write_text("0")
        changed.result()
        ended = time.monotonic()
        traffic.more(30)
        records = traffic.stop()
    during = [way for when, _, way in records if heard < when < released]
    after = [way for when, _, way in records if when >= ended]
    yes(len(during) > 10, f"{command}: only {len(during)} packets meanwhile")
    yes(released - heard < 10, f"{command}: held for {released - heard:.1f} s, longer than it lasts")
    same(set(after), {device}, f"ways after {command} ({len(during)} packets meanwhile)")
    same(None in during, False, f"a loss during {command}")


def test_late():
    late([])


def test_late_proved():
    late(["proof=1"])


if __name__ == "__main__":
    kit.main()
