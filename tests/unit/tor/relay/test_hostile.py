"""Peers that attack a relay: each is contained, and an honest circuit goes on."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest import mock

import numpy as np
import pytest

from pelure.errors import CircuitError, LinkError, ProtocolError, StreamError
from pelure.tor.cell.commands import CellCommand, DestroyReason, EndReason, RelayCommand
from pelure.tor.cell.extensions import Extension
from pelure.tor.cell.framing import Cell, Run, encode
from pelure.tor.cell.linkspec import LinkSpecifier
from pelure.tor.cell.messages import Create2, CreateFast, Destroy, Versions
from pelure.tor.cell.onion_messages import (
    EstablishIntro,
    Introduce1,
    IntroduceAck,
    IntroduceStatus,
    Rendezvous1,
)
from pelure.tor.cell.relay_messages import Extend2
from pelure.tor.crypto import ntor
from pelure.tor.crypto.keys import Ed25519KeyPair
from pelure.tor.directory.relay import Relay
from pelure.tor.net import supervision
from pelure.tor.net.link import Link
from pelure.tor.net.links import LinkManager
from pelure.tor.net.origin import Circuit
from pelure.tor.net.tls import Scratch, TlsConnection, client_context
from pelure.tor.relay import exit as exit_streams
from pelure.tor.relay import memory
from pelure.tor.relay import server as server_module
from pelure.tor.relay.circuit import RelayCircuit
from pelure.tor.relay.resolver import Address, Resolver

from .support import EchoServer, Relays, until

SECONDS = 60.0


@asynccontextmanager
async def attacked() -> AsyncIterator[tuple[Relays, Circuit, EchoServer]]:
    """Three relays and an honest circuit, which must work before, during and after."""
    async with Relays() as relays, EchoServer() as echo:
        circuit = await relays.circuit()
        await assert_works(circuit, echo)
        yield relays, circuit, echo
        await assert_works(circuit, echo)
        assert not circuit.closed.is_set()


async def assert_works(circuit: Circuit, echo: EchoServer) -> None:
    stream = await circuit.begin("127.0.0.1", echo.port)
    await stream.write(b"still here")
    received = b""
    while len(received) < 10:
        received += await stream.read()
    assert received == b"still here"
    await stream.close()


class TlsPeer:
    """A client that speaks TLS properly and then whatever a test wants."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tls = TlsConnection(client_context(), Scratch(), "www.example.com")

    async def __aenter__(self) -> TlsPeer:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        while not self._tls.established:
            self._writer.write(self._tls.take())
            self._tls.receive(await self._reader.read(65536))
        self._writer.write(self._tls.take())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    def say(self, data: bytes) -> None:
        self._tls.send(data)
        self._writer.write(self._tls.take())

    async def closed(self) -> None:
        """Wait until the relay has hung up."""
        await hung_up(self._reader)


async def hung_up(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(65536):
            pass
    except ConnectionError:
        pass  # a reset is no less of an end


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.0\r\n\r\n" * 10,
        os.urandom(5000),
        encode(Versions((1, 2)).cell(), wide=False),
        encode(Versions((4, 5)).cell(), wide=False) + encode(CreateFast(bytes(20)).cell(0x80000001)),
        encode(Versions((4, 5)).cell(), wide=False) + encode(Cell(0, CellCommand.CERTS, b"\x05\x02\xff\xff")),
        encode(Versions((4, 5)).cell(), wide=False) + encode(Cell(0, CellCommand.AUTHENTICATE, bytes(300))),
    ],
    ids=["http", "noise", "old versions", "circuit before netinfo", "broken certs", "authenticate unasked"],
)
async def test_garbage_after_tls_ends_that_link(data: bytes) -> None:
    async with attacked() as (relays, _, _), TlsPeer(relays.servers[0].orport) as peer:
        peer.say(data)
        await peer.closed()


