#!/usr/bin/python3
"""The real daemon drives the real module, in a virtual machine (tests/vm/run): configuration, traffic that hits, what
D-Bus says beside what the module says, and a module that comes and goes behind the daemon's back.

The daemon runs in the router's namespace of tests/kmod/kit.py, where the traffic and the module's own client are.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "kmod"))
# pylint: disable=wrong-import-position
import kit  # noqa: E402
from kit import Net, ctc, inside, loaded, run, same, wait_until, yes  # noqa: E402

POLICY = """version: 1
conntrack: {{ pressure: {{ interval: 1s }} }}
cache: {{ mode: {mode}, decisions: {decisions}, proof: 0 }}
zones:
  - {{ name: web, id: 10, cache: [route, ipsec], class: 7, match: [{{ protocol: tcp }}] }}
  - {{ name: far, id: 20, match: [{{ protocol: udp }}] }}
"""
NAMES = {"stats": "", "misses": "miss_", "epochs": "epochs_"}


class Daemon:
    """ctcached in r, on a bus of its own; gone, and its table and cache with it, when the `with` ends."""

    def __init__(self, mode="auto"):
        self.work = Path(tempfile.mkdtemp())
        self.process = self.bus = None
        self.policy(mode)

    def policy(self, mode="auto", decisions=1000):
        new = self.work / "new"
        new.write_text(POLICY.format(mode=mode, decisions=decisions))
        new.rename(self.work / "policy.yaml")

    def __enter__(self):
        address = f"unix:path={self.work}/bus"
        self.bus = subprocess.Popen(["dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address={address}"])
        wait_until(lambda: (self.work / "bus").exists(), "the bus")
        self.address = address
        return self

    def command(self, *words):
        return [os.environ["CTCACHED"], *words]

    def start(self):
        with open(self.work / "log", "w") as log, inside("r"):
            self.process = subprocess.Popen(
                self.command("--config", f"{self.work}/policy.yaml", "--state-dir", f"{self.work}/state",
                             "--runtime-dir", f"{self.work}/run", "--bus", self.address), stderr=log)
        return self

    def running(self):
        self.start()
        wait_until(lambda: self.process.poll() is not None or self.answers(), lambda: f"the daemon:\n{self.log()}")
        yes(self.process.poll() is None, f"the daemon ended:\n{self.log()}")
        return self

    def answers(self):
        return self.busctl("get-property", "org.ctcached1", "/org/ctcached1", "org.ctcached1.Manager", "State",
                           check=False).stdout

    def busctl(self, *words, check=True):
        return run("busctl", f"--address={self.address}", *words, check=check)

    def get(self, name, path="/org/ctcached1", interface="Manager"):
        words = "--json=short", "get-property", "org.ctcached1", path, f"org.ctcached1.{interface}", name
        return json.loads(self.busctl(*words).stdout)["data"]

    def zone(self, zone):
        return self.get("Statistics", f"/org/ctcached1/zone/{zone}", "Zone")

    def call(self, name, path="/org/ctcached1", interface="Manager", check=True):
        return self.busctl("call", "org.ctcached1", path, f"org.ctcached1.{interface}", name, check=check)

    def log(self):
        return (self.work / "log").read_text()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        if self.process:
            same(self.process.wait(60), 0, f"exit status, with\n{self.log()}")
            self.process = None

    def __exit__(self, kind, *_):
        if kind:
            print(self.log())
        try:
            self.stop()
        finally:
            self.bus.terminate()
            self.bus.wait()


def module_zones():
    return {zone.get("zone_id", 0): zone["stats"] for zone in ctc("zones")}


def configuration():
    got = ctc("get")
    return {key: got.get(key) for key in ("state", "carrier", "decisions", "proof", "zones")}


def wanted(carrier="act_ct", decisions=1000):
    return {"state": "active", "carrier": carrier, "decisions": decisions, "proof": 0,
            "zones": [{"id": 10, "kinds": 3, "class": 7}, {"id": 20, "kinds": 7, "class": 0}]}


def in_words(stats):
    """The module's totals as D-Bus names them."""
    return {f"cache_{NAMES[part]}{name}": value for part in NAMES for name, value in stats[part].items()}


