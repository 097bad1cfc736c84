"""Where the streams of an onion service go: virtual ports to TCP or Unix sockets, or to a callback.

The syntax is that of C tor's ``HiddenServicePort`` and of ``pelure onion serve --port``.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pelure.errors import ConfigError
from pelure.streams import ByteStream, place

CONNECT_SECONDS = 20.0
_LOCALHOST = ("127.0.0.1", "::1")
_UNDER_WAY = frozenset({errno.EINPROGRESS, errno.EALREADY})
_THERE = frozenset({0, errno.EISCONN})


class Dial:
    """A connection to a server, begun without waiting; ``connected``: a near one has answered already."""

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int] | str) -> None:
        """Begin it. Raises ``OSError`` if it failed at once."""
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.handed_over = False
        self._address = address
        self.socket.setblocking(False)
        try:
            self.connected = self._try()
        except OSError:
            self.socket.close()
            raise

    def _try(self) -> bool:
        code = self.socket.connect_ex(self._address)
        if code in _UNDER_WAY:
            code = self.socket.connect_ex(self._address)  # on loopback the answer has come in between
        if code not in _THERE and code not in _UNDER_WAY:
            raise OSError(code, os.strerror(code))
        return code in _THERE

    async def connect(self) -> None:
        """Wait until it is there. Raises ``OSError`` (``TimeoutError`` after 20 s)."""
        if self.connected:
            return
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(self.socket, self._address)
        except OSError as error:
            if error.errno != errno.EISCONN:  # it came in the meantime
                raise
        self.connected = True

    async def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Let ``protocol`` have the connection, which is there. Raises ``OSError``."""
        loop, sock = asyncio.get_running_loop(), self.socket
        if sock.family == socket.AF_UNIX:
            await loop.create_unix_connection(lambda: protocol, sock=sock)
        else:
            await loop.create_connection(lambda: protocol, sock=sock)
        self.handed_over = True

    def close(self) -> None:
        """Drop the connection, unless it was handed over."""
        if not self.handed_over:
            self.socket.close()


@dataclass(frozen=True)
class TcpTarget:
    """A TCP server on this machine or in its network; ``host`` is an IP address or ``localhost``."""

    host: str
    port: int

    def __str__(self) -> str:
        return place(self.host, self.port)

    def dial(self) -> Dial:
        """Begin to connect. Raises ``OSError``."""
        if self.host != "localhost":
            return self._dial(self.host)
        try:
            return self._dial(_LOCALHOST[0])
        except OSError:
            return self._dial(_LOCALHOST[1])

    def _dial(self, address: str) -> Dial:
        return Dial(socket.AF_INET6 if ":" in address else socket.AF_INET, (address, self.port))


@dataclass(frozen=True)
class UnixTarget:
    """A server on a Unix socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"

    def dial(self) -> Dial:
        """Connect. Raises ``OSError``."""
        return Dial(socket.AF_UNIX, str(self.path))


@dataclass(frozen=True)
class IncomingInfo:
    """Who opened a stream: the virtual ``port`` asked for, and the joined circuit it came on."""

    port: int
    circuit: int


Accept = Callable[[ByteStream, IncomingInfo], Awaitable[None]]
Target = TcpTarget | UnixTarget | Accept


def parse_port(text: str) -> tuple[int, TcpTarget | UnixTarget]:
    """Read ``VIRTUAL``, ``VIRTUAL:PORT``, ``VIRTUAL:HOST:PORT`` or ``VIRTUAL:unix:PATH``.

    A missing host is 127.0.0.1, a missing port the virtual one; IPv6 hosts stand in brackets. Raises
    :class:`ConfigError`.
    """
    virtual_text, separator, rest = text.partition(":")
    virtual = _port(virtual_text, text)
    if not separator:
        return virtual, TcpTarget("127.0.0.1", virtual)
    if rest.startswith("unix:"):
        path = rest.removeprefix("unix:").strip('"')
        if not path:
            raise ConfigError(f"--port {text}: a path must follow unix:")
        return virtual, UnixTarget(Path(path))
    host, separator, port_text = rest.rpartition(":")
    return virtual, TcpTarget(_host(host, text) if separator else "127.0.0.1", _port(port_text, text))


def parse_ports(texts: Iterable[str]) -> dict[int, TcpTarget | UnixTarget]:
    """Read several ports. Raises :class:`ConfigError`, also if two have the same virtual port."""
    ports: dict[int, TcpTarget | UnixTarget] = {}
    for text in texts:
        virtual, target = parse_port(text)
        if virtual in ports:
            raise ConfigError(f"--port {text}: port {virtual} of the onion service is given twice")
        ports[virtual] = target
    return ports


def _port(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ConfigError(f"--port {whole}: a port is a number from 1 to 65535")
    return int(text)


def _host(text: str, whole: str) -> str:
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if host == "localhost":
        return host
    try:
        return str(ipaddress.ip_address(host))
    except ValueError as error:
        raise ConfigError(
            f"--port {whole}: the target must be an IP address, localhost or unix:PATH"
        ) from error
