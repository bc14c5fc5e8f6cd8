"""A link that can be called through in one direction only, as program: what a laptop behind a firewall has.

Runs in a network namespace that has the addresses of the nodes on the laptop's side.  Each connection to one of them is
made again from another namespace, which is on the nodes' side; the nodes have no way to the laptop at all.

    python one_way.py PID FIRST-LAST ADDRESS...      PID: of a process on the nodes' side
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

_NEWNET = 0x40000000


def enter(pid: int) -> None:
    """Make this thread's new sockets belong to the network of ``pid``."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(fd, _NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(fd)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def main(pid: int, ports: str, addresses: list[str]) -> None:
    far_side = ThreadPoolExecutor(1, initializer=enter, initargs=(pid,))
    first, _, last = ports.partition("-")
    loop = asyncio.get_running_loop()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address, port = writer.get_extra_info("sockname")
        far = await loop.run_in_executor(far_side, socket.socket)
        far.setblocking(False)
        try:
            await loop.sock_connect(far, (address, port))
        except OSError:
            writer.transport.abort()
            far.close()
            return
        far_reader, far_writer = await asyncio.open_connection(sock=far)
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    for address in addresses:
        for port in (47000, *range(int(first), int(last) + 1)):
            await asyncio.start_server(relay, address, port)
    print("up", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
