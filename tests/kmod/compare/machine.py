"""What a comparison needs of the machine, and how it leaves it: the module, the processor, sysctls without a namespace."""

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

from .namespace import write_sysctl
from .network import MACHINE_SYSCTLS


def is_loaded(name):
    return any(line.split()[0] == name for line in Path("/proc/modules").read_text().splitlines())


@contextmanager
def prepared(module):
    """The module is loaded from this file, unless it is there already, and unloaded at the end."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # network.py says why
    subprocess.run(["modprobe", "-a", "nf_conntrack", "nf_tables"], check=True)
    loaded = bool(module) and not is_loaded("nf_ctcache")
    if loaded:
        subprocess.run(["insmod", module], check=True)
    before = {name: write_sysctl(name, value) for name, value in MACHINE_SYSCTLS.items()}
    try:
        yield
    finally:
        for name, value in before.items():
            write_sysctl(name, value)
        if loaded:
            subprocess.run(["rmmod", "nf_ctcache"], check=True)
