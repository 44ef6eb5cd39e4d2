#!/usr/bin/python3
"""Calls Describe of the daemon N times on one connection; prints the median and the slowest in milliseconds.

    describe.py ADDRESS N
"""

import ctypes
import json
import statistics
import sys
import time


class Pointer(ctypes.c_void_p):
    pass


def must(result, what):
    if result < 0:
        sys.exit(f"{what}: error {-result}")


def main():
    address, number = sys.argv[1].encode(), int(sys.argv[2])
    library = ctypes.CDLL("libsystemd.so.0")
    bus = Pointer()
    must(library.sd_bus_new(ctypes.byref(bus)), "sd_bus_new")
    must(library.sd_bus_set_address(bus, address), "sd_bus_set_address")
    must(library.sd_bus_set_bus_client(bus, 1), "sd_bus_set_bus_client")
    must(library.sd_bus_start(bus), "sd_bus_start")
    took = []
    for _ in range(number):
        reply, text = Pointer(), ctypes.c_char_p()
        begin = time.monotonic()
        must(library.sd_bus_call_method(bus, b"org.ctcached1", b"/org/ctcached1", b"org.ctcached1.Manager", b"Describe", None,
                                        ctypes.byref(reply), b""), "Describe")
        took.append((time.monotonic() - begin) * 1000)
        must(library.sd_bus_message_read(reply, b"s", ctypes.byref(text)), "read")
        described = json.loads(text.value)
        library.sd_bus_message_unref(reply)
    print(f"{number} Describe calls: median {statistics.median(took):.2f} ms, slowest {max(took):.2f} ms, "
          f"{len(json.dumps(described))} bytes")
    print(f"slowest_ms={max(took):.0f}")


if __name__ == "__main__":
    main()
