"""Sockets as byte streams, and where somebody listens."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from pelure.errors import ConfigError
from pelure.streams import SOCKET_BUFFER, SocketStream, listening, place

T = TypeVar("T")


async def within(work: Awaitable[T]) -> T:
    async with asyncio.timeout(60.0):
        return await work


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[SocketStream, SocketStream]]:
    """Both ends of a connection."""
    accepted: asyncio.Queue[SocketStream] = asyncio.Queue()
    server = await SocketStream.listen(accepted.put, "127.0.0.1", 0)
    one = await SocketStream.connect(*server.sockets[0].getsockname()[:2])
    other = await within(accepted.get())
    server.close()
    try:
        yield one, other
    finally:
        await one.close()
        await other.close()


async def read_all(stream: SocketStream, limit: int) -> bytes:
    received = b""
    while data := await stream.read(limit):
        assert len(data) <= limit
        received += data
    return received


@pytest.mark.parametrize("limit", [1000, SOCKET_BUFFER, 4 * SOCKET_BUFFER])
async def test_each_half_ends_by_itself(limit: int) -> None:
    async with pair() as (one, other):
        await within(one.write(b"there"))
        await within(one.write_eof())
        assert await within(read_all(other, limit)) == b"there"
        await within(other.write(bytearray(b"and back")))
        await within(other.write_eof())
        assert await within(read_all(one, limit)) == b"and back"


async def test_who_writes_waits_for_who_does_not_read() -> None:
    sent = os.urandom(24 * SOCKET_BUFFER)  # more than the kernel holds for both
    async with pair() as (one, other):

        async def write() -> None:
            for at in range(0, len(sent), 100_000):
                await one.write(memoryview(sent)[at : at + 100_000])
            await one.write_eof()

        writing = asyncio.create_task(write())
        first = await within(other.read(10))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not writing.done()
        assert first + await within(read_all(other, 70_000)) == sent
        await within(writing)


async def test_what_came_before_the_end_is_read_after_it() -> None:
    async with pair() as (one, other):
        await within(one.write(b"last words"))
        await within(one.close())
        assert await within(read_all(other, 4)) == b"last words"
        assert await within(other.read()) == b""


async def test_a_closed_stream_is_not_written_to() -> None:
    async with pair() as (one, other):
        await within(one.close())
        with pytest.raises(ConnectionError):
            await one.write(b"too late")
        await one.write_eof()
        await one.close()
        with pytest.raises(OSError):  # the other side finds out when it is answered by a reset
            while True:
                await within(other.write(bytes(100_000)))
                await asyncio.sleep(0)


async def test_a_cancelled_read_loses_nothing() -> None:
    async with pair() as (one, other):
        reading = asyncio.create_task(other.read())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        await within(one.write(b"kept"))
        assert await within(other.read()) == b"kept"


async def test_a_connection_whose_handler_fails_is_closed() -> None:
    async def fail(stream: SocketStream) -> None:
        assert stream.peername[0] == "127.0.0.1"
        raise RuntimeError("a bug")

    server = await SocketStream.listen(fail, "127.0.0.1", 0)
    stream = await SocketStream.connect(*server.sockets[0].getsockname()[:2])
    assert await within(stream.read()) == b""
    await stream.close()
    server.close()


def test_places() -> None:
    assert place("127.0.0.1", 9150) == "127.0.0.1:9150"
    assert place("::1", 9150) == "[::1]:9150"


async def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as error, listening("127.0.0.1", port):
            await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", port)
    assert str(error.value) == f"can't listen at 127.0.0.1:{port}: Address already in use"


def test_a_name_that_is_unknown() -> None:
    with pytest.raises(ConfigError) as error, listening("nowhere.invalid", 1):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert str(error.value) == "can't listen at nowhere.invalid:1: Name or service not known"
