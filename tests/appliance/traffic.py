#!/usr/bin/python3
"""Traffic between hosts, and what got lost of it.

    traffic.py serve PORT                         answers UDP and TCP on PORT, IPv4 and IPv6, until it is ended
    traffic.py ask PROTOCOL ADDRESS PORT NUMBER   so many requests of one flow, each after the answer to the last one
    traffic.py keep PROTOCOL ADDRESS PORT [OWN]   the same until SIGTERM, from port OWN, up to 200 a second
    traffic.py storm ADDRESS PORT FLOWS RATE      UDP of so many flows in turn, up to RATE packets a second, until SIGTERM;
                                                  with each turn one flow ends and another begins
    traffic.py flood ADDRESS PORT SECONDS         TCP's first packets, each from another address of 10.128.0.0/9

ask and keep print "NUMBER sent, NUMBER lost" and fail if anything was lost, and say what: an answer may take half a
minute, since emulated machines stand still at times. storm and flood print what they sent, and wait for no answer.
"""

import random
import select
import signal
import socket
import struct
import sys
import time

PATIENCE = 30.0
RECVPKTINFO, PKTINFO = 49, 50  # linux/in6.h
KIND = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}
ended = []


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
                answer(datagrams)
            elif one is listener:
                poll.append(one.accept()[0])
            elif not echo(one):
                poll.remove(one)
                one.close()


def answer(datagrams):
    data, notes, _, peer = datagrams.recvmsg(65536, 256)
    # From the address that was asked, whatever device that is of.
    own = [(level, kind, note[:16] + bytes(4)) for level, kind, note in notes if kind == PKTINFO]
    try:
        datagrams.sendmsg([data], own, 0, peer)
    except OSError as error:
        print("serve:", error, file=sys.stderr)  # of this packet: the next one may find its way


def echo(stream):
    try:
        data = stream.recv(65536)
        stream.sendall(data)
    except OSError:
        return False
    return bool(data)


def exchange(opened, number):
    data = b"%d " % number + b"." * 100
    try:
        opened.send(data)
        while select.select([opened], [], [], PATIENCE)[0]:
            if opened.recv(65536) == data:
                return True
        error = "no answer"
    except OSError as caught:
        error = caught
    print(f"lost at {time.monotonic():.1f}: number {number}: {error}", file=sys.stderr, flush=True)
    return False


def pace(begun, sent, rate):
    time.sleep(max(0, begun + sent / rate - time.monotonic()))


def ask(kind, address, port, number=-1, own=0):
    opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, KIND[kind])
    opened.bind(("", own))
    opened.settimeout(10)
    opened.connect((address, port))
    sent, lost, begun = 0, 0, time.monotonic()
    while not ended and sent != number:
        sent += 1
        lost += not exchange(opened, sent)
        if number < 0:
            pace(begun, sent, 200)
    print(f"{sent} sent, {lost} lost", flush=True)
    return lost > 0


def storm(address, port, flows, rate):
    def another():
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.connect((address, port))
        opened.setblocking(False)
        return opened

    opened = [another() for _ in range(flows)]
    data, sent, turns, begun = b"." * 100, 0, 0, time.monotonic()
    while not ended:
        for one in opened:
            try:
                one.send(data)
                sent += 1
            except OSError:
                pass
        opened[turns % flows].close()
        opened[turns % flows] = another()
        turns += 1
        pace(begun, sent, rate)
    print(f"{sent} sent, {sent / (time.monotonic() - begun):.0f} a second, {flows + turns} flows", flush=True)


def folded(total):
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def flood(address, port, seconds):
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    to = socket.inet_aton(address)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0)
    tail = struct.pack("!IIBBH", 1, 0, 0x50, 2, 8192)
    constant = sum(struct.unpack("!HH", to)) + socket.IPPROTO_TCP + 20 + port + sum(struct.unpack("!6H", tail))
    sent, end = 0, time.monotonic() + seconds
    while not ended and (sent % 64 or time.monotonic() < end):
        source = 0x0A800000 | random.getrandbits(23)
        own = random.randrange(1024, 65536)
        check = 0xFFFF ^ folded(constant + (source >> 16) + (source & 0xFFFF) + own)
        try:
            raw.sendto(head + struct.pack("!I", source) + to + struct.pack("!HH", own, port) + tail +
                       struct.pack("!HH", check, 0), (address, 0))
        except BlockingIOError:
            continue
        sent += 1
    print(f"{sent} sent, {sent // seconds} a second", flush=True)


signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
what, *words = sys.argv[1:] or ["?"]
if what == "serve":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    serve(int(words[0]))
elif what == "ask":
    sys.exit(ask(words[0], words[1], int(words[2]), int(words[3])))
elif what == "keep":
    sys.exit(ask(words[0], words[1], int(words[2]), own=int(words[3]) if words[3:] else 0))
elif what == "storm":
    storm(words[0], int(words[1]), int(words[2]), int(words[3]))
elif what == "flood":
    flood(words[0], int(words[1]), int(words[2]))
else:
    sys.exit(__doc__)
