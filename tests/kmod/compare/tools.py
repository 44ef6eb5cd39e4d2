"""iproute2 and nftables without a process for every command, which took most of a case's time on an emulated CPU.

`ip` runs as a co-process that reads its commands; nft is its library. The latter acts in the namespace of who calls.
"""

import ctypes
import re
import subprocess

NFTABLES = ctypes.CDLL("libnftables.so.1")
NFTABLES.nft_ctx_new.restype = ctypes.c_void_p
NFTABLES.nft_ctx_new.argtypes = [ctypes.c_uint32]
for function in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
    getattr(NFTABLES, function).argtypes = [ctypes.c_void_p]
for function in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
    getattr(NFTABLES, function).argtypes = [ctypes.c_void_p]
    getattr(NFTABLES, function).restype = ctypes.c_char_p
NFTABLES.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]


# iproute2's own errors, and not the kernel's.
MISUNDERSTOOD = re.compile('^Error: (argument|either|an? |"|inet)|Usage|not complete|Cannot find device|unknown', re.M)


class Failed(Exception):
    """A case could not be run as it is written: neither equal nor different."""


class Refused(Failed):
    """A command was not taken."""


class Ip:
    """`ip -batch`, which is given lines and asked for lo when they must be done. Some refusals end it."""

    def __init__(self, namespace, *options):
        self.namespace = namespace
        self.command = ["stdbuf", "-oL", "ip", *options, "-oneline", "-force", "-batch", "-"]
        self.start()

    def start(self):
        with self.namespace:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.STDOUT, text=True)

    def __call__(self, *lines):
        """What the commands printed."""
        self.process.stdin.write("".join(f"{line}\n" for line in lines) + "link show dev lo\n")
        self.process.stdin.flush()
        printed, ended = "", False
        while not ended and not (line := self.process.stdout.readline()).startswith("1: lo:"):
            printed += line
            ended = not line
        if ended:
            self.process.communicate()
            self.start()
        if ended or "Command failed" in printed:
            kind = Failed if MISUNDERSTOOD.search(printed) else Refused
            raise kind(f"ip: {printed.strip()} of: {'; '.join(lines)}")
        return printed

    def close(self):
        self.process.communicate()


class Nft:
    """A context of libnftables."""

    def __init__(self):
        self.context = NFTABLES.nft_ctx_new(0)
        NFTABLES.nft_ctx_buffer_output(self.context)
        NFTABLES.nft_ctx_buffer_error(self.context)

    def __call__(self, text):
        """What the commands printed."""
        failed = NFTABLES.nft_run_cmd_from_buffer(self.context, text.encode())
        printed = NFTABLES.nft_ctx_get_output_buffer(self.context).decode()
        error = NFTABLES.nft_ctx_get_error_buffer(self.context).decode()
        if failed:
            raise Refused(f"nft: {error.strip()[:300]}")
        return printed

    def close(self):
        NFTABLES.nft_ctx_free(self.context)
