"""States and policies of IPsec: as words for ip(8), and as the kernel counts them."""

import hashlib
import socket
import struct

NETLINK_XFRM, XFRM_MSG_GETSA, NLM_F_REQUEST, NLM_F_DUMP, NLMSG_DONE = 6, 18, 1, 0x300, 3
TEMPLATE = {"tunnel": "tmpl src {0} dst {1} proto esp reqid {2} mode tunnel",
            "transport": "tmpl proto esp reqid {2} mode transport"}


def key(size, seed):
    return "0x" + hashlib.sha512(str(seed).encode()).hexdigest()[:2 * size]


CIPHERS = {
    "gcm": lambda seed: f"aead rfc4106(gcm(aes)) {key(20, seed)} 128",
    "cbc": lambda seed: f"enc cbc(aes) {key(16, seed)} auth-trunc hmac(sha256) {key(32, -seed)} 128",
    "null": lambda seed: "enc ecb(cipher_null) '' auth digest_null ''",
}


def state(ends, spi, mode="tunnel", cipher="gcm", reqid=1, more="", window=32):
    """A state from one end to the other; its keys follow from its number."""
    return (f"xfrm state add src {ends[0]} dst {ends[1]} proto esp spi {spi:#x} reqid {reqid} mode {mode} "
            f"replay-window {window} {CIPHERS[cipher](spi)} {more}")


def no_state(ends, spi):
    return f"xfrm state del src {ends[0]} dst {ends[1]} proto esp spi {spi:#x}"


def template(ends, mode="tunnel", reqid=1):
    return TEMPLATE[mode].format(*ends, reqid)


def policy(source, destination, direction, what, more="", verb="add"):
    """`what`: a template, or "action block" or "action allow"."""
    return f"xfrm policy {verb} src {source} dst {destination} dir {direction} {more} {what}"


def no_policy(source, destination, direction, more=""):
    return f"xfrm policy del src {source} dst {destination} dir {direction} {more}"


class Counters:
    """What states have counted, by number: packets, bytes, refused ones. Made in their namespace."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def close(self):
        self.socket.close()

    def read(self):
        # An empty selection, then XFRMA_ADDRESS_FILTER and so on: none.
        self.socket.send(struct.pack("=IHHII", 16, XFRM_MSG_GETSA, NLM_F_REQUEST | NLM_F_DUMP, 1, 0))
        found = {}
        while True:
            data = self.socket.recv(1 << 18)
            while len(data) >= 16:
                length, kind = struct.unpack_from("=IH", data)
                if kind == NLMSG_DONE:
                    return found
                # struct xfrm_usersa_info: id at 56, curlft at 160, stats at 192
                spi, = struct.unpack_from("!I", data, 16 + 72)
                size, packets = struct.unpack_from("=QQ", data, 16 + 160)
                window, replayed, failed = struct.unpack_from("=III", data, 16 + 192)
                found[spi] = (packets, size, window + replayed + failed)
                data = data[(length + 3) & ~3:]


def errors():
    """/proc/net/xfrm_stat of the namespace that we are in."""
    with open("/proc/thread-self/net/xfrm_stat") as file:
        return {name: int(value) for name, value in (line.split() for line in file)}