def test_configures_and_counts():
    with Net(carrier="none") as net, Daemon() as daemon:
        daemon.running()
        same(daemon.get("CacheState"), "active", "CacheState")
        same(daemon.get("CacheReason"), "", "CacheReason")
        same(daemon.get("Degraded"), [], "Degraded")
        same(configuration(), wanted(), "the module's configuration")
        flow = net.flow().settle()
        flow.via("rb", 50)
        yes(module_zones()[20]["hits"] > 90, f"hits in the flow's zone: {module_zones()}")

        def equal():
            before = ctc("stats")
            told = {name: value for name, value in daemon.get("Statistics").items() if name.startswith("cache_")}
            return before == ctc("stats") and told == in_words(before)

        wait_until(equal, lambda: f"equal figures: {daemon.get('Statistics')}, but {ctc('stats')}")
        same({k: v for k, v in daemon.zone("far").items() if k.startswith("cache_")},
             {f"cache_{k}": v for k, v in module_zones()[20].items()}, "zone far")
        same(daemon.get("CacheDecisions"), ctc("stats")["stats"]["decisions"], "CacheDecisions")
        same(daemon.get("CacheCapacity"), 1000, "CacheCapacity")


def test_flush():
    with Net(carrier="none") as net, Daemon() as daemon:
        daemon.running()
        flow = net.flow().settle()
        before = ctc("stats")["epochs"]["flush"]
        daemon.call("Flush")
        yes(ctc("stats")["epochs"]["flush"] > before, "an epoch by Flush()")
        flow.settle()
        sweeps = ctc("stats")["stats"]["sweeps"]
        daemon.call("Flush", "/org/ctcached1/zone/far", "Zone")
        wait_until(lambda: ctc("stats")["stats"]["sweeps"] > sweeps, "a sweep by the zone's Flush()")
        flow.settle()


def test_reload_keeps_what_is_cached():
    """What the module itself does with the same configuration again: flows hit on, or learn once more; none is lost."""
    with Net(carrier="none") as net, Daemon() as daemon:
        daemon.running()
        flow = net.flow().settle()
        generation = ctc("get")["generation"]
        daemon.call("Reload")
        same(ctc("get")["generation"], generation + 1, "one configuration more")
        same(configuration(), wanted(), "the configuration")
        flow.settle()
        same(flow.lost, 0, "lost")
        daemon.policy(decisions=2000)
        wait_until(lambda: configuration() == wanted(decisions=2000), lambda: f"the changed file: {configuration()}")
        flow.settle()


def test_module_removed_and_inserted():
    with Net(carrier="none") as net, Daemon() as daemon:
        daemon.running()
        flow = net.flow().settle()
        kit.unload()
        wait_until(lambda: daemon.get("CacheState") == "unavailable", "unavailable")
        same(daemon.get("CacheReason"), "the module nf_ctcache was removed", "CacheReason")
        same(daemon.get("Degraded"), [], "mode auto does without")
        flow.via("rb")
        yes(not [name for name in daemon.get("Statistics") if name.startswith("cache_")], "no figures without a module")
        kit.load()
        wait_until(lambda: daemon.get("CacheState") == "active", "active again")
        same(configuration(), wanted(), "configured again")
        net.flow().settle()


def test_configured_by_another():
    with Net(carrier="none"), Daemon() as daemon:
        daemon.running()
        ctc("config", "labels", "decisions=50")
        wait_until(lambda: configuration() == wanted(), lambda: f"configured again: {configuration()}")
        yes("somebody else configured it" in daemon.log(), "said so")


def test_modes():
    with Net(carrier="none") as net, Daemon(mode="off") as daemon:
        daemon.running()
        same((daemon.get("CacheState"), ctc("get")["carrier"]), ("off", "none"), "mode off")
        daemon.policy("required")
        daemon.call("Reload")
        same((daemon.get("CacheState"), configuration()), ("active", wanted()), "mode required")
        flow = net.flow().settle()
        daemon.policy("off")
        daemon.call("Reload")
        same((daemon.get("CacheState"), ctc("get")["carrier"]), ("off", "none"), "mode off again")
        flow.via("rb")
        daemon.policy("auto")
        daemon.call("Reload")
        same((daemon.get("CacheState"), configuration()), ("active", wanted()), "mode auto")
        daemon.stop()
        same(configuration(), wanted(), "after a stop")
        with inside("r"):
            run(*daemon.command("--clear"))
        same(ctc("get")["carrier"], "none", "after --clear")


