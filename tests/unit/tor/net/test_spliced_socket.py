"""Sockets spliced to streams of circuits: bytes both ways, back-pressure, and every way to end."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from pelure.errors import CircuitError, StreamError
from pelure.tor.cell.commands import EndReason
from pelure.tor.net import circuit_stream, spliced_socket
from pelure.tor.net.circuit_stream import PENDING_HIGH, CircuitStream
from pelure.tor.net.spliced_socket import SplicedSocket
from unit.tor.net.stream_pair import Side, pair, until

SECONDS = 30.0
Program = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def small_socket() -> socket.socket:
    """One that holds little on its way."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
    return sock


@asynccontextmanager
async def spliced(stream: CircuitStream) -> AsyncIterator[tuple[Program, set[SplicedSocket]]]:
    """``stream`` spliced to a connection; gives its other end."""
    open_ones: set[SplicedSocket] = set()
    loop = asyncio.get_running_loop()
    listener = small_socket()
    listener.bind(("127.0.0.1", 0))
    server = await loop.create_server(lambda: SplicedSocket(stream, open_ones), sock=listener)
    async with asyncio.timeout(SECONDS):
        sock = small_socket()
        await loop.sock_connect(sock, listener.getsockname())
        program = await asyncio.open_connection(sock=sock)
        await until(lambda: open_ones)
        yield program, open_ones
    for one in list(open_ones):
        one.close()
    program[1].close()
    server.close()


async def test_megabytes_both_ways() -> None:
    near, far = await pair()
    up, down = os.urandom(900_000), os.urandom(700_000)

    async def collect(read: Callable[[int], Awaitable[bytes]], size: int) -> bytes:
        got = bytearray()
        while len(got) < size:
            got += await read(65536)
        return bytes(got)

    async with spliced(near) as ((reader, writer), _):
        writer.write(up)
        sending = asyncio.create_task(far.write(down))
        at_program, at_far = await asyncio.gather(collect(reader.read, len(down)), collect(far.read, len(up)))
        await sending
    assert (at_program, at_far) == (down, up)
    assert (near.bytes_written, near.bytes_read) == (len(up), len(down))


async def test_what_came_before_the_socket_was_there() -> None:
    near, far = await pair()
    await far.write(b"early")
    await until(lambda: near.endpoint.buffered)
    async with spliced(near) as ((reader, _), _):
        assert await reader.readexactly(5) == b"early"


async def test_a_slow_program_holds_up_the_other_side() -> None:
    near, far = await pair()
    async with spliced(near) as ((reader, _), _):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writing = asyncio.create_task(far.write(bytes(2_000_000)))
        await until(lambda: far.endpoint.sending.stopped)
        assert near.endpoint.buffered < 1_000_000 and not writing.done()
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        left = 2_000_000
        while left:
            left -= len(await reader.read(1 << 20))
        await writing


async def test_a_slow_circuit_holds_up_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = await pair()
    with monkeypatch.context() as patch:
        patch.setattr(Side, "pump", lambda self: None)  # nothing leaves
        async with spliced(near) as ((_, writer), _):
            writer.write(bytes(2_000_000))
            await until(lambda: near.endpoint.pending > PENDING_HIGH)
            for _ in range(100):
                await asyncio.sleep(0)
            assert near.endpoint.pending < PENDING_HIGH + 500_000
            patch.undo()
            near.circuit.pump()
            left = 2_000_000
            while left:
                left -= len(await far.read())


async def test_the_other_sides_end_closes_what_it_follows() -> None:
    """A program or target hears the end after all the data; what it says then ends the connection."""
    for stream, other in (await pair(), (await pair())[::-1]):
        async with spliced(stream) as ((reader, writer), open_ones):
            other.endpoint.write(b"last words")
            other.circuit.pump()
            other.close_soon()
            assert await reader.read() == b"last words"
            assert len(open_ones) == 1  # it may still say something, or close its side
            writer.write(b"too late")
            await until(lambda: not open_ones)


async def test_a_program_that_closes_its_half_still_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_stream, "LINGER_SECONDS", 0.05)
    near, far = await pair()
    async with spliced(near) as ((reader, writer), open_ones):
        writer.write(b"question")
        writer.write_eof()
        assert await far.read() == b"question"
        await far.write(b"answer")
        assert await reader.read() == b"answer"
        assert await far.read() == b""
        await until(lambda: not open_ones)


async def test_a_target_that_closes_its_half_ends_the_stream() -> None:
    near, far = await pair()
    async with spliced(far) as ((reader, writer), open_ones):
        writer.write(b"all there is")
        writer.write_eof()
        assert await near.read() == b"all there is"
        assert await near.read() == b""
        assert await reader.read() == b""
        await until(lambda: not open_ones)
    assert far.circuit.streams == near.circuit.streams == []


async def test_a_lost_connection_ends_the_stream() -> None:
    near, far = await pair()
    async with spliced(near) as ((_, writer), open_ones):
        writer.write(b"x")
        assert await far.read() == b"x"
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by a reset
        writer.transport.abort()
        assert await far.read() == b""
        assert not open_ones
    assert near.circuit.streams == []


async def test_a_broken_stream_closes_the_connection() -> None:
    near, far = await pair()
    async with spliced(near) as ((reader, _), open_ones):
        await far.write(b"half of it")
        far.close_soon(EndReason.CONNRESET)
        assert await reader.read() == b"half of it"
        await until(lambda: not open_ones)
    near, _ = await pair()
    async with spliced(near) as ((reader, _), open_ones):
        near.fail(CircuitError("the circuit was closed"))
        assert await reader.read() == b""
        await until(lambda: not open_ones)


async def test_close_drops_everything() -> None:
    near, far = await pair()
    async with spliced(near) as ((reader, _), open_ones):
        [one] = open_ones
        one.close()
        one.close()
        assert not open_ones
        assert await reader.read() == b""
        assert await far.read() == b""
        with pytest.raises(StreamError):
            await far.write(b"x")


async def test_a_socket_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spliced_socket, "LINGER_SECONDS", 0.01)
    near, far = await pair()
    async with spliced(near) as (_, open_ones):
        far.close_soon()
        await until(lambda: not open_ones)


class SlowTransport(asyncio.Transport):
    """Holds :attr:`left` bytes that its socket has not taken yet."""

    left = 1000
    aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.left

    def write_eof(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


async def test_a_socket_that_still_takes_the_rest_is_not_given_up() -> None:
    near, far = await pair()
    transport = SlowTransport()
    one = SplicedSocket(near, set())
    one.connection_made(transport)
    far.close_soon()
    await until(lambda: near.is_over)
    for transport.left in (900, 10, 0):
        one._give_up()
        assert not transport.aborted
    one._give_up()
    assert transport.aborted
    one.connection_lost(None)
