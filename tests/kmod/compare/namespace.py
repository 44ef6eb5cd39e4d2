"""Network namespaces without names: each lives as long as this process has it open, so none stays behind."""

import ctypes
import os
import tempfile

CLONE_NEWNET, MNT_DETACH = 0x40000000, 2
libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Namespace:
    """A new one; `with namespace:` is to be in it. This process has one thread, so that is all of it."""

    def __init__(self):
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        check(libc.unshare(CLONE_NEWNET))
        self.fd = os.open("/proc/self/ns/net", os.O_RDONLY)
        check(libc.setns(home, CLONE_NEWNET))
        os.close(home)
        self.before = []

    def __enter__(self):
        self.before.append(os.open("/proc/self/ns/net", os.O_RDONLY))
        check(libc.setns(self.fd, CLONE_NEWNET))

    def __exit__(self, *_):
        check(libc.setns(self.before[-1], CLONE_NEWNET))
        os.close(self.before.pop())

    def close(self):
        os.close(self.fd)


def write_sysctl(name, value):
    """In the namespace that we are in; what it was before."""
    path = "/proc/sys/" + name.replace(".", "/")
    with open(path, encoding="ascii") as file:
        before = file.read().strip()
    try:
        file = os.open(path, os.O_WRONLY)
        os.write(file, str(value).encode())  # once: some handlers answer 1, which means that they took it
        os.close(file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    return before


def write_sysfs(name, value):
    """In the namespace that we are in, whose devices show only in a sysfs that was mounted in it."""
    with tempfile.TemporaryDirectory() as folder:
        check(libc.mount(b"sysfs", folder.encode(), b"sysfs", 0, None))
        try:
            with open(f"{folder}/{name}", "w", encoding="ascii") as file:
                file.write(str(value))
        finally:
            check(libc.umount2(folder.encode(), MNT_DETACH))
