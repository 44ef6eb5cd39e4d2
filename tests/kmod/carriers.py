#!/usr/bin/python3
"""Where the numbers live: rivals that come for the room, a change of place, no room at all."""

import contextlib
import errno
import os
import re

import kit
from kit import Delta, Net, Skip, Traffic, ctc, gained, hits_none, ip, nft, refused, run, same, state, wait_until, yes

FAILSLAB, FAIL_PAGE = "/sys/kernel/debug/failslab", "/sys/kernel/debug/fail_page_alloc"


@contextlib.contextmanager
def rival(name):
    if run("modprobe", name, check=False).returncode:
        raise Skip(f"no {name}")
    try:
        yield
    finally:
        run("rmmod", name)


def arrives(name):
    """It comes while packets are on their way: nothing hits from then on, flows go on, and other room may be taken."""
    with Net(carrier="act_ct") as net:
        flows = net.flows()
        with Traffic(flows) as traffic:
            traffic.more(10)
            with rival(name):
                same(state(), "lost", "state")
                same([ctc("get")["epoch"], ctc("decisions"), ctc("flows", "cached")], [0, [], []], "epoch, decisions, cached flows")
                delta = Delta()
                traffic.more(20)
                same((delta.hits, delta.learned), (0, 0), "hits, learned")
                text = refused(errno.EBUSY, ctc, "config", "act_ct")
                yes(name in text and "labels" in text, f"the text says '{text}'")
                same(state(), "lost", "state after the refusal")
                ctc("flush")
                same(state(), "lost", "state after a flush")
                ip("r", "route add 192.0.2.0/24 via 10.0.1.2")
                ctc("config", "labels", "proof=1")
                same(state(), "active", "state")
                for family in (4, 6):
                    net.flow(family).settle()
            # Once it has gone, its room may be had again.
            ctc("config", "act_ct")
            traffic.more(10)
            records = traffic.stop()
        same([record for record in records if record[2] != "rb"], [], "lost or astray")
        for flow in flows:  # they have had room for numbers in this carrier all the time
            flow.settle()
        same(kit.stat("mismatches"), 0, "mismatches")


def test_act_ct_arrives():
    arrives("act_ct")


def test_openvswitch_arrives():
    arrives("openvswitch")


def is_first(name):
    with rival(name), Net(carrier="none"):
        text = refused(errno.EBUSY, ctc, "config", "act_ct")
        yes(name in text, f"the text says '{text}'")
        same(ctc("get"), {"generation": 0, "state": "off", "carrier": "none"}, "after the refusal")
        ctc("config", "labels")
        same(state(), "active", "state")
        refused(errno.EBUSY, ctc, "config", "act_ct")
        same((state(), ctc("get")["carrier"]), ("active", "labels"), "after another refusal")


def test_act_ct_is_first():
    is_first("act_ct")


def test_openvswitch_is_first():
    is_first("openvswitch")


def test_lost_then_off():
    """Unloading, and switching off, in the state that act_ct leaves it in."""
    with Net(carrier="act_ct") as net:
        flow = net.flow(4).settle()
        with rival("act_ct"):
            flow.via("rb")
            ctc("config", "none")
            same(state(), "off", "state")
            flow.via("rb")
        net.config()
        net.flow(4).settle()
        with rival("act_ct"):
            kit.unload()
            flow.via("rb")
        kit.load()
        net.config()
        net.flow(4).settle()


def test_user_labels():
    """The lower 64 label bits belong to whoever sets them, whatever the cache does in the upper ones."""
    with Net(carrier="labels") as net:
        nft("r", "table inet l { chain p { type filter hook prerouting priority -10; ct label set 3; ct label set 63; }; "
                 "chain f { type filter hook forward priority 10; ct state established ct label 3 ct label 63 counter; "
                 "ct label 0 counter; ct label 62 counter; }; }")
        flows = net.flows()
        for _ in range(3):
            for flow in flows:
                flow.via("rb")
            ctc("flush", "zone=0")
            net.config()
        nft("r", "flush chain inet l p")
        for flow in flows:
            flow.settle().via("rb")
        with kit.inside("r"):
            packets = [int(number) for number in re.findall(r"packets (\d+)", run("nft", "list", "chain", "inet", "l", "f").stdout)]
        yes(packets[0] >= 40 and packets[1:] == [0, 0], f"packets with the labels 3 and 63, 0, 62: {packets}")


def test_back_and_forth():
    with Net(carrier="labels") as net:
        flows = net.flows()
        for turn in range(6):
            ctc("config", ("act_ct", "labels")[turn % 2])
            for flow in flows:
                flow.via("rb", 3)
            for family in (4, 6):
                net.flow(family).settle().via("rb")
            ctc("config", "none") if turn % 3 == 2 else None


def test_flow_without_room():
    """Flows from before the carrier have no room in their entries; they go on, looked up."""
    with Net(carrier="none") as net:
        flows = [net.flow(family).settle(hits=False) for family in (4, 6)]
        ctc("config", "act_ct")
        for flow in flows:
            hits_none(flow)
            yes("decision" not in flow.descriptor()["original"], "a decision without room")


def test_table_full():
    """More decisions than there is room for are a miss, nothing else."""
    with Net(config=["decisions=16", "proof=1"]) as net:
        nft("r", "table inet m { map marks { type inet_service : mark; }; "
                 "chain p { type filter hook prerouting priority mangle; meta mark set udp sport map @marks; }; }")
        flows = [net.flow(4) for _ in range(40)]
        ports = ", ".join(f"{flow.sock.getsockname()[1]} : {number + 1}" for number, flow in enumerate(flows))
        nft("r", f"add element inet m marks {{ {ports} }}")
        delta = Delta()
        for _ in range(3):
            for flow in flows:
                flow.via("rb", 3)
        yes(delta.full > 0, f"full was not counted: {delta.all()}")
        yes(kit.stat("decisions") <= 16, "more decisions than allowed")
        same(delta.mismatches, 0, "mismatches")
        # Those that fit hit on; and a table that is emptied serves those that live.
        ctc("flush")
        for flow in flows[30:36]:
            flow.settle()


