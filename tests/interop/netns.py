"""A network namespace of its own for tests, with a way out that leads nowhere, and a look at every packet.

Programs run in it by putting :attr:`Namespace.prefix` before their command line. It has loopback, and one
interface with default routes whose packets are sent (so they are seen) and never arrive. Linux, as root.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from interop.ctor import require

_SETUP = """
set -e
ip link set lo up
ip link add outer type veth peer name nowhere
for interface in outer nowhere; do
    echo 1 >/proc/sys/net/ipv6/conf/$interface/addr_gen_mode
    echo 0 >/proc/sys/net/ipv6/conf/$interface/router_solicitations
    ip link set $interface up
done
ip addr add 198.51.100.2/24 dev outer
ip neigh add 198.51.100.1 lladdr 02:00:00:00:00:01 dev outer nud permanent
ip route add default via 198.51.100.1
ip -6 addr add 2001:db8::2/64 dev outer nodad
ip -6 neigh add 2001:db8::1 lladdr 02:00:00:00:00:01 dev outer nud permanent
ip -6 route add default via 2001:db8::1
"""
_CLONE_NEWNET = 0x40000000
_SO_RCVBUFFORCE = 33
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 3, 0x0800, 0x86DD
_BUFFER = 512 << 20
TCP, UDP, ICMP6 = 6, 17, 58


@dataclass(frozen=True)
class Packet:
    """Where an IP packet was going; ports are 0 if its ``protocol`` has none."""

    interface: str
    protocol: int
    source: str
    source_port: int
    target: str
    target_port: int


class Namespace:
    """See the module; :func:`namespace` makes one."""

    def __init__(self, pid: int) -> None:
        self.path = f"/proc/{pid}/ns/net"
        self.prefix = ("nsenter", f"--net={self.path}", "--")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in it to its end."""
        return subprocess.run(
            [*self.prefix, *command], capture_output=True, text=True, timeout=120, check=False
        )

    def socket(self, *kind: int) -> socket.socket:
        """A socket in the namespace."""
        made: list[socket.socket] = []

        def make() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            with open(self.path) as file:
                if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
                    return
            made.append(socket.socket(*kind))

        thread = threading.Thread(target=make)  # the thread ends, and with it its stay in the namespace
        thread.start()
        thread.join()
        return made[0]


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace; skips the test where that is not allowed (another system, not root, a container)."""
    require("ip", "unshare", "nsenter")
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo made; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        if os.geteuid() != 0 or holder.stdout.readline() != b"made\n":
            pytest.skip("this machine gives tests no network namespace (needs root on Linux)")
        made = Namespace(holder.pid)
        done = made.run("sh", "-c", _SETUP)
        assert done.returncode == 0, done.stderr
        yield made
    finally:
        holder.stdin.close()
        holder.wait()


class Capture:
    """All IP packets of a namespace, on all interfaces, from its making on; a context manager."""

    def __init__(self, within: Namespace) -> None:
        self.packets: set[Packet] = set()
        self._socket = within.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            if not select.select([self._socket], [], [], 0.1)[0]:
                if self._stop.is_set():
                    return
                continue
            start, (interface, kind, *_) = self._socket.recvfrom(64)
            packet = _decode(interface, kind, start)
            if packet is not None and packet not in self.packets:
                with self._news:
                    self.packets.add(packet)
                    self._news.notify_all()

    def saw(self, target: str, port: int) -> bool:
        """Whether a packet to this address comes within a minute."""

        def look() -> bool:
            return any((packet.target, packet.target_port) == (target, port) for packet in self.packets)

        with self._news:
            return self._news.wait_for(look, 60)

    def dropped(self) -> int:
        """How many packets there was no room for since this was asked last."""
        counts = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        return int(struct.unpack("II", counts)[1])

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()


def _decode(interface: str, kind: int, start: bytes) -> Packet | None:
    """The packet that begins with ``start``; None for what is not IP, and for the kernel's own of IPv6."""
    if kind == _ETH_P_IP:
        size, protocol, family, addresses = (start[0] & 15) * 4, start[9], socket.AF_INET, start[12:20]
    elif kind == _ETH_P_IPV6:
        size, protocol, family, addresses = 40, start[6], socket.AF_INET6, start[8:40]
    else:
        return None
    if kind == _ETH_P_IPV6 and protocol in (0, ICMP6):
        return None  # neighbour discovery, group membership
    ports = struct.unpack_from(">HH", start, size) if protocol in (TCP, UDP) else (0, 0)
    half = len(addresses) // 2
    source, target = (socket.inet_ntop(family, part) for part in (addresses[:half], addresses[half:]))
    return Packet(interface, protocol, source, ports[0], target, ports[1])
