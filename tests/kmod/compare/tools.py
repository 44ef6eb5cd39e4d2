"""iproute2 and nftables without a process for every command, which took most of a case's time on an emulated CPU.

`ip` runs as a co-process that reads its commands; nft is its library. Both act in the namespace in which they were
made.
"""

import ctypes
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


class Failed(Exception):
    """A case could not be run as it is written: neither equal nor different."""


class Ip:
    """`ip -batch`, which is given lines and asked for lo when they must be done."""

    def __init__(self, *options):
        command = ["stdbuf", "-oL", "ip", *options, "-oneline", "-force", "-batch", "-"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)

    def __call__(self, *lines):
        """What the commands printed."""
        self.process.stdin.write("".join(f"{line}\n" for line in lines) + "link show dev lo\n")
        self.process.stdin.flush()
        printed = ""
        while not (line := self.process.stdout.readline()).startswith("1: lo:"):
            if not line:
                raise Failed("ip ended")
            printed += line
        if "Command failed" in printed:
            raise Failed(f"ip: {printed.strip()} of: {'; '.join(lines)}")
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
            raise Failed(f"nft: {error.strip()[:300]}")
        return printed

    def close(self):
        NFTABLES.nft_ctx_free(self.context)
