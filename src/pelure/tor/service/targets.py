"""Where the streams of an onion service go: virtual ports to TCP or Unix sockets, or to a callback.

The syntax is that of C tor's ``HiddenServicePort`` and of ``pelure onion serve --port``.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pelure.errors import ConfigError
from pelure.streams import READ_SIZE, ByteStream, SocketStream

CONNECT_SECONDS = 20.0
READ_AHEAD = READ_SIZE
"""The target is near, the circuit slow: more than its next cells need not wait here, for each stream."""


@dataclass(frozen=True)
class TcpTarget:
    """A TCP server on this machine or in its network."""

    host: str
    port: int

    async def connect(self) -> ByteStream:
        """Connect. Raises ``OSError`` (``TimeoutError`` after 20 s)."""
        async with asyncio.timeout(CONNECT_SECONDS):
            return await SocketStream.connect(self.host, self.port, read_ahead=READ_AHEAD)


@dataclass(frozen=True)
class UnixTarget:
    """A server on a Unix socket."""

    path: Path

    async def connect(self) -> ByteStream:
        """Connect. Raises ``OSError`` (``TimeoutError`` after 20 s)."""
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(str(self.path), limit=READ_AHEAD)
            return SocketStream(reader, writer)


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
