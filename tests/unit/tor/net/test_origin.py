"""Circuits and circuit streams for asyncio, over relays in memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pelure.errors import CircuitError, StreamError
from pelure.tor.cell.commands import CellCommand, EndReason, RelayCommand
from pelure.tor.cell.framing import Cell
from pelure.tor.cell.messages import Destroy
from pelure.tor.cell.relay_messages import Answer, Resolved
from pelure.tor.circuit import events as ev
from pelure.tor.circuit.hop_end import HopEnd
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.circuit.relaycrypto import HopKeys
from pelure.tor.net import circuit_stream
from pelure.tor.net.circuit_stream import CircuitStream
from pelure.tor.net.origin import Circuit
from unit.tor.circuit.chain_link import ChainLink, ChainLinks
from unit.tor.circuit.relay_chain import RelayChain

WAIT = 30.0


async def build(count: int = 3, *, cc: bool = True, **options: Any) -> tuple[Circuit, ChainLink]:
    link = ChainLink(RelayChain(count, CircuitParams()))
    links: Any = ChainLinks(link)
    circuit = await Circuit.build(
        links, link.chain.path(), params=CircuitParams(), congestion_control=cc, **options
    )
    return circuit, link


def far_end(link: ChainLink, hop: int = -1) -> HopEnd:
    end = link.chain.relays[hop].end
    assert end is not None
    return end


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn, a bounded number of times, until ``condition`` holds."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


async def test_build_and_close() -> None:
    circuit, link = await build(4)
    assert circuit.path == link.chain.path()
    assert circuit.kh(1) == link.chain.relays[1].kh
    circuit.close()
    circuit.close()
    assert circuit.closed.is_set()
    assert link.sent[-1] == Destroy(0).cell(circuit.core.circ_id)
    with pytest.raises(CircuitError, match="closed"):
        await circuit.begin("example.com", 80)


async def test_extend_and_one_hop_with_create_fast() -> None:
    chain = RelayChain(3, CircuitParams())
    link = ChainLink(chain)
    links: Any = ChainLinks(link)
    circuit = await Circuit.build(links, chain.path()[:1], params=CircuitParams(), fast=True)
    stream = circuit.open_dir()
    await stream.write(b"GET /")
    assert await stream.read() == b"GET /"
    await circuit.extend(chain.path()[1])
    await circuit.extend(chain.path()[2])
    assert circuit.path == chain.path()


@pytest.mark.parametrize("cc", [False, True])
async def test_megabytes_through_an_echo(cc: bool) -> None:
    circuit, _ = await build(cc=cc)
    stream = await circuit.begin("192.0.2.1", 80)
    data = os.urandom(3_000_001)

    async def send() -> None:
        for start in range(0, len(data), 70_000):
            await stream.write(data[start : start + 70_000])

    async with asyncio.timeout(WAIT):
        sender = asyncio.create_task(send())
        got = bytearray()
        while len(got) < len(data):
            got += await stream.read(50_000)
        await sender
    assert got == data
    assert stream.bytes_read == stream.bytes_written == len(data)


async def test_optimistic_data_goes_with_the_begin() -> None:
    circuit, _ = await build()
    stream = circuit.open("192.0.2.1", 80)
    await stream.write(b"early")
    assert await stream.read() == b"early"
    assert await stream.connected(WAIT) == b""


async def test_small_writes_share_cells() -> None:
    circuit, _link = await build()
    stream = await circuit.begin("192.0.2.1", 80)
    before = circuit.cells_written
    for _ in range(100):
        await stream.write(b"0123456789")
    got = b""
    while len(got) < 1000:
        got += await stream.read()
    assert got == b"0123456789" * 100
    assert circuit.cells_written - before == 3


async def test_a_refused_stream() -> None:
    circuit, link = await build()
    link.echo = False
    opening = asyncio.create_task(circuit.begin("192.0.2.1", 25))
    await until(lambda: bool(link.chain.relays[-1].events))
    [incoming] = link.chain.relays[-1].events
    assert isinstance(incoming, ev.Incoming)
    incoming.stream.end(EndReason.EXITPOLICY)
    link.step()
    with pytest.raises(StreamError, match="its exit policy forbids it") as caught:
        await opening
    assert caught.value.reason == EndReason.EXITPOLICY
    assert circuit.streams == []


async def test_an_end_is_read_after_the_data() -> None:
    circuit, link = await build()
    stream = await circuit.begin("192.0.2.1", 80)
    [far] = far_end(link).streams.values()
    far.write(b"last words")
    far.finish()
    far_end(link).pump(0, 100)
    link.step()
    await stream.write(b"in vain")
    assert await stream.read() == b"last words"
    assert await stream.read() == b""
    with pytest.raises(StreamError):
        await stream.write(b"x")
    await stream.close()


async def test_a_reset_stream_raises() -> None:
    circuit, link = await build()
    stream = await circuit.begin("192.0.2.1", 80)
    reading = asyncio.create_task(stream.read())
    [far] = far_end(link).streams.values()
    far.end(EndReason.CONNRESET)
    await asyncio.sleep(0)
    link.step()
    with pytest.raises(StreamError) as caught:
        await reading
    assert caught.value.reason == EndReason.CONNRESET


async def test_close_sends_what_was_written_before_the_end() -> None:
    circuit, link = await build()
    link.echo = False
    stream = circuit.open("192.0.2.1", 80)
    await stream.write(bytes(300_000))
    await stream.close()
    far = None
    total, ended = 0, False
    for _ in range(10_000):
        await asyncio.sleep(0)
        for event in link.chain.relays[-1].events:
            if isinstance(event, ev.Incoming):
                far = event.stream
            ended |= isinstance(event, ev.StreamEnded)
        link.chain.relays[-1].events.clear()
        assert far is not None
        total += len(far.read(1 << 20))
        if ended:
            break
    assert total == 300_000 and ended
    assert circuit.streams == []


async def test_a_half_closed_stream_still_reads_and_ends_when_it_is_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(circuit_stream, "LINGER_SECONDS", 0.01)
    circuit, link = await build()
    stream = await circuit.begin("192.0.2.1", 80)
    await stream.write(b"question")
    await stream.write_eof()
    with pytest.raises(StreamError):
        await stream.write(b"more")
    assert await stream.read() == b"question"
    assert await asyncio.wait_for(stream.read(), WAIT) == b""
    await until(lambda: not far_end(link).streams)


async def test_destroy_fails_everything_on_the_circuit() -> None:
    circuit, _ = await build()
    stream = await circuit.begin("192.0.2.1", 80)
    reading = asyncio.create_task(stream.read())
    expecting = asyncio.create_task(circuit.expect(RelayCommand.RENDEZVOUS2, timeout=WAIT))
    seen: list[Circuit] = []
    circuit.on_closed = seen.append
    await asyncio.sleep(0)
    circuit.handle(Destroy(9).cell(circuit.core.circ_id))
    for task in (reading, expecting):
        with pytest.raises(CircuitError) as caught:
            await task
        assert caught.value.reason == 9
    assert seen == [circuit] and circuit.streams == []


async def test_a_lost_link_and_a_broken_peer() -> None:
    circuit, link = await build()
    link.lose()
    assert circuit.error is not None and "lost" in str(circuit.error)
    circuit, link = await build()
    circuit.handle(Cell(circuit.core.circ_id, CellCommand.CREATED2, bytes(509)))
    assert circuit.closed.is_set() and link.sent[-1] == Destroy(0).cell(circuit.core.circ_id)


async def test_a_circuit_that_takes_too_long() -> None:
    chain = RelayChain(2, CircuitParams())
    link = ChainLink(chain)
    link.silent = True
    links: Any = ChainLinks(link)
    with pytest.raises(CircuitError, match="within"):
        await Circuit.build(links, chain.path(), params=CircuitParams(), timeout=0.01)
    assert isinstance(link.sent[-1], Cell) and link.sent[-1].command == CellCommand.DESTROY


async def test_resolve() -> None:
    circuit, link = await build()
    link.echo = False
    resolving = asyncio.create_task(circuit.resolve("example.com", timeout=WAIT))
    await until(lambda: bool(link.chain.relays[-1].events))
    [incoming] = link.chain.relays[-1].events
    assert isinstance(incoming, ev.Incoming)
    answers = (Answer.address("192.0.2.9", 300),)
    far_end(link).send(RelayCommand.RESOLVED, incoming.stream.id, Resolved(answers).encode())
    link.step()
    assert await resolving == answers


async def test_what_is_reserved_for_is_kept_until_expected_once() -> None:
    circuit, link = await build()
    circuit.reserve(RelayCommand.RENDEZVOUS2)
    far_end(link).send(RelayCommand.RENDEZVOUS2, 0, b"one")
    link.step()
    message = await circuit.expect(RelayCommand.RENDEZVOUS2, timeout=WAIT)
    assert (message.hop, message.data) == (2, b"one")
    got: list[ev.RelayMessageReceived] = []
    circuit.on_message = got.append
    far_end(link).send(RelayCommand.INTRODUCE2, 0, b"two")
    link.step()
    assert [message.data for message in got] == [b"two"]
    circuit.on_message = None
    with pytest.raises(CircuitError, match="no answer"):
        await circuit.expect(RelayCommand.RENDEZVOUS2, timeout=0.01)
    far_end(link).send(RelayCommand.RENDEZVOUS2, 0, b"twice")
    link.step()
    assert circuit.closed.is_set()


@pytest.mark.parametrize(
    "command",
    [
        RelayCommand.BEGIN,
        RelayCommand.INTRODUCE2,
        RelayCommand.INTRODUCE_ACK,
        RelayCommand.RENDEZVOUS2,
        RelayCommand.RENDEZVOUS_ESTABLISHED,
        254,
    ],
)
async def test_messages_that_nobody_asked_for_close_the_circuit(command: int) -> None:
    """They would mark it for whoever watches its other end (DropMark)."""
    circuit, link = await build()
    expecting = asyncio.create_task(circuit.expect(RelayCommand.INTRO_ESTABLISHED, timeout=WAIT))
    await asyncio.sleep(0)
    far_end(link).send(command, 0, b"x" * 100)
    link.step()
    with pytest.raises(CircuitError, match="nobody asked for"):
        await expecting
    assert circuit.closed.is_set()


@pytest.mark.parametrize("ask", ["begin", "resolve"])
async def test_what_is_not_answered_or_not_wanted_any_more_is_over(ask: str) -> None:
    circuit, link = await build()
    link.echo = False

    def asked(timeout: float) -> Any:
        name = "example.com"
        return (
            circuit.begin(name, 80, timeout=timeout)
            if ask == "begin"
            else circuit.resolve(name, timeout=timeout)
        )

    with pytest.raises(StreamError, match="in time") as late:
        await asked(0.0)
    assert late.value.reason == EndReason.TIMEOUT and not circuit.streams
    asking = asyncio.create_task(asked(WAIT))
    await until(lambda: bool(circuit.streams))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not circuit.streams and not circuit.closed.is_set()


async def test_a_circuit_that_is_not_extended_in_time_is_closed() -> None:
    circuit, link = await build(2)
    link.silent = True
    with pytest.raises(CircuitError, match="not extended"):
        await circuit.extend(RelayChain(3, CircuitParams()).path()[2], timeout=0.0)
    assert circuit.closed.is_set()


async def test_a_link_that_takes_no_more_is_told_of_as_congestion() -> None:
    circuit, link = await build()
    link.congested = True
    circuit.send(RelayCommand.DROP, b"")
    assert all(hop.end.blocked for hop in circuit.core.hops)
    link.congested = False
    circuit.writable()
    assert not any(hop.end.blocked for hop in circuit.core.hops)


async def test_whoever_offers_no_streams_refuses_them() -> None:
    service, service_link = await build()
    client, client_link = await build()
    keys = HopKeys.service(os.urandom(128))
    for circuit, is_service in ((service, True), (client, False)):
        circuit.add_hs_hop(keys, service=is_service, sendme_inc=31)
    join(client, client_link, service, service_link)
    with pytest.raises(StreamError) as refused:
        await client.begin("", 80)
    assert refused.value.reason == EndReason.NOTDIRECTORY and not service.streams


async def test_a_service_accepts_streams_on_the_virtual_hop() -> None:
    """Both sides of a joined rendezvous, each with its own circuit."""
    service, service_link = await build()
    client, client_link = await build()
    keys = HopKeys.service(os.urandom(128))
    for circuit, is_service in ((service, True), (client, False)):
        circuit.add_hs_hop(keys, service=is_service, sendme_inc=31)
    incoming: list[tuple[CircuitStream, ev.Incoming]] = []
    service.on_incoming = lambda stream, event: incoming.append((stream, event))
    join(client, client_link, service, service_link)
    opening = asyncio.create_task(client.begin("", 80))
    await until(lambda: bool(incoming))
    stream, event = incoming[0]
    assert event.command == RelayCommand.BEGIN
    stream.accept()
    near = await opening

    async def answer() -> None:
        await stream.write(bytes(500_000))
        await stream.write_eof()

    answering = asyncio.create_task(answer())
    total = 0
    while data := await near.read():
        total += len(data)
    await answering
    assert total == 500_000


def join(one: Circuit, one_link: ChainLink, other: Circuit, other_link: ChainLink) -> None:
    """Let the last relay of each chain pass what it does not recognize on to the other one."""
    loop = asyncio.get_running_loop()
    for source, sink, circuit in ((one_link, other_link, other), (other_link, one_link, one)):

        def beyond(cells: np.ndarray, sink: ChainLink = sink, circuit: Circuit = circuit) -> None:
            cells[:, 4] = CellCommand.RELAY
            loop.call_soon(circuit.handle, sink.chain.backward(cells))

        source.chain.beyond = beyond


async def test_back_pressure_of_the_link() -> None:
    """With a full queue on its link a circuit keeps its data back, and goes on when the link has drained."""
    circuit, link = await build()
    stream = await circuit.begin("192.0.2.1", 80)
    link.waiting = 600
    writing = asyncio.create_task(stream.write(bytes(400_000)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert stream.endpoint.pending == 400_000 and not writing.done()
    link.waiting = 0
    circuit.writable()
    await asyncio.wait_for(writing, WAIT)
    total = 0
    while total < 400_000:
        total += len(await stream.read())
