#!/usr/bin/python3
"""From load to unload, in traffic: whatever comes and goes, no flow is lost, nothing stays behind, nothing waits for us."""

import os
import re
import time

import kit
from kit import DEBUG, Delta, Net, Skip, Traffic, conntrack, ctc, ip, nft, run, same, state, sysctl, wait_until, yes


LIVES, SECONDS = 100, 20  # as many lives of the module as fit into so many seconds


def available():
    """MiB of memory."""
    with open("/proc/meminfo") as file:
        return int(re.search(r"MemAvailable: +(\d+)", file.read())[1]) / 1024


def references():
    with open("/sys/module/nf_ctcache/refcnt") as file:
        return int(file.read())


def slab(*names):
    """Objects in use, by name of the cache."""
    with open("/proc/slabinfo") as file:
        return {line.split()[0]: int(line.split()[1]) for line in file if line.split()[0] in names}


def all_by(records, *devices):
    same([record for record in records if record[2] not in devices], [], "lost or astray")


def test_load_and_unload():
    """Many lives of the module."""
    with Net(carrier="none") as net:
        flows = [net.flow(family).settle(hits=False) for family in (4, 6)]
        end, turn = time.monotonic() + SECONDS, 0
        with Traffic(flows) as traffic:
            while turn < LIVES and (turn < 10 or time.monotonic() < end):
                kit.unload()
                kit.load()
                ctc("config", ("act_ct", "labels")[turn % 2], "proof=1")
                if turn % 10 == 0:
                    traffic.more(2)
                    net.flow(4).settle()
                turn += 1
            records = traffic.stop()
        print(f"     {turn} lives, {len(records)} exchanges")
        all_by(records, "rb")
        yes(len(records) > 50, f"only {len(records)} exchanges")
        same(kit.stat("mismatches"), 0, "mismatches")


def test_configure_often():
    """What configurations take they give back: each of these has 4 MiB of table."""
    with Net(config=["decisions=60000"]) as net:
        net.flow(4).settle()
        before = available(), references()
        for turn in range(60):
            net.config("decisions=60000", f"zone={turn}")
            if turn % 3 == 0:
                ctc("config", "none")
        same(references(), before[1], "references on the module")
        wait_until(lambda: available() > before[0] - 60, lambda: f"memory: {before[0]} MiB were available, now {available()}")


def hits_and_decisions(name):
    stats = ctc("stats", name=name)["stats"]
    return stats["hits"] and stats["decisions"]


def test_namespaces():
    """Namespaces that come, learn, and go with all that they have."""
    with Net() as net:
        flows = net.flows()
        yes(run("unshare", "-n", "true", check=False).returncode == 0, "no namespaces")
        run("modprobe", "dummy", check=False)
        with Traffic(flows) as traffic:
            for turn in range(8):
                name = f"x{turn}"
                run("ip", "-batch", "-", text=f"netns add {name}\nlink add xa netns {name} type veth peer name xb{turn} netns a\n")
                ip(name, "link set lo up\naddr add 10.9.9.1/24 dev xa\nlink set xa up")
                ip("a", f"addr add 10.9.9.2/24 dev xb{turn}\nlink set xb{turn} up")
                ctc("config", ("act_ct", "labels")[turn % 2], name=name)
                nft(name, "table inet t { chain f { type filter hook input priority 0; ct state established accept; }; }")
                sysctl(name, ipv4__ip_early_demux=0)
                flow = net.flow(4, at=name, to="10.9.9.1").settle(hits=False)
                # Addresses that become valid there begin epochs, which have no decisions yet.
                wait_until(lambda: hits_and_decisions(name) or flow.go(1) and 0, "hits and decisions there")
                flow.close()
                run("ip", "netns", "del", name)
                # The namespace is gone when its device is, whose other end goes with it.
                wait_until(lambda: f"xb{turn}" not in run("ip", "-n", "a", "-br", "link").stdout, "the end of the namespace")
            records = traffic.stop()
        all_by(records, "rb")


