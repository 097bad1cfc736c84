"""The local proxy over real sockets, with the network replaced by memory pipes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from pelure.errors import OnionServiceError, PelureError, StreamError
from pelure.tor.cell.commands import EndReason
from pelure.tor.client.proxy import READ_AHEAD, ProxyServer
from pelure.tor.net.circuit_stream import CircuitStream
from pelure.tor.net.origin import Circuit
from unit.tor.net.stream_pair import Side, pair, sides, until

PATIENCE = 30


class FakeOpener:
    """Hands out streams and keeps their other sides; ``joined`` is what it takes for ready."""

    def __init__(self) -> None:
        self.error: PelureError | None = None
        self.hold: asyncio.Event | None = None
        self.opened: asyncio.Queue[tuple[str, int, Hashable, bytes, CircuitStream]] = asyncio.Queue()
        self.cancelled = asyncio.Event()
        self.joined: Side | None = None

    def ready(self, host: str, port: int, isolation: Hashable) -> Circuit | None:
        return cast("Circuit | None", self.joined)

    async def open(self, host: str, port: int, isolation: Hashable, early: bytes = b"") -> CircuitStream:
        if self.hold is not None:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if self.error is not None:
            raise self.error
        near, far = await pair()
        self.opened.put_nowait((host, port, isolation, early, far))
        return near

    async def resolve(self, name: str, isolation: Hashable) -> list[str]:
        if self.error is not None:
            raise self.error
        return ["192.0.2.9"]

    async def reverse(self, address: str, isolation: Hashable) -> list[str]:
        return [f"{address}.example"]


@asynccontextmanager
async def proxied(
    *, isolate_destinations: bool = False
) -> AsyncIterator[tuple[FakeOpener, ProxyServer, tuple[str, int]]]:
    opener = FakeOpener()
    server = ProxyServer(opener, isolate_destinations=isolate_destinations)
    address = await server.listen("127.0.0.1", 0)
    try:
        yield opener, server, address
    finally:
        await server.close()


async def dial(address: tuple[str, int], data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    return reader, writer


def socks(host: bytes = b"example.org", port: int = 80, user: bytes = b"") -> bytes:
    greeting = b"\5\1\2\1" + bytes([len(user)]) + user + b"\0" if user else b"\5\1\0"
    return greeting + bytes([5, 1, 0, 3, len(host)]) + host + port.to_bytes(2, "big")


OK = b"\5\0\0\1" + bytes(6)


async def test_a_stream_both_ways_with_early_data() -> None:
    async with asyncio.timeout(PATIENCE), proxied() as (opener, _, address):
        reader, writer = await dial(address, socks() + b"early")
        assert await reader.readexactly(12) == b"\5\0" + OK
        host, port, _, early, far = await opener.opened.get()
        assert (host, port, early) == ("example.org", 80, b"early")
        writer.write(b"more")
        assert await far.read() == b"more"
        await far.write(b"answer")
        assert await reader.readexactly(6) == b"answer"
        await far.write_eof()
        assert await reader.read() == b""
        writer.write_eof()
        assert await far.read() == b""
        writer.close()


async def test_isolation_by_credentials_and_destination() -> None:
    async with asyncio.timeout(PATIENCE), proxied(isolate_destinations=True) as (opener, _, address):
        tokens = []
        for host, user in ((b"a", b"u"), (b"a", b"u"), (b"a", b"v"), (b"b", b"u")):
            _, writer = await dial(address, socks(host, 80, user))
            tokens.append((await opener.opened.get())[2])
            writer.close()
        assert tokens[0] == tokens[1]
        assert len(set(tokens)) == 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StreamError("no", EndReason.CONNECTREFUSED), 5),
        (OnionServiceError("no descriptor", 0xF0), 0xF0),
    ],
)
async def test_failures_are_told(error: PelureError, code: int) -> None:
    async with asyncio.timeout(PATIENCE), proxied() as (opener, _, address):
        opener.error = error
        reader, writer = await dial(address, socks())
        assert (await reader.read())[2:4] == bytes([5, code])
        writer.close()


async def test_http_connect() -> None:
    async with asyncio.timeout(PATIENCE), proxied() as (opener, _, address):
        reader, writer = await dial(address, b"CONNECT example.org:443 HTTP/1.1\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert (await opener.opened.get())[:2] == ("example.org", 443)
        writer.close()


async def test_a_look_up() -> None:
    async with asyncio.timeout(PATIENCE), proxied() as (opener, _, address):
        request = b"\5\1\0\5\xf0\0\3\x01a\0\0"
        reader, writer = await dial(address, request)
        assert await reader.read() == b"\5\0" + b"\5\0\0\1\xc0\0\2\x09\0\0"
        writer.close()
        reader, writer = await dial(address, b"\5\1\0\5\xf1\0\1\1\2\3\4\0\0")
        assert await reader.read() == b"\5\0" + b"\5\0\0\3\x0f1.2.3.4.example\0\0"
        writer.close()
        opener.error = StreamError("none", EndReason.RESOLVEFAILED)
        reader, writer = await dial(address, request)
        assert await reader.read() == b"\5\0" + b"\5\4\0\1" + bytes(6)
        writer.close()


async def test_bad_requests_are_answered_and_dropped() -> None:
    async with asyncio.timeout(PATIENCE), proxied() as (_, _, address):
        reader, writer = await dial(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"SOCKS5" in await reader.read()
        writer.close()
        reader, writer = await dial(address, b"\5\1\0\5\3\0\1" + bytes(6))
        assert (await reader.read())[2:4] == b"\5\7"
        writer.close()


async def test_a_client_that_leaves_ends_the_attempt() -> None:
    async with asyncio.timeout(PATIENCE), proxied() as (opener, _, address):
        opener.hold = asyncio.Event()
        reader, writer = await dial(address, socks())
        assert await reader.readexactly(2) == b"\5\0"
        writer.close()
        await opener.cancelled.wait()


async def test_closing_ends_open_streams() -> None:
    async with asyncio.timeout(PATIENCE):
        async with proxied() as (opener, _, address):
            reader, writer = await dial(address, socks())
            await reader.readexactly(12)
            far = (await opener.opened.get())[4]
        assert await far.read() == b""
        assert await reader.read() == b""
        writer.close()


async def test_a_stream_to_a_port_that_said_yes_is_not_waited_for() -> None:
    async with asyncio.timeout(PATIENCE), proxied() as (opener, server, address):
        opener.joined, far = sides()
        reader, writer = await dial(address, socks() + b"early")
        assert await reader.readexactly(12) == b"\5\0" + OK
        await until(lambda: far.incoming)
        stream, _ = far.incoming[0]
        assert await stream.read() == b"early"
        writer.write(b"more")
        assert await stream.read() == b"more"
        assert server.connections == 1
        stream.refuse(EndReason.CONNECTREFUSED)
        assert await reader.read() == b""
        await until(lambda: not server.connections)
        writer.close()


async def test_what_comes_before_the_stream_is_open() -> None:
    async with asyncio.timeout(PATIENCE), proxied() as (opener, _, address):
        opener.hold = asyncio.Event()
        reader, writer = await dial(address, socks())
        assert await reader.readexactly(2) == b"\5\0"
        said = bytes(READ_AHEAD) + b"the end"
        writer.write(said)
        writer.write_eof()
        await asyncio.sleep(0.01)
        opener.hold.set()
        far = (await opener.opened.get())[4]
        heard = b""
        while len(heard) < len(said):
            heard += await far.read()
        assert heard == said
        await far.write(b"answer")
        far.close_soon()
        assert await reader.read() == OK + b"answer"
        writer.close()


async def test_a_client_that_closes_its_half_of_a_look_up_is_answered() -> None:
    async with asyncio.timeout(PATIENCE), proxied() as (_, _, address):
        reader, writer = await dial(address, b"\5\1\0\5\xf0\0\3\x01a\0\0")
        writer.write_eof()
        assert await reader.read() == b"\5\0" + b"\5\0\0\1\xc0\0\2\x09\0\0"
        writer.close()
