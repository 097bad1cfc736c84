"""Streams that clients open: accepted, refused, limited, connected to their targets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pelure.errors import StreamError
from pelure.streams import ByteStream
from pelure.tor.cell.commands import EndReason, RelayCommand
from pelure.tor.circuit.events import Incoming
from pelure.tor.net import circuit_stream
from pelure.tor.net.circuit_stream import CircuitStream
from pelure.tor.service.events import ServiceEvent, StreamBegun
from pelure.tor.service.streams import StreamAcceptor
from pelure.tor.service.targets import Dial, IncomingInfo, Target, TcpTarget, UnixTarget
from unit.tor.net.stream_pair import Side, sides, until

SECONDS = 30.0


class Opened:
    """A stream that a client opened, ``client``, once the acceptor has decided about it."""

    def __init__(self, client: CircuitStream) -> None:
        self.client = client
        self.accepted = False
        self.reason: int | None = None

    async def decided(self) -> None:
        try:
            await self.client.connected(SECONDS)
            self.accepted = True
        except StreamError as error:
            self.reason = error.reason


Ends = tuple[Side, Side]


async def open_stream(
    acceptor: StreamAcceptor,
    port: int = 80,
    *,
    circuit: Ends | None = None,
    command: int = RelayCommand.BEGIN,
    data: bytes | None = None,
) -> Opened:
    near, far = circuit or sides()
    client = near.open("", port)
    before = len(far.incoming)
    await until(lambda: len(far.incoming) > before)
    stream, request = far.incoming[-1]
    body = request.data if data is None else data
    acceptor.incoming(stream, Incoming(request.stream, command, body))
    opened = Opened(client)
    await opened.decided()
    return opened


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()
    writer.close()


async def check_echo(client: CircuitStream) -> None:
    async with asyncio.timeout(SECONDS):
        await client.write(b"hello")
        assert await client.read() == b"hello"
        await client.write_eof()
        assert await client.read() == b""


async def test_tcp_and_unix_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_stream, "LINGER_SECONDS", 0.05)
    tcp = await asyncio.start_server(echo, "127.0.0.1", 0)
    unix = await asyncio.start_unix_server(echo, str(tmp_path / "socket"))
    events: list[ServiceEvent] = []
    ports: dict[int, Target] = {
        80: TcpTarget("localhost", tcp.sockets[0].getsockname()[1]),
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


async def test_a_target_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not near is waited for, and given up when the client leaves or nobody answers."""
    monkeypatch.setattr(circuit_stream, "LINGER_SECONDS", 0.05)
    monkeypatch.setattr(Dial, "_try", lambda self: False)
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    acceptor = StreamAcceptor({80: TcpTarget("127.0.0.1", port)}, 0, lambda event: None)
    stream = await open_stream(acceptor)
    assert stream.accepted
    await check_echo(stream.client)
    near, far = sides()
    client = near.open("", 80)
    await until(lambda: far.incoming)
    client.close_soon()
    await until(lambda: not far.streams or far.streams[0].is_over)
    acceptor.incoming(*far.incoming[0])
    await until(lambda: not acceptor._connecting and not acceptor._sockets)
    server.close()
    assert (await open_stream(acceptor)).reason == EndReason.CONNECTREFUSED
    await acceptor.close()


async def test_a_target_that_is_not_there_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Any client can ask for it as often as it likes; when it was there in between, it is news again."""
    path = tmp_path / "socket"
    acceptor = StreamAcceptor({80: UnixTarget(path)}, 0, lambda event: None)
    told = f"The onion service can't connect to unix:{path}: No such file or directory"
    for _ in range(3):
        assert (await open_stream(acceptor)).reason == EndReason.CONNECTREFUSED
    assert caplog.messages == [told]
    server = await asyncio.start_unix_server(echo, path)
    await check_echo((await open_stream(acceptor)).client)
    server.close()
    path.unlink(missing_ok=True)
    assert (await open_stream(acceptor)).reason == EndReason.CONNECTREFUSED
    assert caplog.messages == [told, told]
    await acceptor.close()
    assert str(TcpTarget("::1", 80)) == "[::1]:80"


async def test_close_gives_up_what_is_being_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(dial: Dial) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Dial, "_try", lambda self: False)
    monkeypatch.setattr(Dial, "connect", never)
    acceptor = StreamAcceptor({80: TcpTarget("127.0.0.1", 1)}, 0, lambda event: None, max_open=1)
    near, far = sides()
    client = near.open("", 80)
    await until(lambda: far.incoming)
    acceptor.incoming(*far.incoming[0])
    assert (await open_stream(acceptor)).reason == EndReason.RESOURCELIMIT
    await acceptor.close()
    with pytest.raises(StreamError):
        await client.connected(SECONDS)
    assert not acceptor._sockets


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
    circuit, other = sides(), sides(8)
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
    held = [await open_stream(acceptor, circuit=sides(number)) for number in range(3)]
    assert [stream.reason for stream in held] == [None, None, EndReason.RESOURCELIMIT]
    released.set()
    async with asyncio.timeout(SECONDS):
        while acceptor._tasks:  # noqa: ASYNC110 - what is done is not told
            await asyncio.sleep(0)
    assert (await open_stream(acceptor)).accepted
    await acceptor.close()
