#!/usr/bin/python3
"""Private data of other modules: each record ends once, with its own flow, whatever is loaded, unloaded or lost.

The modules of sample/ keep the records and count: elephants.ko as a user of the header would, others.ko at the limits.
$KMOD_elephants and $KMOD_others are in the environment (tests/vm/run).
"""

import contextlib
import itertools
import os
import re

import kit
from carriers import FAILSLAB, FailNth, failing, one_processor
from kit import DEBUG, Net, Skip, Traffic, conntrack, ctc, ip, nft, run, same, sysctl, wait_until, yes

MARK = "mark=3614"  # of elephants, in conntrack's words
UNTIL_SEEN = 20  # seconds until an end is noticed, at the very most


@contextlib.contextmanager
def module(name, *words):
    """Loaded meanwhile. What it says at its end must be that every record that began has ended."""
    run("insmod", os.environ[f"KMOD_{name}"], *words)
    try:
        yield
    finally:
        if kit.loaded(name):
            goodbye(name)


def goodbye(name):
    """Unloads it: how many records it had had."""
    run("rmmod", name)
    last = [line for line in run("dmesg").stdout.splitlines() if f"{name}:" in line][-1]
    numbers = [int(number) for number in re.findall(r"\d+", last.partition(f"{name}:")[2])]
    if name == "elephants":
        began, ended = numbers
    else:
        _, began, ended, wrong = numbers
        same(wrong, 0, "wrong records")
    same(ended, began, f"records of {name} that ended, of those that began")
    return began


def counts():
    with open("/proc/elephants") as file:
        return {name: int(value) for name, value in (line.split() for line in file)}


def switch(word):
    with open("/proc/elephants", "w") as file:
        file.write(word)


def records():
    """name -> (records, records that could not be had)"""
    with open("/sys/module/nf_ctcache/parameters/records") as file:
        return {name: (int(number), int(refused)) for name, number, refused in (line.split() for line in file)}


def listed():
    return conntrack("r", "-L") + conntrack("r", "-L", "-f", "ipv6")


def entries(name="r"):
    with kit.inside(name), open("/proc/sys/net/netfilter/nf_conntrack_count") as file:
        return int(file.read())


def all_ended():
    """Waits until no record is left, and checks that each ended once, with the flow that it began with."""
    wait_until(lambda: not any(number for number, _ in records().values()), lambda: f"the end of {records()}",
               UNTIL_SEEN)
    now = counts()
    same((now["ended"], now["strangers"]), (now["began"], 0), f"ended, strangers; {now}")
    return now


def all_by(exchanges, *devices):
    same([exchange for exchange in exchanges if exchange[2] not in devices], [], "lost or astray")


class Burst:
    """Many flows of a, of packets that b drops."""

    def __init__(self, net, number):
        nft("b", "table inet d { chain i { type filter hook prerouting priority -400; udp dport 10000-29999 drop; }; }")
        with kit.inside("a"):
            self.sock = kit.socket.socket(kit.socket.AF_INET, kit.socket.SOCK_DGRAM)
        self.goals = [(f"10.0.9.{1 + i // 20000}", 10000 + i % 20000) for i in range(number)]
        net.flow(4).settle(hits=False)

    def send(self):
        for goal in self.goals:
            self.sock.sendto(b"x", goal)


# --- what a record is good for ---

