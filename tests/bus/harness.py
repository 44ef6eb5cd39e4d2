"""A private bus, what runs on it, and waiting for what they do. No sleeps: every wait reads a pipe that tells.

    Folder    a temporary folder that other users can reach; everything below lives in it
    Bus       dbus-daemon with the system bus's defaults and systemd/org.ctcached1.conf, at an address that stays the
              same when it is stopped and started again
    Monitor   all messages of a bus, as they pass (busctl monitor)
    Process   a child with its output, ended by its pid; Host: one that ends with its input
    call()    one method call in a process of its own, as any user; returns (error name or None, error text)

Values are read with busctl, which prints them as JSON. Errors are not: busctl hides their names.
"""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAME = "org.ctcached1"
ROOT = "/org/ctcached1"
MANAGER = "org.ctcached1.Manager"
ZONE = "org.ctcached1.Zone"
PATIENCE = 30  # seconds until a wait is a failure

HERE = Path(__file__).resolve().parent
SYSTEMD = HERE.parent.parent / "systemd"

# As /usr/share/dbus-1/system.conf of Debian 12 (dbus 1.14.10), with a socket of our own, and leave for polkit's name.
BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>{address}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Monitoring"/>
    <allow own="org.freedesktop.PolicyKit1"/>
    <allow send_destination="org.freedesktop.PolicyKit1"/>
  </policy>
  <include>{policy}</include>
