#!/usr/bin/python3
"""Plays the service manager for one daemon: notify socket, file descriptor store, restarts.

    supervise.py FOLDER COMMAND...

What systemd does for a Type=notify service with FileDescriptorStoreMax=, and no more (sd_notify(3), sd_listen_fds(3)):
it starts COMMAND with NOTIFY_SOCKET, keeps the descriptors that arrive with FDSTORE=1 by their FDNAME, drops them on
FDSTOREREMOVE=1, and hands those it holds to the next process as LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID.

A test speaks to it through the FIFO FOLDER/control, one word a line:
    start            starts the daemon (with the stored descriptors)
    forget           closes the stored descriptors, as systemd does when a unit is stopped and not restarted
    quit             kills the daemon if it runs, and ends
and reads FOLDER/events, one event a line: "start PID", "notify KEY=VALUE", "ready after N ms", "stored NAME", "exit STATUS" (a negative status is a
signal). The daemon's output goes to FOLDER/daemon.log. Signals a test sends itself: the PID is in FOLDER/pid.
"""

import array
import os
import select
import signal
import socket
import sys
import time


class Supervisor:
    def __init__(self, folder, command):
        self.folder = folder
        self.command = command
        self.events = open(f"{folder}/events", "a", encoding="utf-8", buffering=1)
        self.store = []  # (name, descriptor)
        self.pid = None
        self.started = None
        path = f"{folder}/notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(path)
        # Read and write, so that the FIFO never ends when a test closes it.
        self.control = os.open(f"{folder}/control", os.O_RDWR | os.O_CLOEXEC)
        self.wakeup, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_end)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.quit())

    def note(self, text):
        self.events.write(text + "\n")

    def start(self):
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self.child()
        with open(f"{self.folder}/pid.new", "w", encoding="utf-8") as file:
            file.write(f"{self.pid}\n")
        os.rename(f"{self.folder}/pid.new", f"{self.folder}/pid")
        self.note(f"start {self.pid}")

    def child(self):
        log = os.open(f"{self.folder}/daemon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        environment = dict(os.environ, NOTIFY_SOCKET=f"{self.folder}/notify")
        # The stored descriptors may lie anywhere, also at 3 and up: move them out of the way first.
        high = [os.dup2(descriptor, 200 + n) for n, (_, descriptor) in enumerate(self.store)]
        for n, descriptor in enumerate(high):
            os.dup2(descriptor, 3 + n, inheritable=True)
        os.closerange(3 + len(high), 300)
        if self.store:
            environment.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(self.store)),
                               LISTEN_FDNAMES=":".join(name for name, _ in self.store))
        signal.set_wakeup_fd(-1)
        try:
            os.execvpe(self.command[0], self.command, environment)
        except OSError as error:
            os.write(2, f"{self.command[0]}: {error}\n".encode())
            os._exit(127)

    def receive(self):
        descriptors = array.array("i")
        data, control, _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(64 * descriptors.itemsize) + 64)
        for level, kind, content in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        fields = dict(line.split("=", 1) for line in data.decode(errors="replace").splitlines() if "=" in line)
        name = fields.get("FDNAME", "stored")
        if fields.get("FDSTORE") == "1":
            for descriptor in descriptors:
                self.store.append((name, descriptor))
                self.note(f"stored {name}")
            descriptors = array.array("i")
        if fields.get("FDSTOREREMOVE") == "1":
            for stored in [item for item in self.store if item[0] == name]:
                os.close(stored[1])
                self.store.remove(stored)
            self.note(f"removed {name}")
        for descriptor in descriptors:
            os.close(descriptor)
        if "READY" in fields and self.started is not None:
            self.note(f"ready after {(time.monotonic() - self.started) * 1000:.0f} ms")
            self.started = None
        for key, value in fields.items():
            self.note(f"notify {key}={value}")

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                while select.select([self.socket], [], [], 0)[0]:  # what it said last comes before its end
                    self.receive()
                self.pid = None
                self.note(f"exit {os.waitstatus_to_exitcode(status)}")

    def forget(self):
        for _, descriptor in self.store:
            os.close(descriptor)
        self.store = []
        self.note("forgot")

    def quit(self):
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        sys.exit(0)

    def run(self):
        self.note("ready")
        words = b""
        while True:
            readable, _, _ = select.select([self.socket, self.control, self.wakeup], [], [])
            if self.socket in readable:
                self.receive()
            if self.wakeup in readable:
                os.read(self.wakeup, 4096)
            self.reap()
            if self.control in readable:
                words += os.read(self.control, 4096)
                *lines, words = words.split(b"\n")
                for line in lines:
                    {"start": self.start, "forget": self.forget, "quit": self.quit}[line.decode()]()


if __name__ == "__main__":
    Supervisor(sys.argv[1], sys.argv[2:]).run()
