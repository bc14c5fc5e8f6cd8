"""A bad cable, as program: packets between two network interfaces are delayed, and some are lost.

The kernel's own means for this (netem) are not everywhere.  Runs in the network namespace of the interfaces.

    python lossy.py plain INTERFACE                                    what is sent there is complete
    python lossy.py between ONE OTHER LOST-SHARE DELAY-SECONDS
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import itertools
import random
import select
import socket
import struct
import sys
import time

_EVERYTHING = 3  # ETH_P_ALL
_SIOCETHTOOL = 0x8946
#: Checksums, and the cutting into packets, which are left to hardware that is not there.
_OFFLOADS = (0x17, 0x19, 0x1F, 0x24)


def plain(interface: str) -> None:
    """Have the kernel make packets that are as they would be on a wire."""
    probe = socket.socket()
    for command in _OFFLOADS:
        value = ctypes.create_string_buffer(struct.pack("II", command, 0))
        request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
        try:
            fcntl.ioctl(probe, _SIOCETHTOOL, request)
        except OSError:
            pass  # it has no such thing


def between(one: str, other: str, lost: float, delay_s: float) -> None:
    rng = random.Random(1)
    ends = []
    for interface in (one, other):
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERYTHING))
        end.bind((interface, _EVERYTHING))
        ends.append(end)
    under_way: list[tuple[float, int, int, bytes]] = []
    numbers = itertools.count()
    print("up", flush=True)
    while True:
        wait_s = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        for end in select.select(ends, [], [], wait_s)[0]:
            packet, address = end.recvfrom(65536)
            if address[2] != socket.PACKET_OUTGOING and rng.random() >= lost:
                there = 1 - ends.index(end)
                heapq.heappush(under_way, (time.monotonic() + delay_s, next(numbers), there, packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, there, packet = heapq.heappop(under_way)
            try:
                ends[there].send(packet)
            except OSError:
                pass  # lost as well


if __name__ == "__main__":
    if sys.argv[1] == "plain":
        plain(sys.argv[2])
    else:
        between(sys.argv[2], sys.argv[3], float(sys.argv[4]), float(sys.argv[5]))