def test_counting():
    """Every packet of a flow but the first, which is too early; the bytes as well; the mark of those that are large."""
    with Net() as net, module("elephants", "threshold=5000"):
        flows = [net.flow(family) for family in (4, 6)]
        for flow in flows:
            flow.settle(hits=False)
        conntrack("r", "-F")
        before = all_ended()
        wanted = 0
        for flow, header in zip(flows, (28, 48)):
            first = flow.sent + 1
            flow.via("rb", 20)
            sizes = [header + len(b"%s%d " % (flow.head, first + number)) for number in range(20)]
            wanted += 2 * sum(sizes) - sizes[0]
        for flow, marks in ((flows[0], 0), (flows[0], 1)):
            flow.exchange(size=1400)
            wanted += 2 * (28 + 1400 + len(b"%s%d " % (flow.head, flow.sent)))
            same(listed().count(MARK), marks, "marked flows")
        same(records()["elephants"][0], 2, "records")
        conntrack("r", "-F")
        after = all_ended()
        same({name: after[name] - before[name] for name in after},
             {"began": 2, "ended": 2, "cut": 0, "packets": 2 * (2 * 20 + 2) - 2, "bytes": wanted, "elephants": 1,
              "without": 0, "early": 2, "strangers": 0}, "counted")


def test_without_a_cache():
    """Records need no cache in the namespace, nor room in the entries; and the cache does not mind records."""
    with Net(carrier="none") as net, module("elephants"):
        old = [net.flow(family).settle(hits=False) for family in (4, 6)]
        same(records()["elephants"], (2, 0), "records")
        for words in (("act_ct", "proof=1"), ("labels", "proof=1"), ("none",), ("act_ct", "proof=1")):
            ctc("config", *words)
            for flow in old:
                flow.via("rb", 3)
            if words[0] != "none":
                for family in (4, 6):
                    flow = net.flow(family).settle()
                    same(flow.hits(), True, "all are hits")
        same(records()["elephants"], (8, 0), "records")
        same(kit.stat("mismatches"), 0, "mismatches")
        kit.run("conntrack", "-F")  # of another namespace
        same(records()["elephants"], (8, 0), "records")


# --- the end of entries ---

def ending(net, how):
    flows = [net.flow(family).settle(hits=False) for family in (4, 6) for _ in range(3)]
    same(records()["elephants"][0], 6, "records")
    how()
    wait_until(lambda: entries() == 0, lambda: f"the end of {entries()} entries", UNTIL_SEEN)
    now = all_ended()
    for flow in flows:
        flow.via("rb", 2).close()
    same(counts()["began"], now["began"] + 6, "records that began anew")
    conntrack("r", "-F")
    all_ended()


def test_deleted():
    with Net() as net, module("elephants"):
        ending(net, lambda: [conntrack("r", "-D", "-p", "udp", "-f", family) for family in ("ipv4", "ipv6")])


def test_flushed():
    with Net() as net, module("elephants"):
        ending(net, lambda: conntrack("r", "-F"))


def test_timed_out():
    with Net() as net, module("elephants"):
        sysctl("r", netfilter__nf_conntrack_udp_timeout=1, netfilter__nf_conntrack_udp_timeout_stream=1)
        # A dump throws out what has expired; by itself conntrack does so within a minute.
        ending(net, lambda: wait_until(lambda: "udp" not in listed(), "the end of the time"))


def test_ends_in_traffic():
    """Entries that end and come back as fast as they can."""
    with Net(config=["proof=1"]) as net, module("elephants"), module("others"):
        flows = [net.flow(family).settle(hits=False) for family in (4, 6) for _ in range(4)]
        with Traffic(flows) as traffic:
            for _ in range(5 if DEBUG else 40):
                conntrack("r", "-F")
                traffic.more(10)
            exchanges = traffic.stop()
        all_by(exchanges, "rb")
        conntrack("r", "-F")
        yes(all_ended()["began"] > 20, f"only {counts()}")
        same(kit.stat("mismatches"), 0, "mismatches")


def test_recycled():
    """Memory of entries that ended becomes other entries at once: none of them ever has an old record."""
    with Net() as net, module("elephants"):
        for turn in range(10 if DEBUG else 40):
            flows = [net.flow(4) for _ in range(10)]
            for flow in flows:
                flow.go(2)
            conntrack("r", "-F")
            for flow in flows:
                flow.close()
            if turn % 10 == 9:
                all_ended()
        yes(counts()["began"] >= 100, f"only {counts()}")
        same(counts()["strangers"], 0, "strangers")


