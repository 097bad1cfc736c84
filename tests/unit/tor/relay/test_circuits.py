"""Circuits through pelure relays: relaying, exits, directory, introduction, rendezvous (tor-spec 5, 6)."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from unittest import mock

import pytest

from pelure.errors import CircuitError, StreamError
from pelure.tor.cell.commands import DestroyReason, EndReason, RelayCommand
from pelure.tor.cell.extensions import DosParameters
from pelure.tor.cell.onion_messages import (
    EstablishIntro,
    Introduce1,
    IntroduceAck,
    IntroduceStatus,
    Rendezvous1,
)
from pelure.tor.circuit import events as ev
from pelure.tor.circuit.flowcontrol import VegasWindow
from pelure.tor.circuit.relaycrypto import HopKeys
from pelure.tor.crypto.keys import Ed25519KeyPair
from pelure.tor.directory.exit_policy import ExitPolicy
from pelure.tor.net import dir_http
from pelure.tor.net.origin import Circuit
from pelure.tor.relay.circuit import RelayCircuit
from pelure.tor.relay.introduction import IntroductionPoints

from .support import EchoServer, Relays, until

SECONDS = 60.0


@pytest.mark.parametrize("congestion_control", [True, False])
async def test_an_exit_stream_carries_bytes_both_ways(congestion_control: bool) -> None:
    async with Relays() as relays, EchoServer() as echo:
        circuit = await relays.circuit(congestion_control=congestion_control)
        window = circuit.core.hops[-1].end.window
        assert isinstance(window, VegasWindow) is congestion_control
        stream = await circuit.begin("127.0.0.1", echo.port)
        sent = os.urandom(1_500_000)
        writer = asyncio.ensure_future(stream.write(sent))
        received = b""
        while len(received) < len(sent):
            received += await stream.read()
        await writer
        assert received == sent
        assert relays.servers[1].relayed_cells > 2 * len(sent) / 498
        await stream.close()
        await until(lambda: not next(iter(relays.servers[2].circuits)).streams)


async def test_several_streams_share_a_circuit() -> None:
    async with Relays() as relays, EchoServer() as echo:
        circuit = await relays.circuit()

        async def talk(number: int) -> bytes:
            stream = await circuit.begin("127.0.0.1", echo.port)
            await stream.write(bytes([number]) * 100_000)
            received = b""
            while len(received) < 100_000:
                received += await stream.read()
            await stream.close()
            return received

        answers = await asyncio.gather(*(talk(number) for number in range(8)))
        assert answers == [bytes([number]) * 100_000 for number in range(8)]


async def test_the_destination_ends_the_stream_after_its_last_byte() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 700_000)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with Relays() as relays:
        circuit = await relays.circuit()
        stream = await circuit.begin("127.0.0.1", server.sockets[0].getsockname()[1])
        size = 0
        while data := await stream.read():
            size += len(data)
        assert size == 700_000
    server.close()


async def test_a_closed_port_and_a_refused_one_end_with_their_reasons() -> None:
    policy = ExitPolicy.parse(["reject *:1-1023", "accept *:*"])
    async with Relays(exit_policy=policy) as relays:
        server = await asyncio.start_server(lambda _, __: None, "127.0.0.1", 0)
        closed_port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        circuit = await relays.circuit()
        for port, reason in ((80, EndReason.EXITPOLICY), (closed_port, EndReason.CONNECTREFUSED)):
            with pytest.raises(StreamError) as refused:
                await circuit.begin("127.0.0.1", port)
            assert refused.value.reason == reason
        assert not circuit.closed.is_set()


async def test_a_relay_that_is_no_exit_and_a_client_that_is_its_own_first_hop_are_refused() -> None:
    async with Relays(exit_policy=ExitPolicy.parse(["reject *:*"])) as relays:
        with pytest.raises(StreamError):
            await (await relays.circuit()).begin("127.0.0.1", 80)
    async with Relays(1) as relays, EchoServer() as echo:
        with pytest.raises(StreamError):
            await (await relays.circuit()).begin("127.0.0.1", echo.port)


async def test_names_are_resolved() -> None:
    async with Relays() as relays:
        circuit = await relays.circuit()
        answers = await circuit.resolve("localhost")
        assert "127.0.0.1" in [answer.text for answer in answers]
        assert (await circuit.resolve("no-such-name.invalid"))[0].is_error


async def test_directory_requests_are_answered() -> None:
    async with Relays() as relays:
        relays.servers[2].cache.own_descriptor = b"router me\n"
        circuit = await relays.circuit()
        reply = await dir_http.get(circuit.open_dir(), "/tor/server/authority", limit=10_000)
        assert (reply.status, reply.body) == (200, b"router me\n")
        missing = await dir_http.get(circuit.open_dir(), "/tor/hs/3/abc", limit=10_000)
        assert missing.status == 404


async def test_onion_descriptors_are_not_for_those_who_come_in_person() -> None:
    async with Relays(1) as relays:
        circuit = await relays.circuit(fast=True)
        reply = await dir_http.post(circuit.open_dir(), "/tor/hs/3/publish", b"x")
        assert reply.status == 404


async def test_a_destroyed_circuit_is_gone_everywhere() -> None:
    async with Relays() as relays:
        circuit = await relays.circuit()
        assert [len(server.circuits) for server in relays.servers] == [1, 1, 1]
        circuit.close()
        await until(lambda: not any(server.circuits for server in relays.servers))


async def test_a_lost_relay_ends_the_circuit() -> None:
    async with Relays() as relays:
        circuit = await relays.circuit()
        await relays.servers[2].links.close()
        await circuit.closed.wait()
        await until(lambda: not relays.servers[1].circuits)


async def test_truncate_and_extend_anew() -> None:
    async with Relays() as relays:
        circuit = await relays.circuit()
        hops = circuit.core.hops
        hops[0].end.send(RelayCommand.TRUNCATE)
        circuit.flush()
        await until(lambda: not relays.servers[2].circuits and not relays.servers[1].circuits)


async def test_cells_on_their_way_to_a_hop_that_is_cut_off_are_no_fault() -> None:
    async with Relays() as relays:
        circuit = await relays.circuit()
        [middle] = relays.servers[1].circuits
        with mock.patch.object(RelayCircuit, "send") as send:  # the origin does not hear of it yet
            circuit.send(RelayCommand.TRUNCATE, b"", hop=1)
            await until(lambda: send.called)
        for _ in range(3):
            circuit.send(RelayCommand.DROP, b"")
        handled = mock.Mock(wraps=middle._handle_message)
        with mock.patch.object(RelayCircuit, "_handle_message", handled):
            circuit.send(RelayCommand.DROP, b"", hop=1)
            await until(lambda: handled.called)
        assert not middle.closed and middle.next is None


async def test_what_a_relay_further_on_ended_a_circuit_for_is_not_told() -> None:
    async with Relays() as relays:
        circuit = await relays.circuit()
        [last] = relays.servers[2].circuits
        last.close(DestroyReason.HIBERNATING)
        await circuit.closed.wait()
        assert circuit.error is not None and circuit.error.reason == DestroyReason.DESTROYED
        await until(lambda: not any(server.circuits for server in relays.servers))


async def test_extending_to_nobody_to_another_relay_and_back_fails() -> None:
    async with Relays() as relays:
        nobody = replace(relays.path[1], addresses=(("127.0.0.1", 1),))
        liar = replace(relays.path[1], addresses=relays.path[2].addresses)
        for second, reason in (
            (nobody, DestroyReason.CONNECTFAILED),
            (liar, DestroyReason.OR_IDENTITY),
            (relays.path[0], DestroyReason.PROTOCOL),
        ):
            with pytest.raises(CircuitError) as failed:
                await Circuit.build(relays.links, [relays.path[0], second], params=relays.servers[0].params)
            assert failed.value.reason == reason
        assert relays.links.links


async def test_private_addresses_are_not_extended_to_unless_allowed() -> None:
    async with Relays(2, allow_private_addresses=False) as relays:
        with pytest.raises(CircuitError):
            await relays.circuit()


async def establish_intro(
    circuit: Circuit, auth_key: Ed25519KeyPair, **limits: int
) -> asyncio.Queue[ev.RelayMessageReceived]:
    """Returns what comes from the introduction point then."""
    extensions = [DosParameters(limits["rate"], limits["burst"]).extension()] if limits else []
    message = EstablishIntro.create(auth_key, circuit.kh(), extensions)
    circuit.send(RelayCommand.ESTABLISH_INTRO, message.encode())
    await circuit.expect(RelayCommand.INTRO_ESTABLISHED, timeout=SECONDS)
    introductions: asyncio.Queue[ev.RelayMessageReceived] = asyncio.Queue()
    circuit.on_message = introductions.put_nowait
    return introductions


async def introduce(relays: Relays, auth_key: bytes, *path: int) -> int:
    client = await relays.circuit(*path)
    client.send(RelayCommand.INTRODUCE1, Introduce1(auth_key, (), b"sealed").encode())
    answer = await client.expect(RelayCommand.INTRODUCE_ACK, timeout=SECONDS)
    return IntroduceAck.decode(answer.data).status


async def test_an_introduction_reaches_the_service() -> None:
    async with Relays() as relays:
        auth_key = Ed25519KeyPair.generate(os.urandom)
        service = await relays.circuit(0, 1, 2)
        introductions = await establish_intro(service, auth_key)
        assert await introduce(relays, auth_key.public, 1, 0, 2) == IntroduceStatus.SUCCESS
        message = await introductions.get()
        assert message.command == RelayCommand.INTRODUCE2
        assert message.data.endswith(b"sealed")
        assert await introduce(relays, bytes(32), 1, 0, 2) == IntroduceStatus.UNKNOWN_ID
        assert relays.servers[2].introductions.relayed == 1


async def test_a_circuit_that_introduced_is_no_introduction_point() -> None:
    async with Relays(2) as relays:
        circuit = await relays.circuit(0, 1)
        circuit.send(RelayCommand.INTRODUCE1, Introduce1(bytes(32), (), b"sealed").encode())
        await circuit.expect(RelayCommand.INTRODUCE_ACK, timeout=SECONDS)
        message = EstablishIntro.create(Ed25519KeyPair.generate(os.urandom), circuit.kh())
        circuit.send(RelayCommand.ESTABLISH_INTRO, message.encode())
        assert await relays.closed_for(circuit) == DestroyReason.PROTOCOL


@pytest.mark.parametrize(
    ("rate", "burst", "by_consensus", "limit"),
    [
        (5, 10, False, (5, 10)),
        (5, 5, True, (5, 5)),
        (2**31 - 1, 2**31 - 1, False, (2**31 - 1, 2**31 - 1)),
        (0, 10, True, None),
        (5, 0, True, None),
        (0, 0, True, None),
        # What makes no sense is ignored:
        (5, 4, True, (25, 200)),
        (5, 2**31, True, (25, 200)),
        (2**31, 2**31, False, None),
        (None, 10, True, (25, 200)),
        (5, None, True, (25, 200)),
        (None, None, False, None),
    ],
)
def test_what_a_service_may_ask_for(
    rate: int | None, burst: int | None, by_consensus: bool, limit: tuple[int, int] | None
) -> None:
    points = IntroductionPoints()
    if by_consensus:
        points.params = {"HiddenServiceEnableIntroDoSDefense": 1}
    found = points._limit(DosParameters(rate, burst).extension().body, 0.0)
    assert (found and (found.rate, found.burst)) == limit


@pytest.mark.parametrize("asks", ["the service", "the consensus"])
async def test_introductions_are_limited_as_somebody_asks(asks: str) -> None:
    async with Relays() as relays:
        server, auth_key = relays.servers[2], Ed25519KeyPair.generate(os.urandom)
        now = 1000.0
        server._loop = mock.Mock(time=lambda: now)
        if asks == "the consensus":
            server.introductions.params = {
                "HiddenServiceEnableIntroDoSDefense": 1,
                "HiddenServiceEnableIntroDoSRatePerSec": 1,
                "HiddenServiceEnableIntroDoSBurstPerSec": 2,
            }
        limits = {"rate": 1, "burst": 2} if asks == "the service" else {}
        await establish_intro(await relays.circuit(0, 1, 2), auth_key, **limits)
        statuses = [await introduce(relays, auth_key.public, 1, 0, 2) for _ in range(3)]
        assert statuses == [
            IntroduceStatus.SUCCESS,
            IntroduceStatus.SUCCESS,
            IntroduceStatus.CANNOT_RELAY,
        ]
        now += 1.0
        assert await introduce(relays, auth_key.public, 1, 0, 2) == IntroduceStatus.SUCCESS


async def test_a_service_may_ask_for_no_limit_where_the_consensus_has_one() -> None:
    async with Relays() as relays:
        server, auth_key = relays.servers[2], Ed25519KeyPair.generate(os.urandom)
        server.introductions.params = {
            "HiddenServiceEnableIntroDoSDefense": 1,
            "HiddenServiceEnableIntroDoSRatePerSec": 1,
            "HiddenServiceEnableIntroDoSBurstPerSec": 1,
        }
        await establish_intro(await relays.circuit(0, 1, 2), auth_key, rate=0, burst=0)
        statuses = {await introduce(relays, auth_key.public, 1, 0, 2) for _ in range(3)}
        assert statuses == {IntroduceStatus.SUCCESS}


async def test_a_service_that_comes_back_replaces_its_older_circuit() -> None:
    async with Relays() as relays:
        auth_key = Ed25519KeyPair.generate(os.urandom)
        older = await relays.circuit(0, 1, 2)
        await establish_intro(older, auth_key)
        newer = await relays.circuit(1, 0, 2)
        introductions = await establish_intro(newer, auth_key)
        await older.closed.wait()
        assert await introduce(relays, auth_key.public, 0, 1, 2) == IntroduceStatus.SUCCESS
        assert (await introductions.get()).command == RelayCommand.INTRODUCE2


async def joined(relays: Relays) -> tuple[Circuit, Circuit]:
    """A client's and a service's circuit that met at relay 2."""
    cookie = os.urandom(20)
    client, service = await relays.circuit(0, 1, 2), await relays.circuit(1, 0, 2)
    client.send(RelayCommand.ESTABLISH_RENDEZVOUS, cookie)
    await client.expect(RelayCommand.RENDEZVOUS_ESTABLISHED, timeout=SECONDS)
    service.send(RelayCommand.RENDEZVOUS1, Rendezvous1(cookie, b"h" * 64).encode())
    answer = await client.expect(RelayCommand.RENDEZVOUS2, timeout=SECONDS)
    assert answer.data == b"h" * 64
    return client, service


async def test_joined_circuits_carry_a_stream_from_end_to_end() -> None:
    async with Relays() as relays:
        client, service = await joined(relays)
        keys = HopKeys.service(os.urandom(128))
        client.add_hs_hop(keys, service=False, sendme_inc=31)
        service.add_hs_hop(keys, service=True, sendme_inc=31)
        accepted = asyncio.get_running_loop().create_future()

        def accept(stream: object, event: object) -> None:
            accepted.set_result(stream)

        service.on_incoming = accept
        opening = asyncio.ensure_future(client.begin("", 80))
        far = await accepted
        far.accept()
        near = await opening
        writer = asyncio.ensure_future(far.write(b"y" * 900_000))
        size = 0
        while size < 900_000:
            size += len(await near.read())
        await writer
        assert relays.servers[2].relayed_cells > 900_000 / 498
        client.close()
        await service.closed.wait()
        await until(lambda: not any(server.circuits for server in relays.servers))


@pytest.mark.parametrize("downwards", [True, False])
async def test_a_limited_relay_carries_no_more_than_its_rate(downwards: bool) -> None:
    rate, burst, size = 400_000, 400_000, 1_000_000
    async with Relays(bandwidth_rate=rate, bandwidth_burst=burst) as relays:
        received = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if downwards:
                writer.write(bytes(size))
            else:
                await reader.readexactly(size)
                received.set()
            await writer.drain()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        circuit = await relays.circuit()
        stream = await circuit.begin("127.0.0.1", server.sockets[0].getsockname()[1])
        loop = asyncio.get_running_loop()
        began = loop.time()
        if downwards:
            left = size
            while left:
                left -= len(await stream.read())
        else:
            await stream.write(bytes(size))
            await received.wait()
        elapsed = loop.time() - began
        # Cells and TLS add to the payload; the first second's worth may come at once. No upper bound: this
        # machine may be busy. That the rate is reached, too, is for the virtual clock to show.
        assert elapsed > (size - burst) / rate * 0.9
        descriptor = relays.servers[0]._build_documents()
        assert f"\nbandwidth {rate} {burst} ".encode() in descriptor
        await stream.close()
        server.close()