def test_interfaces():
    """A device goes at once, whatever was learned over it, and flows find the other way."""
    with Net(config=["proof=1"]) as net:
        ip("b", "route replace default via 10.0.3.1\nroute replace default via fd03::1")
        ip("r", "route add 10.0.9.0/24 via 10.0.3.2 metric 100\nroute add fd09::/64 via fd03::2 metric 9999")
        flows = net.flows()
        for turn in range(5):
            for flow in flows:
                flow.settle().via("rb", 2)
            began = time.monotonic()
            ip("r", "link del rb")
            took = time.monotonic() - began
            yes(took < 5, f"link del took {took:.1f} s")
            for flow in flows:
                flow.via("rc", 3)
            run("ip", "-batch", "-", text="link add rb netns r type veth peer name rb netns b\n")
            ip("b", "link set rb addrgenmode none\naddr add 10.0.2.2/24 dev rb\naddr add fd02::2/64 dev rb nodad\n"
                    "addr add fe80::2/64 dev rb nodad\nlink set rb up")
            ip("r", "link set rb addrgenmode none\naddr add 10.0.2.1/24 dev rb\naddr add fd02::1/64 dev rb nodad\n"
                    "addr add fe80::1/64 dev rb nodad\nlink set rb up\nroute add 10.0.9.0/24 via 10.0.2.2\nroute add fd09::/64 via fd02::2")
            with kit.inside("b"):
                for flow in flows:
                    flow.peer.devices.update(kit.socket.if_nameindex())
        same(kit.stat("mismatches"), 0, "mismatches")


def test_interface_moves():
    """A device that goes to another namespace is as good as deleted."""
    with Net() as net:
        ip("b", "route replace default via 10.0.3.1\nroute replace default via fd03::1")
        ip("r", "route add 10.0.9.0/24 via 10.0.3.2 metric 100\nroute add fd09::/64 via fd03::2 metric 9999")
        flows = net.flows()
        ip("r", "link set rb netns a")
        for flow in flows:
            flow.via("rc", 3)


def test_conntrack_flushed():
    with Net(config=["proof=1"]) as net:
        flows = [net.flow(family) for family in (4, 6) for _ in range(5)]
        for flow in flows:
            flow.settle(hits=False)
        with Traffic(flows) as traffic:
            for _ in range(20):
                conntrack("r", "-F")
                traffic.more(10)
            records = traffic.stop()
        all_by(records, "rb")
        same(kit.stat("mismatches"), 0, "mismatches")
        flows[0].settle()


def test_many_changes():
    """Routes change as fast as they can for some seconds, beside the flow's own.

    Not beside it in IPv6's tree: where a new route divides a branch, a lookup on another processor may find the node before
    its children (fib6_add_1(), net/ipv6/ip6_fib.c), and so no route, with any module or none.
    """
    with Net(config=["proof=1"]) as net:
        flows = net.flows()
        ip("r", "route add fd0c::/64 via fd03::2")
        changes = "".join(f"route {word} 198.51.100.{n}/32 via 10.0.3.2\nroute {word} fd0c::{n:x}/128 via fd03::2\n"
                          for n in range(250) for word in ("add", "del"))
        delta, number = Delta(), 0
        began = time.monotonic()
        with Traffic(flows) as traffic:
            while time.monotonic() < began + 4:
                ip("r", changes)
                number += 1000
            seconds = time.monotonic() - began
            records = traffic.stop()
        packets = 2 * len(records)
        print(f"     {number / seconds:.0f} changes a second: {packets / seconds:.0f} packets a second, "
              f"{100 * delta.hits / packets:.0f} % hits, {sum(way is None for _, _, way in records)} lost")
        all_by(records, "rb")
        same(delta.mismatches, 0, "mismatches")
        for flow in flows:
            flow.settle()


def test_dsts_are_given_back():
    """No route object stays behind, however often routes and epochs change."""
    if DEBUG:
        raise Skip("KASAN keeps what has been freed; kmemleak looks instead")
    with Net() as net:
        flows = net.flows()
        names = ("ip_dst_cache", "ip6_dst_cache", "nf_conntrack")

        def churn(number):
            for turn in range(number):
                net.way(("rc", "rb")[turn % 2])
                for flow in flows:
                    flow.go(1)
            # Freed after grace periods, on their own time.
            ctc("flush")
        churn(10)
        before = slab(*names)
        if not before:
            raise Skip("these caches have no names of their own")
        churn(70)  # more than may stay
        wait_until(lambda: all(value <= before[name] + 60 for name, value in slab(*names).items()) or ctc("flush"),
                   lambda: f"{before} became {slab(*names)}")


def test_down_and_up():
    """Everything of the router goes down and comes back."""
    with Net(config=["proof=1"]) as net:
        flows = net.flows()
        for _ in range(3):
            ip("r", "link set ra down\nlink set rb down")
            same([flow.exchange(0.2) for flow in flows], [None, None], "without links")
            ip("r", "link set ra up\nlink set rb up\naddr replace fd01::1/64 dev ra nodad\naddr replace fe80::1/64 dev ra nodad\n"
                    "addr replace fd02::1/64 dev rb nodad\naddr replace fe80::1/64 dev rb nodad\n"
                    "route replace 10.0.9.0/24 via 10.0.2.2\nroute replace fd09::/64 via fd02::2")
            for flow in flows:
                flow.settle().via("rb")
        same(kit.stat("mismatches"), 0, "mismatches")


if __name__ == "__main__":
    kit.main()