# --- memory that cannot be had (kernels with fault injection) ---

def put(path, value):
    with open(path, "w") as file:
        file.write(str(value))


@contextlib.contextmanager
def failing(**settings):
    if not os.path.exists(FAILSLAB):
        raise Skip("no fault injection in this kernel")
    try:
        for folder in (FAILSLAB, FAIL_PAGE):
            put(f"{folder}/verbose", 0)
            put(f"{folder}/ignore-gfp-wait", "N")
        for key, value in settings.items():
            put(f"{FAILSLAB}/{key.replace('_', '-')}", value)
        yield
    finally:
        for folder in (FAILSLAB, FAIL_PAGE):
            put(f"{folder}/probability", 0)
            put(f"{folder}/times", 1)
            put(f"{folder}/ignore-gfp-wait", "Y")
        put(f"{FAILSLAB}/cache-filter", "N")


class FailNth:
    """The n-th allocation from now on fails, in this thread and nowhere else."""

    def __init__(self):
        self.fd = os.open("/proc/thread-self/fail-nth", os.O_RDWR)

    def arm(self, number):
        os.pwrite(self.fd, b"%d" % number, 0)

    def disarm(self):
        """Whether it had failed."""
        left = int(os.pread(self.fd, 20, 0).split(b"\0")[0])
        os.pwrite(self.fd, b"0", 0)
        return left == 0


def test_config_without_memory():
    """Each allocation of a configuration fails in its turn: that is the answer then, and all is as it was."""
    with Net(config=["zone=9:route:9"]) as net, failing():
        flow = net.flow(4).settle()
        nth, failures, turns = FailNth(), 0, 0
        with kit.inside("r"):
            one = kit.client.Client()
        for kind in ("swap", "carrier", "start"):
            for number in range(1, 80):
                if kind == "start":
                    ctc("config", "none")
                elif kind == "carrier":
                    ctc("config", "labels", "zone=9:route:9")
                before = ctc("get")
                payload = kit.client.u8("carrier", kit.client.ENUM["carrier"]["act_ct"]) + \
                    kit.client.options(["decisions=4000", "zone=5:route:5"], zones=True)
                message = one.message(kit.client.CMD["config_set"], payload, 5, one.family)
                error = None
                nth.arm(number)
                try:
                    one.socket.send(message)
                except OSError as reason:
                    error = reason.errno
                failed = nth.disarm()
                if error is None:
                    error = answer_of(one)
                after = ctc("get")
                if error:
                    failures += 1
                    # ENFILE: of a socket (__sock_create())
                    yes(error in (errno.ENOMEM, errno.ENOBUFS, errno.ENFILE), f"{kind} {number}: {os.strerror(error)}")
                    if after["generation"] == before["generation"]:
                        before["epoch"] = after["epoch"] = 0
                        same(after, before, f"{kind} {number}: after the refusal")
                turns += 1
                flow.via("rb", 1)
                if not failed:
                    break
        yes(failures > 10, f"only {failures} of {turns} allocations failed")
        net.config()
        net.flow(4).settle()


def answer_of(one):
    while True:
        try:
            data = one.socket.recv(1 << 18)
        except OSError as reason:  # no memory for the answer
            return reason.errno
        kind = int.from_bytes(data[4:6], "little")
        if kind == kit.client.NLMSG_ERROR:
            return -int.from_bytes(data[16:20], "little", signed=True)


@contextlib.contextmanager
def one_processor():
    """Routes are kept for each: here are all that the stack needs when there is no memory for more."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {0})
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)


def need_failing(*slabs):
    for slab in slabs:
        try:
            with open(f"/sys/kernel/slab/{slab}/failslab") as file:
                if file.read().strip() != "1":
                    raise Skip(f"not booted with slub_debug=A,{slab}")
        except FileNotFoundError:
            raise Skip("no fault injection in this kernel") from None


def test_flow_without_memory():
    """No memory for the room in a new entry: it stays without."""
    need_failing("kmalloc-128")
    with Net(carrier="act_ct") as net, one_processor():
        net.flow(4).settle()
        delta = Delta()
        flows = [net.flow(4) for _ in range(5)]
        with failing(cache_filter="Y", ignore_gfp_wait="Y", times=-1, probability=100):
            for flow in flows:
                flow.go(4, patience=1)
        yes(delta.no_carrier >= 5, f"no_carrier: {delta.all()}")
        same([flow.lost for flow in flows], [0] * 5, "lost")
        net.flow(4).settle()


def test_ipsec_without_memory():
    """No memory for a route that says what policies have said: every packet asks them, none is lost."""
    need_failing("ip_dst_cache", "ip6_dst_cache")
    with Net() as net, one_processor():
        ip("r", "xfrm policy add src 0.0.0.0/0 dst 203.0.113.0/24 dir out action block\n"
                "xfrm policy add src ::/0 dst 2001:db8::/48 dir out action block")
        flows = net.flows()
        delta = Delta()
        with failing(cache_filter="Y", ignore_gfp_wait="Y", times=-1, probability=100):
            ctc("flush")
            for flow in flows:
                flow.via("rb", 5)
        same((delta.hits, delta.learned), (0, 0), "hits, learned")
        for flow in flows:
            flow.settle()


if __name__ == "__main__":
    kit.main()