def test_required():
    """Missed while running: degraded. Missed at a reload: refused. Missed at a start: not started."""
    with Net(carrier="none"), Daemon(mode="required") as daemon:
        try:
            daemon.running()
            kit.unload()
            wait_until(lambda: daemon.get("CacheState") == "unavailable", "unavailable")
            yes("required" in daemon.get("Degraded")[0], f"Degraded: {daemon.get('Degraded')}")
            daemon.policy("required", decisions=500)
            yes("cache.mode is `required`" in daemon.call("Reload", check=False).stderr, "a reload is refused")
            daemon.policy("auto")
            daemon.call("Reload")
            same(daemon.get("Degraded"), [], "mode auto")
            daemon.stop()
            daemon.policy("required")
            daemon.start()
            same(daemon.process.wait(60), 1, "exit status without the module")
            daemon.process = None
            yes("not started" in daemon.log() and "nf_ctcache is not loaded" in daemon.log(), f"why: {daemon.log()}")
        finally:
            kit.load()


def test_another_version():
    """The family is there, and speaks otherwise: nothing is sent to it, all else works."""
    with Net(carrier="none"), Daemon() as daemon:
        kit.unload()
        try:
            run("insmod", os.environ["KMOD_impostor"])
            daemon.running()
            told = "the module nf_ctcache speaks version 2 of its protocol, this daemon 1"
            same((daemon.get("CacheState"), daemon.get("CacheReason")), ("unavailable", told), "state and reason")
            same(daemon.get("State"), "running", "State")
            run("rmmod", "impostor")
            kit.load()
            wait_until(lambda: daemon.get("CacheState") == "active", "active with the right one")
        finally:
            run("rmmod", "impostor", check=False)


def test_act_ct():
    """Loaded while its room is in use: labels take over; loaded before: labels from the start."""
    if run("modprobe", "-n", "act_ct", check=False).returncode:
        raise kit.Skip("this kernel has no act_ct")
    with Net(carrier="none") as net, Daemon() as daemon:
        daemon.running()
        same(configuration(), wanted(), "before")
        try:
            run("modprobe", "act_ct")
            wait_until(lambda: configuration() == wanted("labels"), lambda: f"labels: {configuration()}")
            net.flow().settle()
            same(daemon.get("CacheState"), "active", "CacheState")
            daemon.stop()
            ctc("config", "none")
            daemon.running()
            same(configuration(), wanted("labels"), "from the start")
            net.flow().settle()
        finally:
            daemon.stop()
            ctc("config", "none")
            run("modprobe", "-r", "act_ct")


def test_many_zones():
    """More zones than an attribute or a socket's usual buffer could hold, in one message."""
    zones = "\n".join(f"  - {{ name: z{n}, cache: [route], match: [{{ mark: {n} }}] }}" for n in range(1, 9001))
    with Net(carrier="none"), Daemon() as daemon:
        (daemon.work / "policy.yaml").write_text(f"version: 1\nzones:\n{zones}\n")
        daemon.running()
        same(len(ctc("get")["zones"]), 9000, "zones")


def test_rivals():
    with Net(carrier="none"), Daemon() as daemon:
        daemon.running()
        kit.nft("r", "table inet fw { flowtable ft { hook ingress priority 0; devices = { ra, rb }; }; }")
        wait_until(lambda: daemon.get("Degraded"), "Degraded")
        yes("flowtable inet fw ft" in daemon.get("Degraded")[0], f"Degraded: {daemon.get('Degraded')}")
        kit.nft("r", "delete table inet fw")
        wait_until(lambda: not daemon.get("Degraded"), "well again")
        same(daemon.log().count("flowtable inet fw ft"), 1, "once in the log")


if __name__ == "__main__":
    kit.main()
