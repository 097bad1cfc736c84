"""Circuits and streams through real C tor relays: both kinds of flow control, both directions."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from interop.ctor import CTorNetwork, FileServer, payload
from pelure.errors import CircuitError, StreamError
from pelure.tor.cell.commands import EndReason
from pelure.tor.circuit.flowcontrol import FixedWindow, VegasWindow
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.directory.relay import Relay
from pelure.tor.directory.router_descriptor import parse_router_descriptor
from pelure.tor.net.circuit_stream import CircuitStream
from pelure.tor.net.links import LinkManager
from pelure.tor.net.origin import Circuit

pytestmark = pytest.mark.ctor

WAIT = 90.0
SIZE = 10_000_000


@pytest.fixture(scope="module")
def relays(ctor_network: CTorNetwork) -> list[Relay]:
    return relays_of(ctor_network)


def relays_of(network: CTorNetwork) -> list[Relay]:
    """The network's relays as their own descriptors describe them."""
    documents = network.directory("/tor/server/all")
    wanted = {relay.fingerprint for relay in network.relays}
    found = []
    for document in re.split(rb"^(?=router )", documents, flags=re.MULTILINE):
        if document.startswith(b"router "):
            one = parse_router_descriptor(document)
            relay = Relay(
                one.nickname,
                one.rsa_key.identity,
                one.ed_id,
                one.ntor_key,
                ((one.ip, one.orport),),
                protocols=one.protocols,
            )
            if relay.fingerprint in wanted:
                found.append(relay)
    return found


@pytest_asyncio.fixture
async def links() -> AsyncIterator[LinkManager]:
    manager = LinkManager()
    yield manager
    await manager.close()


async def build(links: LinkManager, path: list[Relay], *, cc: bool = True) -> Circuit:
    return await Circuit.build(links, path, params=CircuitParams(cc_alg=2 if cc else 0), timeout=WAIT)


async def fetch(stream: CircuitStream, size: int, *, pause: float = 0.0) -> str:
    """GET a payload of the file server; the SHA-256 of its body."""
    await stream.write(b"GET /%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % size)
    answer = bytearray()
    while data := await stream.read():
        answer += data
        if pause and len(answer) < size // 2:
            await asyncio.sleep(pause)
    return hashlib.sha256(answer.partition(b"\r\n\r\n")[2]).hexdigest()


@pytest.mark.parametrize("cc", [True, False], ids=["congestion control", "fixed windows"])
async def test_an_exit_stream(
    cc: bool, relays: list[Relay], links: LinkManager, file_server: FileServer
) -> None:
    async with asyncio.timeout(WAIT):
        circuit = await build(links, relays[:3], cc=cc)
        assert isinstance(circuit.core.hops[-1].end.window, VegasWindow if cc else FixedWindow)
        stream = await circuit.begin("127.0.0.1", file_server.port)
        assert await fetch(stream, SIZE) == payload(SIZE)[1]


@pytest.mark.parametrize("cc", [True, False], ids=["congestion control", "fixed windows"])
async def test_an_upload(cc: bool, relays: list[Relay], links: LinkManager, file_server: FileServer) -> None:
    body = payload(SIZE)[0]
    async with asyncio.timeout(WAIT):
        circuit = await build(links, relays[1:4], cc=cc)
        stream = circuit.open("127.0.0.1", file_server.port)  # the request goes along with the BEGIN
        head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        await stream.write(head)

        async def send() -> None:
            for start in range(0, len(body), 1 << 16):
                await stream.write(body[start : start + (1 << 16)])

        sending = asyncio.create_task(send())
        answer = bytearray()
        while data := await stream.read():
            answer += data
        await sending
    assert answer.partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize("cc", [True, False], ids=["congestion control", "fixed windows"])
async def test_a_slow_reader_and_a_quick_one(
    cc: bool, relays: list[Relay], links: LinkManager, file_server: FileServer
) -> None:
    """The slow stream is held back (XOFF or its window), the quick one on the same circuit is not."""
    async with asyncio.timeout(WAIT):
        circuit = await build(links, relays[2:5], cc=cc)
        slow, quick = [await circuit.begin("127.0.0.1", file_server.port) for _ in range(2)]
        reading = asyncio.create_task(fetch(slow, SIZE, pause=0.02))
        assert await fetch(quick, SIZE) == payload(SIZE)[1]
        assert await reading == payload(SIZE)[1]


async def test_four_streams_at_once(relays: list[Relay], links: LinkManager, file_server: FileServer) -> None:
    async with asyncio.timeout(WAIT):
        circuit = await build(links, relays[:3])
        streams = [await circuit.begin("127.0.0.1", file_server.port) for _ in range(4)]
        sums = await asyncio.gather(*(fetch(stream, SIZE // 4) for stream in streams))
    assert set(sums) == {payload(SIZE // 4)[1]}


async def test_a_directory_stream_over_create_fast(relays: list[Relay], links: LinkManager) -> None:
    async with asyncio.timeout(WAIT):
        circuit = await Circuit.build(links, relays[:1], params=CircuitParams(), fast=True)
        stream = circuit.open_dir()
        await stream.write(b"GET /tor/status-vote/current/consensus-microdesc HTTP/1.0\r\n\r\n")
        answer = bytearray()
        while data := await stream.read():
            answer += data
    assert answer.startswith(b"HTTP/1.0 200")
    assert b"network-status-version 3 microdesc" in answer


async def test_refusals_say_why(relays: list[Relay], links: LinkManager) -> None:
    async with asyncio.timeout(WAIT):
        circuit = await build(links, relays[:3])
        with pytest.raises(StreamError) as caught:
            await circuit.begin("127.0.0.1", 1)
        assert caught.value.reason in (EndReason.CONNECTREFUSED, EndReason.MISC)
        [answer] = await circuit.resolve("127.0.0.1")
        assert answer.is_error or answer.text == "127.0.0.1"  # these relays have no resolver


async def test_a_relay_that_is_not_there(relays: list[Relay], links: LinkManager) -> None:
    nobody = Relay("nobody", bytes(20), bytes(32), relays[0].ntor_key, (("127.0.0.1", 1),))
    async with asyncio.timeout(WAIT):
        with pytest.raises(CircuitError) as caught:
            await build(links, [*relays[:2], nobody])
    assert caught.value.reason is not None


async def test_circuits_through_a_killed_relay_are_noticed(
    links: LinkManager, file_server: FileServer
) -> None:
    """C tor holds most DESTROYs back on idle links; the circuits that it does not tell of are sounded."""
    with CTorNetwork(relays=4) as network:
        one, two, three, victim = relays_of(network)
        paths = (
            [[one, two, victim]] * 2 + [[one, victim, two]] * 2 + [[two, three, victim], [three, two, victim]]
        )
        async with asyncio.timeout(WAIT):
            dead = [await build(links, path) for path in paths]
            alive = await build(links, [one, two, three])
            for circuit in [*dead, alive]:
                await circuit.begin("127.0.0.1", file_server.port)
            network.kill(victim.fingerprint)
            await asyncio.gather(*(circuit.closed.wait() for circuit in dead))
            stream = await alive.begin("127.0.0.1", file_server.port)
            assert await fetch(stream, 1000) == payload(1000)[1]
        assert not alive.closed.is_set()
