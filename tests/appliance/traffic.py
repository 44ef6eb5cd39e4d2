#!/usr/bin/python3
"""Requests and answers between hosts, and what got lost.

    traffic.py serve PORT                         answers UDP and TCP on PORT, IPv4 and IPv6, until it is ended
    traffic.py ask PROTOCOL ADDRESS PORT NUMBER   so many requests of one flow, each after the answer to the last one
    traffic.py keep PROTOCOL ADDRESS PORT         the same until SIGTERM

ask and keep print "NUMBER sent, NUMBER lost" and fail if anything was lost. An answer may take a second.
"""

import select
import signal
import socket
import sys

PATIENCE = 1.0
RECVPKTINFO, PKTINFO = 49, 50  # linux/in6.h
KIND = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}


def serve(port):
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IPV6, RECVPKTINFO, 1)
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for one in (datagrams, listener):
        one.bind(("::", port))
    listener.listen()
    poll = [datagrams, listener]
    while True:
        for one in select.select(poll, [], [])[0]:
            if one is datagrams:
                data, notes, _, peer = one.recvmsg(65536, 256)
                # From the address that was asked, whatever device that is of.
                own = [(level, kind, note[:16] + bytes(4)) for level, kind, note in notes if kind == PKTINFO]
                one.sendmsg([data], own, 0, peer)
            elif one is listener:
                poll.append(one.accept()[0])
            else:
                try:
                    data = one.recv(65536)
                    one.sendall(data)
                except OSError:
                    data = b""
                if not data:
                    poll.remove(one)
                    one.close()


def exchange(opened, number):
    data = b"%d " % number + b"." * 100
    try:
        opened.send(data)
        while select.select([opened], [], [], PATIENCE)[0]:
            if opened.recv(65536) == data:
                return True
    except OSError:
        pass
    return False


def ask(kind, address, port, number):
    opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, KIND[kind])
    opened.settimeout(10)
    opened.connect((address, port))
    ended, sent, lost = [], 0, 0
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    while not ended and sent != number:
        sent += 1
        lost += not exchange(opened, sent)
    print(f"{sent} sent, {lost} lost", flush=True)
    return lost > 0


what, *words = sys.argv[1:] or ["?"]
if what == "serve":
    serve(int(words[0]))
elif what in ("ask", "keep"):
    sys.exit(ask(words[0], words[1], int(words[2]), int(words[3]) if what == "ask" else -1))
else:
    sys.exit(__doc__)