async def test_bytes_that_are_not_tls_end_that_connection() -> None:
    async with attacked() as (relays, _, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", relays.servers[0].orport)
        writer.write(os.urandom(2000))
        await hung_up(reader)
        writer.close()


async def test_half_handshakes_are_given_up() -> None:
    async with attacked() as (relays, _, _):
        links = relays.servers[0].links
        async with TlsPeer(relays.servers[0].orport) as peer:
            peer.say(encode(Versions((4, 5)).cell(), wide=False))
            await until(lambda: links.half_open == 1)
            links._handshake_seconds = 0.0
            links._sweep()
            await peer.closed()
        assert links.half_open == 0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_connections_that_never_speak(count: int) -> None:
    async with attacked() as (relays, circuit, echo):
        links = relays.servers[0].links
        links._max_half_open = count * 3 // 4
        silent = []
        try:
            for _ in range(20):
                for _ in range(count // 20):
                    one = socket.socket()
                    one.setblocking(False)
                    one.connect_ex(("127.0.0.1", relays.servers[0].orport))
                    silent.append(one)
                await assert_works(circuit, echo)
            await until(lambda: links.half_open >= count * 7 // 10)
            assert links.half_open <= links._max_half_open + 1  # the oldest had to go
            await assert_works(await relays.circuit(), echo)
            links._handshake_seconds = 0.0
            links._sweep()
            await until(lambda: links.half_open == 0)
        finally:
            for one in silent:
                one.close()


class Flooder:
    """A circuit handler that counts what comes back."""

    def __init__(self) -> None:
        self.answers: list[int] = []

    def handle(self, item: Cell | Run) -> None:
        assert isinstance(item, Cell)
        reason = Destroy.decode(item.body).reason if item.command == CellCommand.DESTROY else 0
        self.answers.append(-reason if reason else item.command)

    def link_closed(self, reason: str) -> None:
        pass

    def writable(self) -> None:
        pass


async def flood(link: Link, relays: Relays, count: int) -> Flooder:
    """Send ``count`` CREATE2 cells at once and wait until each is answered."""
    flooder = Flooder()
    keys = relays.servers[0].keys
    _, handshake = ntor.client_start(keys.rsa.public.identity, keys.onion.public, os.urandom)
    for _ in range(count):
        link.send(Create2(ntor.HANDSHAKE_TYPE, handshake).cell(link.attach(flooder)))
    await until(lambda: len(flooder.answers) == count)
    return flooder


@pytest.mark.timeout(240)
async def test_a_storm_of_create2_is_queued_and_shed() -> None:
    async with attacked() as (relays, circuit, echo):
        queue = relays.servers[0]._creator.queue
        queue.seconds_each = 0.02  # a slow machine: 87 handshakes fit into the time they may wait
        link = await relays.links.get(relays.path[0])
        storm = asyncio.ensure_future(flood(link, relays, 1500))
        await assert_works(circuit, echo)
        flooder = await storm
        assert flooder.answers.count(CellCommand.CREATED2) > 0
        assert flooder.answers.count(-DestroyReason.RESOURCELIMIT) == queue.shed > 0
        assert queue.queued == 0
        queue.seconds_each = 0.0005
        await assert_works(await relays.circuit(), echo)


async def test_a_storm_on_one_link_does_not_shed_another_link() -> None:
    async with attacked() as (relays, _, echo):
        relays.servers[0]._creator.queue.seconds_each = 0.02
        others = LinkManager()
        storm = asyncio.ensure_future(flood(await others.get(relays.path[0]), relays, 600))
        await assert_works(await relays.circuit(), echo)
        await storm
        await others.close()


async def test_a_bad_handshake_ends_that_circuit_only() -> None:
    async with attacked() as (relays, _, _):
        link = await relays.links.get(relays.path[0])
        for message in (
            Create2(2, bytes(84)),
            Create2(3, bytes(128)),
            Create2(2, b""),
            Create2(99, bytes(10)),
        ):
            flooder = Flooder()
            link.send(message.cell(link.attach(flooder)))
            await until(lambda flooder=flooder: flooder.answers)
            assert flooder.answers == [-DestroyReason.PROTOCOL]


async def test_the_number_of_circuits_is_bounded() -> None:
    async with attacked() as (relays, _, _):
        relays.servers[0].max_circuits = 20
        link = await relays.links.get(relays.path[0])
        flooder = await flood(link, relays, 60)
        assert len(relays.servers[0].circuits) <= 20
        assert -DestroyReason.RESOURCELIMIT in flooder.answers


@pytest.mark.parametrize("size", [0, 1, 100, 498])
async def test_malformed_messages_end_their_circuit(size: int) -> None:
    async with attacked() as (relays, _, _):
        for command in (
            RelayCommand.ESTABLISH_INTRO,
            RelayCommand.ESTABLISH_RENDEZVOUS,
            RelayCommand.RENDEZVOUS1,
            RelayCommand.EXTEND2,
        ):
            circuit = await relays.circuit(0, 1)
            circuit.send(command, os.urandom(size))
            assert await relays.closed_for(circuit) is not None


@pytest.mark.parametrize("damage", ["key", "extensions", "signature", "huge extension"])
async def test_oversized_establish_intro(damage: str) -> None:
    """Lengths that reach beyond the message, and a message as long as a cell allows."""
    async with attacked() as (relays, _, _):
        circuit = await relays.circuit(0, 1)
        auth_key = Ed25519KeyPair.generate(os.urandom)
        filler = [Extension(0xEE, bytes(250)), Extension(0xEF, bytes(40))]
        message = bytearray(EstablishIntro.create(auth_key, circuit.kh(), filler).encode())
        assert len(message) > 400
        if damage == "key":
            message[1:3] = b"\xff\xff"
        elif damage == "extensions":
            message[35] = 0xFF  # so many of them are announced
        elif damage == "signature":
            message[-66:-64] = b"\xff\xff"
        circuit.send(RelayCommand.ESTABLISH_INTRO, bytes(message))
        if damage == "huge extension":  # unknown ones are no fault
            await circuit.expect(RelayCommand.INTRO_ESTABLISHED, timeout=SECONDS)
            assert len(relays.servers[1].introductions) == 1
        else:
            assert await relays.closed_for(circuit) == DestroyReason.PROTOCOL
            assert len(relays.servers[1].introductions) == 0


@pytest.mark.parametrize("size", [0, 1, 20, 22, 490])
async def test_malformed_and_oversized_introduce1_is_answered_and_goes_nowhere(size: int) -> None:
    async with attacked() as (relays, _, _):
        service, client = await relays.circuit(0, 1), await relays.circuit(2, 1)
        auth_key = Ed25519KeyPair.generate(os.urandom)
        service.send(RelayCommand.ESTABLISH_INTRO, EstablishIntro.create(auth_key, service.kh()).encode())
        await service.expect(RelayCommand.INTRO_ESTABLISHED, timeout=SECONDS)
        message = bytearray(Introduce1(auth_key.public, (), bytes(400)).encode().ljust(490, b"x"))
        message[21:23] = b"\xff\xff"  # the length of the authentication key
        client.send(RelayCommand.INTRODUCE1, bytes(message[:size]))
        answer = await client.expect(RelayCommand.INTRODUCE_ACK, timeout=SECONDS)
        assert IntroduceAck.decode(answer.data).status == IntroduceStatus.BAD_FORMAT
        assert relays.servers[1].introductions.relayed == 0
        assert not service.closed.is_set()


async def test_replayed_and_foreign_establish_intro() -> None:
    async with attacked() as (relays, _, _):
        auth_key = Ed25519KeyPair.generate(os.urandom)
        first = await relays.circuit(0, 1)
        message = EstablishIntro.create(auth_key, first.kh()).encode()
        first.send(RelayCommand.ESTABLISH_INTRO, message)
        await first.expect(RelayCommand.INTRO_ESTABLISHED, timeout=SECONDS)
        # Another circuit can't take over the service's key with the bytes it saw.
        thief = await relays.circuit(0, 1)
        thief.send(RelayCommand.ESTABLISH_INTRO, message)
        await thief.closed.wait()
        assert len(relays.servers[1].introductions) == 1
        # Nor does the same circuit get it twice.
        first.send(RelayCommand.ESTABLISH_INTRO, message)
        await first.closed.wait()
        await until(lambda: len(relays.servers[1].introductions) == 0)


async def test_a_second_introduce1_on_a_circuit_ends_it() -> None:
    async with attacked() as (relays, _, _):
        circuit = await relays.circuit(0, 1)
        message = Introduce1(bytes(32), (), b"x" * 200).encode()
        circuit.send(RelayCommand.INTRODUCE1, message)
        await circuit.expect(RelayCommand.INTRODUCE_ACK, timeout=SECONDS)
        circuit.send(RelayCommand.INTRODUCE1, message)
        await circuit.closed.wait()


async def test_a_client_in_person_introduces_itself_to_nobody() -> None:
    """An introduction point must not learn who visits whom, whatever clients do."""
    async with attacked() as (relays, _, _):
        circuit = await relays.circuit(0)
        circuit.send(RelayCommand.INTRODUCE1, Introduce1(bytes(32), (), b"x" * 200).encode())
        assert await relays.closed_for(circuit) == DestroyReason.PROTOCOL


async def test_a_client_in_person_waits_at_no_rendezvous_where_the_consensus_says_so() -> None:
    async with attacked() as (relays, _, _):
        points = relays.servers[0].rendezvous
        for refused in (0, 1):
            points.params = {"DoSRefuseSingleHopClientRendezvous": refused}
            circuit = await relays.circuit(0)
            circuit.send(RelayCommand.ESTABLISH_RENDEZVOUS, os.urandom(20))
            if refused:
                assert await relays.closed_for(circuit) == DestroyReason.PROTOCOL
            else:
                await circuit.expect(RelayCommand.RENDEZVOUS_ESTABLISHED, timeout=SECONDS)
        farther = await relays.circuit(1, 0)
        farther.send(RelayCommand.ESTABLISH_RENDEZVOUS, os.urandom(20))
        await farther.expect(RelayCommand.RENDEZVOUS_ESTABLISHED, timeout=SECONDS)


async def test_a_cookie_serves_one_circuit_and_once() -> None:
    async with attacked() as (relays, _, _):
        cookie = os.urandom(20)
        client = await relays.circuit(0, 1)
        client.send(RelayCommand.ESTABLISH_RENDEZVOUS, cookie)
        await client.expect(RelayCommand.RENDEZVOUS_ESTABLISHED, timeout=SECONDS)
        copycat = await relays.circuit(0, 1)
        copycat.send(RelayCommand.ESTABLISH_RENDEZVOUS, cookie)
        await copycat.closed.wait()
        service, late = await relays.circuit(2, 1), await relays.circuit(2, 1)
        service.send(RelayCommand.RENDEZVOUS1, Rendezvous1(cookie, bytes(64)).encode())
        await client.expect(RelayCommand.RENDEZVOUS2, timeout=SECONDS)
        late.send(RelayCommand.RENDEZVOUS1, Rendezvous1(cookie, bytes(64)).encode())
        await late.closed.wait()
        assert not client.closed.is_set() and not service.closed.is_set()


async def test_too_many_early_cells_and_cells_for_nobody_end_the_circuit() -> None:
    async with attacked() as (relays, _, _):
        for command, count in ((CellCommand.RELAY_EARLY, 9), (CellCommand.RELAY, 1)):
            circuit = await relays.circuit(0)
            cells = np.full((count, 514), 0x55, np.uint8)
            cells[:, 4] = command
            run = Run(circuit.core.circ_id, cells)
            run.set_circ_id(circuit.core.circ_id)
            circuit.link.send(run)
            with pytest.raises(CircuitError):
                await circuit.expect(RelayCommand.EXTENDED2, timeout=SECONDS)


async def test_queues_that_nobody_empties_cost_the_oldest_circuits() -> None:
    async with attacked() as (relays, _, _):
        server = relays.servers[2]
        source = await asyncio.start_server(_pour, "127.0.0.1", 0)
        circuit = await relays.circuit()
        victim_link = next(one.link for one in server.circuits if one.link.circuits)
        stream = await circuit.begin("127.0.0.1", source.sockets[0].getsockname()[1])
        await stream.read()
        # What stands for a peer that does not read: the link's socket takes nothing any more.
        victim_link.pause_writing()
        await until(lambda: victim_link.queues.cells >= 100)
        killed = memory.relieve(server.links.links, server.circuits, server.descriptors, 10_000, 0.0)
        assert killed >= 1
        assert victim_link.queues.cells <= 20
        victim_link.resume_writing()
        await circuit.closed.wait()
        source.close()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            writer.write(bytes(65536))
            await writer.drain()
    except OSError:
        pass


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """A port of loopback where connections are taken and nothing is ever read or said."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def extend_to(*ports: int) -> bytes:
    """An EXTEND2 to a relay that nobody knows, at these ports of loopback."""
    addresses = [LinkSpecifier.address("127.0.0.1", port) for port in ports]
    named = [LinkSpecifier.rsa(os.urandom(20)), LinkSpecifier.ed25519(os.urandom(32))]
    return Extend2((*addresses, *named), ntor.HANDSHAKE_TYPE, bytes(84)).encode()


async def test_a_circuit_is_extended_to_one_place_at_a_time() -> None:
    async with attacked() as (relays, _, _), silent_server() as port:
        server = relays.servers[1]
        await relays.circuit(0, 1)
        [circuit] = [one for one in server.circuits if one.is_free]
        with mock.patch.object(RelayCircuit, "send"):  # or the origin would close the circuit at TRUNCATED
            circuit._handle_message(RelayCommand.EXTEND2, extend_to(port), True)
            await until(lambda: server.links._connecting)
            # Given up and begun anew before the first attempt has ended.
            circuit._handle_message(RelayCommand.TRUNCATE, b"", False)
            circuit._handle_message(RelayCommand.EXTEND2, extend_to(port), True)
            await until(lambda: len(server.links._connecting) == 2)
            with pytest.raises(ProtocolError):
                circuit._handle_message(RelayCommand.EXTEND2, extend_to(port), True)


@pytest.mark.parametrize(
    "command",
    [RelayCommand.ESTABLISH_INTRO, RelayCommand.INTRODUCE1, RelayCommand.ESTABLISH_RENDEZVOUS],
)
async def test_a_circuit_that_is_being_extended_serves_as_nothing_else(command: RelayCommand) -> None:
    async with attacked() as (relays, _, _), silent_server() as port:
        circuit = await relays.circuit(0, 1)
        circuit.send(RelayCommand.EXTEND2, extend_to(port))
        auth_key = Ed25519KeyPair.generate(os.urandom)
        body = {
            RelayCommand.ESTABLISH_INTRO: EstablishIntro.create(auth_key, circuit.kh()).encode(),
            RelayCommand.INTRODUCE1: Introduce1(bytes(32), (), b"x" * 200).encode(),
            RelayCommand.ESTABLISH_RENDEZVOUS: os.urandom(20),
        }[command]
        circuit.send(command, body)
        assert await relays.closed_for(circuit) == DestroyReason.PROTOCOL
        assert len(relays.servers[1].introductions) == len(relays.servers[1].rendezvous) == 0


async def test_a_link_without_a_free_circuit_id_refuses_the_circuit(caplog: pytest.LogCaptureFixture) -> None:
    async with attacked() as (relays, _, _):
        circuit = await relays.circuit(0)
        with mock.patch.object(Link, "attach", side_effect=LinkError("full")), pytest.raises(CircuitError):
            await circuit.extend(relays.path[1])
        assert circuit.error is not None and circuit.error.reason == DestroyReason.RESOURCELIMIT
    assert "bug" not in caplog.text


async def test_extend2_tries_one_address_of_a_family() -> None:
    async with attacked() as (relays, _, _), silent_server() as first, silent_server() as second:
        server = relays.servers[1]
        asked = Extend2.decode(extend_to(first, second))
        relay = server.check_extend(Relay.from_link_specifiers(asked.specifiers, None))
        assert relay.addresses == (("127.0.0.1", first),)


async def test_a_link_given_up_before_its_connection_is_handed_over_keeps_no_socket() -> None:
    async with attacked() as (relays, _, _):
        links = relays.servers[0].links
        room, links._max_links = links._max_links, 0
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", relays.servers[0].orport)
            await hung_up(reader)
            writer.close()
        finally:
            links._max_links = room


async def test_a_destination_that_does_not_read_is_given_up_after_its_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exit_streams, "LINGER_SECONDS", 0.1)
    async with attacked() as (relays, _, _), silent_server() as port:
        exits = relays.servers[2].exits
        circuit = await relays.circuit()
        stream = await circuit.begin("127.0.0.1", port)
        filling = asyncio.ensure_future(stream.write(bytes(8 << 20)))
        await until(lambda: any(one.waiting for one in exits.connections))
        await asyncio.wait([filling], timeout=1.0)
        circuit.close()
        await asyncio.wait([filling])
        await until(lambda: all(not one.waiting or one._over for one in exits.connections))
        await until(lambda: not any(one._over for one in exits.connections))


async def test_the_number_of_exit_connections_is_bounded() -> None:
    async with attacked() as (relays, _, echo):
        exits = relays.servers[2].exits
        await until(lambda: not exits.connections)
        exits._max_connections = 2
        circuit = await relays.circuit()
        held = [await circuit.begin("127.0.0.1", echo.port) for _ in range(2)]
        with pytest.raises(StreamError) as refused:
            await circuit.begin("127.0.0.1", echo.port)
        assert refused.value.reason == EndReason.RESOURCELIMIT
        for stream in held:
            await stream.close()
        await until(lambda: not exits.connections)


def slow_resolver(answered: threading.Event) -> Resolver:
    """One that finds every name at 127.0.0.1, but only once ``answered`` is set."""

    def look_up(name: str) -> list[Address]:
        answered.wait(SECONDS)
        return [ipaddress.ip_address("127.0.0.1")]

    return Resolver(look_up)


async def test_the_number_of_names_asked_for_at_a_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exit_streams, "MAX_ANSWERING", 2)
    answered = threading.Event()
    async with attacked() as (relays, _, _):
        exits = relays.servers[2].exits
        exits.resolver = slow_resolver(answered)
        circuit = await relays.circuit()
        held = [asyncio.ensure_future(circuit.resolve("one.invalid")) for _ in range(2)]
        await until(lambda: exits._answering == 2)
        with pytest.raises(StreamError) as refused:
            await circuit.resolve("one.invalid")
        assert refused.value.reason == EndReason.RESOURCELIMIT
        answered.set()
        for answer in held:
            assert [found.text for found in await answer] == ["127.0.0.1"]
        assert await circuit.resolve("one.invalid")
        assert not exits._answering


async def test_bytes_that_pile_up_in_streams_cost_the_circuit_with_most_of_them() -> None:
    async with attacked() as (relays, _, echo):
        server = relays.servers[2]
        source = await asyncio.start_server(_pour, "127.0.0.1", 0)
        port = source.sockets[0].getsockname()[1]
        greedy, modest = await relays.circuit(), await relays.circuit()
        for _ in range(16):  # windows take some of what piles up, but never from below PENDING_LOW
            await greedy.begin("127.0.0.1", port)  # and never reads
        stream = await modest.begin("127.0.0.1", echo.port)
        await until(lambda: max(one.stream_bytes for one in server.circuits) > 1_000_000)
        memory.relieve(server.links.links, server.circuits, server.descriptors, 500_000, 0.0)
        assert await relays.closed_for(greedy) == DestroyReason.RESOURCELIMIT
        await stream.write(b"x")
        assert await stream.read() == b"x"
        source.close()


async def test_a_stream_that_ends_while_it_is_being_connected_holds_no_connection() -> None:
    answered = threading.Event()
    async with attacked() as (relays, _, _):
        exits = relays.servers[2].exits
        exits.resolver = slow_resolver(answered)
        circuit = await relays.circuit()
        opening = asyncio.ensure_future(circuit.begin("one.invalid", 80))
        await until(lambda: exits.connections)
        opening.cancel()
        await until(lambda: not exits.connections)
        assert not circuit.closed.is_set()
        answered.set()


async def test_streams_in_which_nothing_waits_take_memory_too() -> None:
    async with attacked() as (relays, _, _):
        server = relays.servers[1]
        greedy, modest = await relays.circuit(0, 1), await relays.circuit(0, 1)
        for _ in range(200):
            greedy.open_dir()
        modest.open_dir()
        await until(lambda: max(one.stream_bytes for one in server.circuits) >= 200 * 2048)
        await until(lambda: sum(bool(one.streams) for one in server.circuits) == 2)
        memory.relieve(server.links.links, server.circuits, server.descriptors, 300_000, 0.0)
        assert await relays.closed_for(greedy) == DestroyReason.RESOURCELIMIT
        assert not modest.closed.is_set()


async def test_a_background_job_that_fails_is_begun_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervision, "RESTART_SECONDS_FIRST", 0.0)
    monkeypatch.setattr(server_module, "MEMORY_CHECK_SECONDS", 0.01)
    with mock.patch.object(memory, "relieve", side_effect=[ZeroDivisionError, *[0] * 100_000]) as relieve:
        async with asyncio.timeout(SECONDS), Relays(1):
            await until(lambda: relieve.call_count > 2)
    assert caplog.text.count("bug: a background job") == 1
