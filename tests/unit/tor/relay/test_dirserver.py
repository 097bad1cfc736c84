"""What a relay answers to directory requests, and to whom (dir-spec 5, 6; rend-spec-v3 2.2)."""

from __future__ import annotations

import asyncio
import base64
from unittest import mock

import pytest

from pelure.tor.crypto.keys import Ed25519KeyPair
from pelure.tor.directory.cache import DirectoryCache
from pelure.tor.directory.http import DirReply, DirRequest
from pelure.tor.net.origin import CircuitStream
from pelure.tor.relay import dirserver
from pelure.tor.relay.circuit import STREAM_BYTES
from pelure.tor.relay.dirserver import MAX_UPLOAD, PUBLISH_PATH, Directory
from pelure.tor.relay.hsdir import DescriptorStore

from .support import NOW, Relays, make_descriptor, name_of, until

OWN = "/tor/server/authority"


async def test_an_onion_descriptor_is_taken_and_given_to_those_who_are_anonymous(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dirserver, "time", mock.Mock(time=lambda: NOW))
    directory = Directory(DirectoryCache(), DescriptorStore())
    key = Ed25519KeyPair.generate(lambda size: bytes(size))
    document = make_descriptor(1, key=key)
    upload = DirRequest("POST", PUBLISH_PATH, {}, document)
    assert (await directory.answer(upload, anonymous=False)).status == 404
    assert (await directory.answer(upload, anonymous=True)).status == 200
    assert (await directory.answer(upload, anonymous=True)).status == 400, "it is no later revision"
    path = f"/tor/hs/3/{name_of(key.public)}"
    answer = await directory.answer(DirRequest("GET", path, {}), anonymous=True)
    assert (answer.status, answer.body) == (200, document)
    assert (await directory.answer(DirRequest("GET", path, {}), anonymous=False)).status == 404
    for method, name, status in (
        ("POST", name_of(key.public), 405),
        ("PUT", "publish", 405),
        ("GET", "publish", 404),
        ("GET", base64.b64encode(bytes(32)).decode(), 404),
    ):
        request = DirRequest(method, f"/tor/hs/3/{name}", {}, document)
        assert (await directory.answer(request, anonymous=True)).status == status


async def test_an_authority_answers_before_its_relay_half() -> None:
    async def authority(request: DirRequest) -> DirReply | None:
        return DirReply(200, b"a vote") if request.path == "/tor/vote" else None

    directory = Directory(DirectoryCache(), DescriptorStore(), authority)
    directory.cache.own_descriptor = b"router me\n"
    assert (await directory.answer(DirRequest("GET", "/tor/vote", {}), anonymous=True)).body == b"a vote"
    assert (await directory.answer(DirRequest("GET", OWN, {}), anonymous=True)).body == b"router me\n"


async def test_long_answers_are_made_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressing a consensus must not hold up the cells of others."""
    aside: list[str] = []

    async def to_thread(function: object, request: DirRequest, now: float) -> DirReply:
        aside.append(request.path)
        return DirReply(404)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    directory = Directory(DirectoryCache(), DescriptorStore())
    digests = "-".join(["A" * 43] * 20)
    long = ["/tor/status-vote/current/consensus-microdesc", f"/tor/micro/d/{digests}"]
    for path in (*long, OWN, "/tor/micro/d/" + "A" * 43):
        assert (await directory.answer(DirRequest("GET", path, {}), anonymous=True)).status == 404
    assert aside == long


async def answered(stream: CircuitStream, *pieces: bytes) -> bytes:
    """All that is answered to a request in these pieces, each of which comes in cells of its own."""
    for piece in pieces:
        await stream.write(piece)
    received = b""
    while data := await stream.read():
        received += data
    return received


async def test_only_who_comes_in_person_is_told_its_address() -> None:
    async with Relays(2) as relays:
        for server in relays.servers:
            server.cache.own_descriptor = b"router me\n"
        for indexes, told in (((0,), 1), ((0, 1), 0)):
            circuit = await relays.circuit(*indexes)
            answer = await answered(circuit.open_dir(), f"GET {OWN} HTTP/1.0\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.0 200 ") and answer.endswith(b"\r\n\r\nrouter me\n")
            assert answer.count(b"X-Your-Address-Is: 127.0.0.1\r\n") == told


async def test_a_request_is_answered_once_and_when_it_is_complete() -> None:
    async with Relays(1) as relays:
        [server] = relays.servers
        server.cache.own_descriptor = b"router me\n"
        circuit = await relays.circuit()
        stream = circuit.open_dir()
        await stream.write(f"GET {OWN}".encode())
        await until(lambda: any(one.stream_bytes > STREAM_BYTES + 20 for one in server.circuits))
        assert server.directory.requests == 0
        answer = await answered(stream, b" HTTP/1.0\r\n", b"\r\n" + b"GET / HTTP/1.0\r\n\r\n" * 3)
        assert answer.count(b"HTTP/1.0 ") == 1 and answer.endswith(b"router me\n")
        assert server.directory.requests == 1


@pytest.mark.parametrize(
    "sent", [b"HELLO\r\n\r\n", b"POST /tor/ HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % (MAX_UPLOAD + 1)]
)
async def test_what_is_no_request_is_refused(sent: bytes) -> None:
    async with Relays(1) as relays:
        [server] = relays.servers
        circuit = await relays.circuit()
        answer = await answered(circuit.open_dir(), sent)
        assert answer.startswith(b"HTTP/1.0 400 ") and server.directory.requests == 0


async def test_a_fault_costs_one_request(caplog: pytest.LogCaptureFixture) -> None:
    async with Relays(1) as relays:
        [server] = relays.servers
        server.cache.own_descriptor = b"router me\n"
        circuit = await relays.circuit()
        request = f"GET {OWN} HTTP/1.0\r\n\r\n".encode()
        with mock.patch.object(server.cache, "answer", side_effect=ZeroDivisionError):
            answer = await answered(circuit.open_dir(), request)
        assert answer.startswith(b"HTTP/1.0 503 ") and "bug: answering" in caplog.text
        assert (await answered(circuit.open_dir(), request)).endswith(b"router me\n")


async def test_nothing_is_answered_to_who_has_left() -> None:
    given_up = asyncio.Event()

    async def authority(request: DirRequest) -> DirReply | None:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        return None

    async with Relays(2) as relays:
        [_, server] = relays.servers
        server.directory.authority = authority
        circuit = await relays.circuit()
        stream = circuit.open_dir()
        await stream.write(f"GET {OWN} HTTP/1.0\r\n\r\n".encode())
        await until(lambda: server.directory.requests)
        await stream.write(f"GET {OWN} HTTP/1.0\r\n\r\n".encode())  # one stream, one request
        await circuit.resolve("localhost")  # comes after it
        assert server.directory.requests == 1
        await stream.close()
        await given_up.wait()
