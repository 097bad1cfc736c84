"""Streams that clients open: accepted, refused, limited, connected to their targets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pelure.streams import ByteStream, MemoryStream, memory_pipe
from pelure.tor.cell.commands import EndReason, RelayCommand
from pelure.tor.cell.relay_messages import Begin
from pelure.tor.circuit.events import Incoming
from pelure.tor.net.circuit_stream import CircuitStream
from pelure.tor.service.events import ServiceEvent, StreamBegun
from pelure.tor.service.streams import StreamAcceptor
from pelure.tor.service.targets import IncomingInfo, TcpTarget, UnixTarget

SECONDS = 30.0


class FakeStream:
    """A ``CircuitStream`` as the acceptor sees it; ``client`` is the other end."""

    def __init__(self, circuit: SimpleNamespace) -> None:
        self.circuit = circuit
        self.client, self._here = memory_pipe()
        self.decided = asyncio.Event()
        self.accepted = False
        self.reason: EndReason | None = None
        circuit.streams.append(self)

    def accept(self, connected: bytes = b"") -> None:
        self.accepted = True
        self.decided.set()

    def refuse(self, reason: EndReason) -> None:
        self.reason = reason
        self.decided.set()

    async def read(self, limit: int = 65536) -> bytes:
        return await self._here.read(limit)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        await self._here.write(data)

    async def write_eof(self) -> None:
        await self._here.write_eof()

    async def close(self) -> None:
        await self._here.close()


def new_circuit(number: int = 7) -> SimpleNamespace:
    return SimpleNamespace(id=number, streams=[])


async def open_stream(
    acceptor: StreamAcceptor,
    port: int = 80,
    *,
    circuit: SimpleNamespace | None = None,
    command: int = RelayCommand.BEGIN,
    data: bytes | None = None,
) -> FakeStream:
    stream = FakeStream(circuit or new_circuit())
    body = Begin("", port).encode() if data is None else data
    request = Incoming(cast("object", None), command, body)  # type: ignore[arg-type]
    acceptor.incoming(cast(CircuitStream, stream), request)
    async with asyncio.timeout(SECONDS):
        await stream.decided.wait()
    return stream


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()
    writer.close()


async def check_echo(client: MemoryStream) -> None:
    async with asyncio.timeout(SECONDS):
        await client.write(b"hello")
        assert await client.read() == b"hello"
        await client.write_eof()
        assert await client.read() == b""


async def test_tcp_and_unix_targets(tmp_path: Path) -> None:
    tcp = await asyncio.start_server(echo, "127.0.0.1", 0)
    unix = await asyncio.start_unix_server(echo, str(tmp_path / "socket"))
    events: list[ServiceEvent] = []
    ports = {
        80: TcpTarget("127.0.0.1", tcp.sockets[0].getsockname()[1]),
        22: UnixTarget(tmp_path / "socket"),
    }
    acceptor = StreamAcceptor(ports, 0, events.append)
    for port in (80, 22):
        stream = await open_stream(acceptor, port)
        assert stream.accepted
        await check_echo(stream.client)
    assert events == [StreamBegun(7, 80), StreamBegun(7, 22)]
    await acceptor.close()
    tcp.close()
    unix.close()


async def test_a_callback_gets_the_stream_and_who_it_is() -> None:
    seen: list[IncomingInfo] = []

    async def accept(stream: ByteStream, info: IncomingInfo) -> None:
        seen.append(info)
        await stream.write(await stream.read())

    acceptor = StreamAcceptor({9: accept}, 0, lambda event: None)
    stream = await open_stream(acceptor, 9)
    async with asyncio.timeout(SECONDS):
        await stream.client.write(b"x")
        assert await stream.client.read() == b"x"
        assert await stream.client.read() == b""
    assert seen == [IncomingInfo(9, 7)]


async def test_a_failing_callback_ends_its_stream_only(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(stream: ByteStream, info: IncomingInfo) -> None:
        raise RuntimeError("a bug")

    acceptor = StreamAcceptor({9: fail}, 0, lambda event: None)
    stream = await open_stream(acceptor, 9)
    async with asyncio.timeout(SECONDS):
        assert await stream.client.read() == b""
    assert "port 9" in caplog.text
    assert (await open_stream(acceptor, 9)).accepted


async def test_what_is_refused() -> None:
    acceptor = StreamAcceptor({80: TcpTarget("127.0.0.1", 1)}, 0, lambda event: None)
    assert (await open_stream(acceptor, 81)).reason == EndReason.CONNECTREFUSED
    assert (await open_stream(acceptor, 80)).reason == EndReason.CONNECTREFUSED  # nobody listens there
    assert (await open_stream(acceptor, data=b"garbage")).reason == EndReason.TORPROTOCOL
    for command in (RelayCommand.BEGIN_DIR, RelayCommand.RESOLVE):
        assert (await open_stream(acceptor, command=command)).reason == EndReason.NOTDIRECTORY


async def test_streams_of_one_circuit_are_limited() -> None:
    async def hold(stream: ByteStream, info: IncomingInfo) -> None:
        await stream.read()

    acceptor = StreamAcceptor({80: hold}, 2, lambda event: None)
    circuit, other = new_circuit(), new_circuit(8)
    assert (await open_stream(acceptor, circuit=circuit)).accepted
    assert (await open_stream(acceptor, circuit=circuit)).accepted
    assert (await open_stream(acceptor, circuit=circuit)).reason == EndReason.RESOURCELIMIT
    assert (await open_stream(acceptor, circuit=other)).accepted
    await acceptor.close()


async def test_streams_of_all_circuits_are_limited() -> None:
    """Each takes a file descriptor: a client with many circuits must not take all there are."""
    released = asyncio.Event()

    async def hold(stream: ByteStream, info: IncomingInfo) -> None:
        await released.wait()

    acceptor = StreamAcceptor({80: hold}, 0, lambda event: None, max_open=2)
    held = [await open_stream(acceptor, circuit=new_circuit(number)) for number in range(3)]
    assert [stream.reason for stream in held] == [None, None, EndReason.RESOURCELIMIT]
    released.set()
    async with asyncio.timeout(SECONDS):
        while acceptor._tasks:  # noqa: ASYNC110 - what is done is not told
            await asyncio.sleep(0)
    assert (await open_stream(acceptor)).accepted
    await acceptor.close()