def test_namespaces_go():
    """With records alive; their entries must not hold up conntrack's part of the namespace's end."""
    with module("elephants"), module("others"):
        for _ in range(4):
            with Net() as net:
                for family in (4, 6):
                    net.flow(family).settle()
                same(records()["elephants"][0], 2, "records")
            all_ended()
        same(counts()["cut"], 8, "records that ended before their entries")


def test_another_namespace_goes():
    """Only its own records end with a namespace."""
    with Net() as net, module("elephants"):
        flows = [net.flow(family).settle(hits=False) for family in (4, 6)]
        run("ip", "-batch", "-", text="netns add x\nlink add xa netns x type veth peer name xb netns a\n")
        run("ip", "netns", "del", "x")
        wait_until(lambda: "xb" not in run("ip", "-n", "a", "-br", "link").stdout, "the end of the namespace")
        with module("others"):  # which waits for what is left of that
            same((records()["elephants"], counts()["ended"]), ((2, 0), 0), "records, ended")
            for flow in flows:
                flow.via("rb", 2)
        same(counts()["began"], 2, "began")


# --- modules that come and go ---

def test_any_order():
    """Cache, sample and other users, started in any order and stopped in any order, in traffic."""
    with Net(carrier="none") as net:
        flows = [net.flow(family).settle(hits=False) for family in (4, 6)]
        parts = ("cache", "elephants", "others")
        orders = list(itertools.permutations(parts))
        with Traffic(flows) as traffic:
            for turn, up in list(enumerate(orders))[::2 if DEBUG else 1]:
                down = orders[(5 * turn + 3) % len(orders)]
                for part in up:
                    ctc("config", "act_ct", "proof=1") if part == "cache" else run("insmod", os.environ[f"KMOD_{part}"])
                    traffic.more(4)
                yes(run("rmmod", "nf_ctcache", check=False).returncode, "nf_ctcache could be unloaded with users")
                for part in down:
                    if part == "cache":
                        ctc("config", "none")
                    else:
                        yes(goodbye(part) >= 2, f"{part} had no records")
                    traffic.more(4)
                kit.unload()
                yes(run("insmod", os.environ["KMOD_elephants"], check=False).returncode, "loaded without nf_ctcache")
                kit.load()
            exchanges = traffic.stop()
        all_by(exchanges, "rb")


def test_unloaded_with_records():
    """Many lives of the users, each with records of the flows that go on."""
    with Net(config=["proof=1"]) as net:
        flows = [net.flow(family).settle() for family in (4, 6) for _ in range(3)]
        with Traffic(flows) as traffic:
            for _ in range(2 if DEBUG else 15):
                with module("elephants"), module("others"):
                    traffic.more(20)
                    yes(goodbye("others") >= 6, "others had no records")
                    yes(goodbye("elephants") >= 6, "elephants had no records")
            exchanges = traffic.stop()
        all_by(exchanges, "rb")
        for flow in flows:
            flow.settle()
        same(kit.stat("mismatches"), 0, "mismatches")


def test_switched():
    """A kind goes and comes while hooks ask for its records."""
    with Net() as net, module("elephants"):
        flows = [net.flow(family).settle(hits=False) for family in (4, 6) for _ in range(3)]
        with Traffic(flows) as traffic:
            for _ in range(10 if DEBUG else 40):
                switch("off")
                same(records(), {}, "records without a kind")
                now = counts()
                same((now["ended"], now["strangers"]), (now["began"], 0), f"ended, strangers; {now}")
                traffic.more(2)
                same(counts()["began"], now["began"], "began without a kind")
                yes(counts()["without"] > now["without"], "nobody asked")
                switch("on")
                traffic.more(12)
                same(records()["elephants"][0], 6, "records")
            exchanges = traffic.stop()
        all_by(exchanges, "rb")


# --- many, and none ---

