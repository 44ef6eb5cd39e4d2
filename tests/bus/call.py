#!/usr/bin/python3
"""One method call through libsystemd, described by JSON on standard input; prints {"error": NAME or null, "text": ...}.

A process of its own, so that it can be run as any user, with arguments longer than a command line takes.
"""

import ctypes
import json
import sys


class Error(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("message", ctypes.c_char_p), ("_need_free", ctypes.c_int)]


class Pointer(ctypes.c_void_p):
    pass


def main():
    request = json.load(sys.stdin)
    library = ctypes.CDLL("libsystemd.so.0")
    text = str.encode

    def must(result, what):
        if result < 0:
            sys.exit(f"{what}: error {-result}")

    bus = Pointer()
    must(library.sd_bus_new(ctypes.byref(bus)), "sd_bus_new")
    must(library.sd_bus_set_address(bus, text(request["address"])), "address")
    must(library.sd_bus_set_bus_client(bus, 1), "client")
    must(library.sd_bus_start(bus), "start")
    message = Pointer()
    must(library.sd_bus_message_new_method_call(bus, ctypes.byref(message), text(request["destination"]),
                                                text(request["path"]), text(request["interface"]),
                                                text(request["method"])), "message")
    if request["signature"]:
        arguments = [ctypes.c_char_p(text(value)) if isinstance(value, str) else ctypes.c_uint32(value)
                     for value in request["arguments"]]
        must(library.sd_bus_message_append(message, text(request["signature"]), *arguments), "append")
    must(library.sd_bus_message_set_allow_interactive_authorization(message, int(request["interactive"])), "flags")
    error = Error()
    library.sd_bus_call(bus, message, ctypes.c_uint64(20_000_000), ctypes.byref(error), None)
    decode = lambda value: value.decode() if value else None
    json.dump({"error": decode(error.name), "text": decode(error.message)}, sys.stdout)


if __name__ == "__main__":
    main()