</busconfig>
"""


class Failure(Exception):
    pass


class Skip(Exception):
    pass


class Folder:
    def __enter__(self):
        self.path = Path(tempfile.mkdtemp(prefix="ctcached-bus-"))
        self.path.chmod(0o755)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path)


class Lines:
    """The lines of a pipe, each awaited with a deadline."""

    def __init__(self, pipe):
        self.fd = pipe.fileno()
        self.rest = b""

    def next(self, what):
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self.rest:
            if not select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0]:
                raise Failure(f"waited {PATIENCE} s for {what}")
            data = os.read(self.fd, 65536)
            if not data:
                raise Failure(f"the output ended while waiting for {what}")
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode()


class Process:
    def __init__(self, command, log, **options):
        self.log = log
        with open(log, "ab") as stderr:
            self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                                          **options)
        self.lines = Lines(self.child.stdout)

    def ask(self, line):
        self.child.stdin.write(line.encode() + b"\n")
        self.child.stdin.flush()
        return self.lines.next(f"the answer to {line!r}")

    def alive(self):
        return self.child.poll() is None

    def stop(self, kill=False):
        if self.alive():
            self.child.kill() if kill else self.child.terminate()
        try:
            status = self.child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise Failure(f"{self.child.args[0]} did not end on SIGTERM") from None
        finally:
            self.child.stdin.close()
            self.child.stdout.close()
        return status


class Host(Process):
    """A program that ends with its standard input, so that a sanitizer can say what it thinks."""

    def stop(self):
        self.child.stdin.close()
        try:
            status = self.child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            status = self.child.wait()
        self.child.stdout.close()
        if status:
            raise Failure(f"the host ended with {status}: {self.log.read_text()[-4000:]}")


class Bus:
    def __init__(self, folder):
        self.folder = folder
        self.socket = folder.path / "bus"
        self.address = f"unix:path={self.socket}"
        # Below, root owns the name; a test that is run by somebody else does without root.
        policy = (SYSTEMD / "org.ctcached1.conf").read_text().replace('user="root"', f'user="{os.getuid()}"')
        (folder.path / "org.ctcached1.conf").write_text(policy)
        (folder.path / "bus.conf").write_text(
            BUS_CONFIG.format(address=self.address, policy=folder.path / "org.ctcached1.conf"))
        self.daemon = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self.daemon = Process(["dbus-daemon", f"--config-file={self.folder.path}/bus.conf", "--nofork", "--nopidfile",
                               "--print-address=1"], self.folder.path / "bus.log")
        self.daemon.lines.next("the bus")  # its address: it listens

    def stop(self):
        if self.daemon:
            self.daemon.stop(kill=True)
            self.daemon = None
        self.socket.unlink(missing_ok=True)

    def busctl(self, *arguments, uid=None):
        command = ["busctl", f"--address={self.address}", "--json=short", *arguments]
        if uid is not None:
            command = as_user(uid) + command
        result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if result.returncode:
            raise Failure(f"busctl {' '.join(arguments)[:200]}: {result.stderr.strip()}")
        return result.stdout

    def get(self, path, interface, name, uid=None):
        """(type, value)"""
        answer = json.loads(self.busctl("get-property", NAME, path, interface, name, uid=uid))
        return answer["type"], answer["data"]

    def call(self, path, interface, method, *arguments, uid=None):
        text = self.busctl("call", NAME, path, interface, method, *arguments, uid=uid)
        return json.loads(text)["data"] if text.strip() else []

    def owner(self, name=NAME):
        answer = json.loads(self.busctl("call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                                        "NameHasOwner", "s", name))
        return answer["data"][0]

    def wait_for_name(self, name=NAME):
        with Monitor(self) as monitor:
            if not self.owner(name):
                monitor.next(f"an owner of {name}", lambda m: m.get("member") == "NameOwnerChanged"
                             and m["payload"]["data"][0] == name and m["payload"]["data"][2])


class Monitor:
    """Every message on the bus from now on."""

    def __init__(self, bus):
        self.bus = bus

    def __enter__(self):
        self.child = subprocess.Popen(["busctl", f"--address={self.bus.address}", "--json=short", "monitor"],
                                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.lines = Lines(self.child.stdout)
        if "Monitoring" not in (line := Lines(self.child.stderr).next("busctl monitor")):
            raise Failure(f"busctl monitor: {line}")
        return self

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait()
        self.child.stdout.close()
        self.child.stderr.close()

    def next(self, what, wanted):
        while True:
            line = self.lines.next(what)
            if line.startswith("{") and wanted(message := json.loads(line)):
                return message

    def signal(self, what):
        """The next signal from below /org/ctcached1."""
        return self.next(what, lambda m: m["type"] == "signal" and m.get("path", "").startswith(ROOT))


def as_user(uid):
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]


def call(bus, path, interface, method, signature="", *arguments, uid=None, interactive=False, destination=NAME):
    request = dict(address=bus.address, destination=destination, path=path, interface=interface, method=method,
                   signature=signature, arguments=arguments, interactive=interactive)
    # Not sys.executable: another user may not be allowed to run it.
    command = (as_user(uid) if uid is not None else []) + ["/usr/bin/python3", str(bus.folder.path / "call.py")]
    shutil.copyfile(HERE / "call.py", bus.folder.path / "call.py")
    result = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, timeout=2 * PATIENCE,
                            check=False)
    if result.returncode:
        raise Failure(f"call.py: {result.stderr.strip()}")
    answer = json.loads(result.stdout)
    return answer["error"], answer["text"]


def equal(got, wanted, what=""):
    if got != wanted:
        raise Failure(f"{what}: got {got!r}, wanted {wanted!r}")


def run_cases(cases, title):
    """Each case is (name, function); prints a verdict per case and a summary. Returns the number of failures."""
    count = {"PASS": 0, "FAIL": 0, "SKIP": 0}
    for name, function in cases:
        try:
            function()
            verdict, reason = "PASS", ""
        except Skip as skipped:
            verdict, reason = "SKIP", f": {skipped}"
        except Exception as error:  # noqa: BLE001: one case must not end the others
            verdict, reason = "FAIL", f": {type(error).__name__}: {error}"
        count[verdict] += 1
        print(f"{verdict} {name}{reason}", flush=True)
    print(f"{title}: {count['PASS']} passed, {count['FAIL']} failed, {count['SKIP']} skipped", flush=True)
    return count["FAIL"]