def test_many():
    number = 1000 if DEBUG else 30000
    with Net() as net, module("elephants"), module("others"):
        burst = Burst(net, number)
        for _ in range(2):
            burst.send()
        found = records()
        same([found[name][0] for name in ("elephants", "smallest", "largest")], [number + 1] * 3, "records")
        burst.send()
        same(counts()["without"], 0, "without a record")
        conntrack("r", "-F")
        wait_until(lambda: entries() == 0, lambda: f"the end of {entries()} entries", UNTIL_SEEN)
        same(all_ended()["began"], number + 1, "records")


def test_flood():
    """In a flood of flows the entries that ended do not pile up."""
    number = 500 if DEBUG else 2000
    with Net() as net, module("elephants"):
        burst = Burst(net, number)
        most = 0
        for _ in range(5 if DEBUG else 40):
            for _ in range(2):
                burst.send()
            most = max(most, entries())
            conntrack("r", "-F")
        print(f"     at most {most} entries of {number} flows")
        yes(most < 2.5 * number, f"{most} entries of {number} flows")
        all_ended()


def taken(net, number):
    """Objects of the kernel's that so many flows take."""
    def objects():
        with open("/proc/slabinfo") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith(("kmalloc-", "nf_conntrack ")))
    burst = Burst(net, number)
    before = objects()
    for _ in range(2):
        burst.send()
    after = objects()
    conntrack("r", "-F")
    return after - before


def test_nothing_without():
    """A flow without a record takes what it took without the facility; one with, one object more."""
    if DEBUG:
        raise Skip("KASAN keeps what has been freed, for a while")
    number = 10000
    with Net() as net:
        taken(net, number)
        plain = taken(net, number)
        with module("elephants", "port=9"):
            idle = taken(net, number)
            same((records()["elephants"], counts()["early"]), ((0, 0), 0), "records, early")
        with module("elephants"):
            busy = taken(net, number)
            all_ended()
        print(f"     objects of {number} flows: {plain}, with an idle kind {idle}, with records {busy}")
        yes(plain > 1.5 * number, "this does not count objects")
        yes(abs(idle - plain) < 0.1 * number, "an idle kind takes something")
        yes(0.8 * number < busy - plain < 1.3 * number, "a record is not one object")


# --- memory that cannot be had (kernels with fault injection) ---

def test_record_without_memory():
    """The flow goes on without, and has a record when there is memory again."""
    if not os.path.exists("/sys/kernel/slab/kmalloc-128/failslab"):
        raise Skip("no fault injection in this kernel")
    with Net() as net, module("elephants", "port=9"), one_processor():
        flows = [net.flow(family).settle(hits=False) for family in (4, 6)]
        with failing(cache_filter="Y", ignore_gfp_wait="Y", times=-1, probability=100):
            with open("/sys/module/elephants/parameters/port", "w") as file:
                file.write("0")
            for flow in flows:
                flow.via("rb", 5)
        same((counts()["began"], counts()["without"], records()["elephants"]), (0, 20, (0, 20)), "began, without, records")
        for flow in flows:
            flow.via("rb", 1)
        same((records()["elephants"], counts()["began"]), ((2, 20), 2), "records, began")
        conntrack("r", "-F")
        all_ended()


def test_registered_without_memory():
    """Each allocation of a registration fails in its turn: none of them is indispensable (rhashtable_init())."""
    if not os.path.exists(FAILSLAB):
        raise Skip("no fault injection in this kernel")
    with Net() as net, module("elephants"), failing():
        flow = net.flow(4).settle(hits=False)
        nth, number, failed = FailNth(), 0, True
        while failed:
            switch("off")
            same(records(), {}, "kinds")
            number += 1
            fd = os.open("/proc/elephants", os.O_WRONLY)
            nth.arm(number)
            written = os.write(fd, b"on")
            failed = nth.disarm()
            os.close(fd)
            same(written, 2, "written")
            flow.via("rb", 2)
            same(records()["elephants"], (1, 0), "records")
        yes(number > 1, "no allocation failed")


if __name__ == "__main__":
    kit.main()
