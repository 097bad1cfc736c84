"""A network namespace of its own for tests, with a way out that leads nowhere, and a look at every packet.

Programs run in it by putting :attr:`Namespace.prefix` before their command line. It has loopback, and one
interface with default routes whose packets are sent (so they are seen) and never arrive. Linux: as root, or
in a user namespace where users may make one.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
_OPEN_SOCKET = """
import socket, sys
channel = socket.socket(fileno=0)
made = socket.socket(*map(int, sys.argv[1:]))
socket.send_fds(channel, [b"."], [made.fileno()])
"""
_SO_ATTACH_FILTER = 26
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 3, 0x0800, 0x86DD
_HEADERS = 64  # bytes of a packet that are looked at
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
    """See the module; :func:`namespace` makes one. ``can_mount``: programs in it may mount file systems."""

    def __init__(self, pid: int, *, with_users: bool) -> None:
        entered = ("--user", "--preserve-credentials") if with_users else ()
        self.prefix = ("nsenter", f"--target={pid}", *entered, "--net", "--")
        self.can_mount = not with_users

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in it to its end."""
        return subprocess.run(
            [*self.prefix, *command], capture_output=True, text=True, timeout=120, check=False
        )

    def socket(self, *kind: int) -> socket.socket:
        """A socket in the namespace: a program that runs there opens it and hands it over."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            opening = [*self.prefix, sys.executable, "-c", _OPEN_SOCKET, *map(str, kind)]
            subprocess.run(opening, stdin=theirs.fileno(), timeout=60, check=True)
            _, (descriptor,), _, _ = socket.recv_fds(ours, 1, 1)
        return socket.socket(fileno=descriptor)


class NoNamespace(Exception):
    """The kernel, or the container around it, refuses: no program could be installed against that."""


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace. Raises :class:`NoNamespace`."""
    require("ip", "unshare", "nsenter")
    with_users = os.geteuid() != 0
    users = ("--user", "--map-root-user") if with_users else ()
    holder = subprocess.Popen(
        ["unshare", *users, "--net", "sh", "-c", "echo made; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        if holder.stdout.readline() != b"made\n":
            raise NoNamespace
        made = Namespace(holder.pid, with_users=with_users)
        done = made.run("sh", "-c", _SETUP)
        assert done.returncode == 0, done.stderr
        yield made
    finally:
        holder.stdin.close()
        holder.wait()


def _instruction(code: int, value: int, jump_if: int = 0, jump_else: int = 0) -> bytes:
    """One of classic BPF (linux/filter.h)."""
    return struct.pack("=HBBI", code, jump_if, jump_else, value)


_LOAD_BYTE, _LOAD_BYTE_AT_X, _LOAD_HALF, _HEADER_LENGTH = 0x30, 0x50, 0x28, 0xB1
_IF_EQUAL, _IF_SET, _RIGHT_SHIFT, _RETURN = 0x15, 0x45, 0x74, 0x06
_SYN = 0x02
_NEWS = (
    _instruction(_LOAD_BYTE, 0),
    _instruction(_RIGHT_SHIFT, 4),
    _instruction(_IF_EQUAL, 4, 0, 7),
    _instruction(_LOAD_HALF, 6),  # IPv4: a later fragment has no header to look at
    _instruction(_IF_SET, 0x1FFF, 10, 0),
    _instruction(_LOAD_BYTE, 9),
    _instruction(_IF_EQUAL, TCP, 0, 8),
    _instruction(_HEADER_LENGTH, 0),
    _instruction(_LOAD_BYTE_AT_X, 13),
    _instruction(_IF_SET, _SYN, 5, 6),
    _instruction(_IF_EQUAL, 6, 0, 4),
    _instruction(_LOAD_BYTE, 6),  # IPv6
    _instruction(_IF_EQUAL, TCP, 0, 2),
    _instruction(_LOAD_BYTE, 40 + 13),
    _instruction(_IF_SET, _SYN, 0, 1),
    _instruction(_RETURN, _HEADERS),
    _instruction(_RETURN, 0),
)
"""A filter for all packets but those of TCP connections that are under way: these began with a SYN."""


class Capture:
    """What is sent in a namespace, on all interfaces, from its making on; a context manager.

    That is all IP packets, but of a TCP connection only those that begin it, so that there is room for all.
    """

    def __init__(self, within: Namespace) -> None:
        self.packets: set[Packet] = set()
        self._socket = within.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        program = ctypes.create_string_buffer(b"".join(_NEWS))
        attached = struct.pack("HP", len(_NEWS), ctypes.addressof(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)
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
            start, (interface, kind, *_) = self._socket.recvfrom(_HEADERS)
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
