"""Authorities as servers: three of them over loopback HTTP, the requests they answer, their restart."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pelure.errors import DirectoryError
from pelure.streams import SocketStream
from pelure.tor.authority import dirport, reachability, server, state
from pelure.tor.authority.config import AuthorityConfig
from pelure.tor.authority.dirport import DirPort
from pelure.tor.authority.flags import FlagOptions
from pelure.tor.authority.keys import AuthorityKeys
from pelure.tor.authority.schedule import Round, VotingTimes
from pelure.tor.authority.server import Authority
from pelure.tor.authority.voting import VotingRound
from pelure.tor.directory.consensus import parse_consensus
from pelure.tor.directory.consensus_verify import verify_consensus
from pelure.tor.directory.http import DirReply, DirRequest
from pelure.tor.directory.network import Network, parse_network
from pelure.tor.directory.router_descriptor import RouterDescriptor
from pelure.tor.directory.vote import Vote
from pelure.tor.net import dir_http
from unit.tor.authority.conftest import MadeRelay

TIMES = VotingTimes(60, 2, 2, 12, 10, 2, 2)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Data folders of three authorities."""
    made = [tmp_path / f"authority{n}" for n in range(3)]
    for folder in made:
        AuthorityKeys.create(folder, "127.0.0.1:7000", time.time(), identity_bits=2048)
    return made


def network_of(keys: Sequence[AuthorityKeys], ports: Sequence[int]) -> Network:
    lines = [
        f"DirAuthority authority{n} orport=9 v3ident={one.identity.hex()} 127.0.0.1:{port} {f'0{n}' * 20}"
        for n, (one, port) in enumerate(zip(keys, ports, strict=True))
    ]
    return parse_network("TestingTorNetwork 1\n" + "\n".join(lines))


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens, below those that are given to outgoing connections."""
    ports: set[int] = set()
    while len(ports) < count:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.add(port)
    return sorted(ports)


def config(number: int, folder: Path, network: Network, expected: int) -> AuthorityConfig:
    return AuthorityConfig(
        nickname=f"authority{number}",
        data=folder,
        network=network,
        ip="127.0.0.1",
        dir_port=network.authorities[number].dirport,
        or_port=9,
        times=TIMES,
        flags=FlagOptions.for_testing(),
        allow_private_addresses=True,
        expected_relays=expected,
    )


@contextlib.asynccontextmanager
async def running(folders: list[Path], expected: int) -> AsyncIterator[list[Authority]]:
    keys = [AuthorityKeys.load(folder, time.time()) for folder in folders]
    network = network_of(keys, free_ports(len(folders)))
    authorities = [Authority(config(n, folder, network, expected)) for n, folder in enumerate(folders)]
    await asyncio.gather(*(one.start() for one in authorities))
    try:
        yield authorities
    finally:
        await asyncio.gather(*(one.close() for one in authorities))


async def post(authority: Authority, path: str, body: bytes) -> int:
    stream = await SocketStream.connect("127.0.0.1", authority.dir_port.port)
    try:
        return (await dir_http.post(stream, path, body)).status
    finally:
        await stream.close()


async def get(authority: Authority, path: str) -> dir_http.DirResponse:
    stream = await SocketStream.connect("127.0.0.1", authority.dir_port.port)
    try:
        return await dir_http.get(stream, path, limit=1 << 20)
    finally:
        await stream.close()


async def test_three_authorities_publish_one_consensus(
    folders: list[Path], relays: Sequence[MadeRelay]
) -> None:
    async with asyncio.timeout(90), running(folders, len(relays)) as authorities:
        now = time.time()
        for relay in relays:
            # One authority hears of each relay only through the votes of the others.
            for authority in authorities[: 2 if relay is relays[0] else 3]:
                assert await post(authority, "/tor/", relay.documents(now - 5, extra=True)) == 200
        for authority in authorities[:2]:
            await authority.published.wait()
        texts = [
            (await get(one, "/tor/status-vote/current/consensus-microdesc")).body for one in authorities[:2]
        ]
        assert texts[0].partition(b"directory-signature")[0] == texts[1].partition(b"directory-signature")[0]
        consensus = parse_consensus(texts[0])
        verify_consensus(consensus, authorities[0].round.names, authorities[0].cache.certificates)
        assert len(consensus.routers) == len(relays)
        assert authorities[0].cache.wanted_microdescriptors() == []
        certificates = (await get(authorities[0], "/tor/keys/all")).body
        assert certificates.count(b"dir-key-certificate-version 3") >= 2
        assert (await get(authorities[0], "/tor/server/all")).body.count(b"\nrouter-signature\n") == 4


async def test_a_restart_keeps_what_was_known(folders: list[Path], relays: Sequence[MadeRelay]) -> None:
    async with asyncio.timeout(60), running(folders[:1], len(relays)) as (authority,):
        for relay in relays:
            authority.upload(relay.documents(time.time() - 5), time.time())
        await authority.published.wait()
        consensus = authority.cache.consensus("ns")
    again = Authority(config(0, folders[0], authority.config.network, 0))
    assert again.descriptors.routers.keys() == {relay.rsa_id for relay in relays}
    kept = again.cache.consensus("ns")
    assert kept is not None and consensus is not None and kept.digest == consensus.digest
    assert again.live_consensus(time.time()) is not None
    assert again.cache.wanted_microdescriptors() == []
    assert again.shared_random.commits == authority.shared_random.commits


async def test_a_relay_that_does_not_answer_is_not_running(
    folders: list[Path], relays: Sequence[MadeRelay]
) -> None:
    keys = AuthorityKeys.load(folders[0], time.time())
    network = network_of([keys], free_ports(1))
    silent = relays[2].rsa_id

    async def probe(router: RouterDescriptor) -> frozenset[int]:
        return frozenset({4}) if router.rsa_id != silent else frozenset()

    settings = config(0, folders[0], network, 3)
    authority = Authority(replace(settings, probe=probe, contact="M\u00e9 \u20ac"))
    await authority.start()
    try:
        async with asyncio.timeout(60):
            for relay in relays:
                authority.upload(relay.documents(time.time() - 5), time.time())
            await authority.published.wait()
        consensus = authority.cache.consensus("microdesc")
        assert consensus is not None
        assert silent not in {one.rsa_id for one in consensus.routers}, "only running relays are listed"
        assert len(consensus.routers) == 3
        assert "contact M\u00e9 \u20ac\n".encode() in consensus.text
    finally:
        await authority.close()


async def test_a_relay_that_did_not_answer_is_asked_again_soon(
    folders: list[Path], relays: Sequence[MadeRelay], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All relays are tested again after half an interval (30 s here): too late where all start together."""
    monkeypatch.setattr(reachability, "RETRY_SECONDS", 0.01)
    asked: Counter[bytes] = Counter()

    async def probe(router: RouterDescriptor) -> frozenset[int]:
        asked[router.rsa_id] += 1
        late = router.rsa_id == relays[2].rsa_id and asked[router.rsa_id] < 4
        return frozenset() if late else frozenset({4})

    keys = AuthorityKeys.load(folders[0], time.time())
    authority = Authority(replace(config(0, folders[0], network_of([keys], free_ports(1)), 99), probe=probe))
    for relay in relays:
        authority.upload(relay.documents(time.time() - 5), time.time())
    await authority.start()
    try:
        async with asyncio.timeout(25):
            await authority._until(time.time() + 60, lambda: authority.reachability.runs(relays[2].rsa_id))
        assert [asked[relay.rsa_id] for relay in relays] == [1, 1, 4, 1]
    finally:
        await authority.close()


async def test_a_relay_that_moved_is_tested_where_it_is_now(
    folders: list[Path], relays: Sequence[MadeRelay]
) -> None:
    """At once: the next test of all relays is half an interval away. The others are not tested for that."""
    asked: list[tuple[bytes, int]] = []

    async def probe(router: RouterDescriptor) -> frozenset[int]:
        asked.append((router.rsa_id, router.orport))
        return frozenset({4}) if router.orport == 443 else frozenset()

    moved, other = relays[0], relays[1]
    keys = AuthorityKeys.load(folders[0], time.time())
    authority = Authority(replace(config(0, folders[0], network_of([keys], free_ports(1)), 99), probe=probe))
    now = time.time()
    authority.upload(moved.documents(now - 60), now)
    authority.upload(other.documents(now - 60, orport=443), now)
    await authority.start()
    try:
        async with asyncio.timeout(25):
            await authority._until(now + 60, lambda: authority.reachability.complete)
            authority.upload(other.documents(now - 5, orport=443, contact="me"), now)
            authority.upload(moved.documents(now - 5, orport=443), now)
            await authority._until(now + 60, lambda: authority.reachability.runs(moved.rsa_id))
        assert asked.count((moved.rsa_id, 443)) == 1
        assert asked.count((other.rsa_id, 443)) == 1
    finally:
        await authority.close()


async def test_who_begins_the_first_round_late_asks_for_the_votes_that_it_missed(
    folders: list[Path], relays: Sequence[MadeRelay], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not posted again: the first consensus would come only at the end of the wait for them."""
    monkeypatch.setattr(server, "HURRIED_WAIT", 600.0)
    keys = [AuthorityKeys.load(folder, time.time()) for folder in folders[:2]]
    network = network_of(keys, free_ports(2))
    settings = [config(n, folders[n], network, len(relays)) for n in range(2)]
    quick, late = (Authority(replace(one, times=replace(TIMES, interval=86400))) for one in settings)
    for authority in (quick, late):
        for relay in relays:
            authority.upload(relay.documents(time.time() - 5), time.time())
    try:
        async with asyncio.timeout(60):
            await quick.start()
            await quick._until(time.time() + 60, lambda: bool(quick.round.votes))
            await late.start()
            await late.published.wait()
            await quick.published.wait()
    finally:
        await asyncio.gather(quick.close(), late.close())


async def test_relays_are_tested_before_the_first_vote(
    folders: list[Path], relays: Sequence[MadeRelay]
) -> None:
    """One that starts just before a round would vote that none of them runs."""
    answer = asyncio.Event()

    async def probe(router: RouterDescriptor) -> frozenset[int]:
        await answer.wait()
        return frozenset({4})

    keys = AuthorityKeys.load(folders[0], time.time())
    authority = Authority(replace(config(0, folders[0], network_of([keys], free_ports(1)), 99), probe=probe))
    for relay in relays:
        authority.upload(relay.documents(time.time() - 5), time.time())
    await authority.start()
    try:
        async with asyncio.timeout(60):
            now = time.time()
            await authority.hold_round(Round(int(now) - 60, 60, now, now, now, now), late=False)
            assert not authority.round.votes and not authority.published.is_set()
            answer.set()
            await authority._until(now + 60, lambda: authority.reachability.complete)
            await authority.hold_round(Round(int(now) - 60, 60, now, now, now, now), late=False)
        consensus = authority.cache.consensus("ns")
        assert consensus is not None and len(consensus.routers) == len(relays)
    finally:
        await authority.close()


async def _answer_some(request: DirRequest) -> DirReply:
    """The reply to a request; one for ``/never`` comes never."""
    if request.path == "/never":
        await asyncio.Event().wait()
    return DirReply(200)


async def _status(port: DirPort, body: bytes = b"") -> int:
    stream = await SocketStream.connect("127.0.0.1", port.port)
    try:
        return (await dir_http.post(stream, "/tor/", body)).status
    finally:
        await stream.close()


@pytest.mark.parametrize("start", [b"", b"POST /tor/ HT", b"GET /never HTTP/1.0\r\n\r\n"])
async def test_connections_that_are_held_open_keep_nobody_away(
    monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    """Silent ones, half requests, and clients that let themselves be waited for: the oldest makes room."""
    monkeypatch.setattr(dirport, "MAX_CONNECTIONS", 8)
    port = DirPort("127.0.0.1", 0, _answer_some)
    await port.start()
    try:
        async with asyncio.timeout(60):
            held = [await asyncio.open_connection("127.0.0.1", port.port) for _ in range(12)]
            for _, writer in held:
                writer.write(start)
            for _ in range(12):
                assert await _status(port) == 200
            with contextlib.suppress(ConnectionResetError):
                assert await held[0][0].read() == b""
            for _, writer in held:
                writer.close()
    finally:
        await port.close()


async def test_half_uploads_that_fill_the_memory_keep_nobody_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dirport, "MAX_BUFFERED", 100_000)
    port = DirPort("127.0.0.1", 0, _answer_some)
    await port.start()
    try:
        async with asyncio.timeout(60):
            held, writer = await asyncio.open_connection("127.0.0.1", port.port)
            writer.write(b"POST /tor/ HTTP/1.0\r\nContent-Length: 90000\r\n\r\n" + bytes(80_000))
            await writer.drain()
            while not held.at_eof():
                assert await _status(port, bytes(30_000)) == 200
                with contextlib.suppress(ConnectionResetError, TimeoutError):
                    async with asyncio.timeout(0.01):
                        assert await held.read() == b""
            writer.close()
    finally:
        await port.close()


async def test_the_port_answers_while_a_long_vote_is_read(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    reading = threading.Event()

    def read_slowly(_: VotingRound, document: bytes) -> Vote:
        reading.set()
        assert answered.wait(60), "nothing else was answered meanwhile"
        raise DirectoryError(document.decode())

    monkeypatch.setattr(VotingRound, "read_vote", read_slowly)
    async with asyncio.timeout(90), running(folders[:1], 99) as (authority,):
        posting = asyncio.ensure_future(post(authority, "/tor/post/vote", b"a vote"))
        await asyncio.to_thread(reading.wait, 60)
        assert (await get(authority, "/tor/keys/all")).status == 200
        answered.set()
        assert await posting == 400


async def test_a_probe_that_fails_does_not_end_the_others(
    folders: list[Path], relays: Sequence[MadeRelay], caplog: pytest.LogCaptureFixture
) -> None:
    keys = AuthorityKeys.load(folders[0], time.time())

    async def probe(router: RouterDescriptor) -> frozenset[int]:
        return frozenset({4, 1 // (router.rsa_id != relays[0].rsa_id)})

    settings = replace(config(0, folders[0], network_of([keys], free_ports(1)), 99), probe=probe)
    authority = Authority(settings)
    authority.reachability.found[b"gone"] = frozenset({4})
    for relay in relays:
        authority.upload(relay.documents(time.time() - 5), time.time())
    await authority.start()
    try:
        async with asyncio.timeout(60):
            await authority._until(time.time() + 60, lambda: len(authority.reachability.found) == 3)
        assert authority.reachability.found.keys() == {one.rsa_id for one in relays[1:]}
        assert "bug" in caplog.text
    finally:
        await authority.close()


async def test_a_full_disk_does_not_end_the_voting(
    folders: list[Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    keys = AuthorityKeys.load(folders[0], time.time())
    authority = Authority(config(0, folders[0], network_of([keys], free_ports(1)), 99))
    monkeypatch.setattr(state, "write_private", full)
    now = time.time()
    when = Round(int(now) - 60, 60, now, now, now, now)
    async with asyncio.timeout(60):
        await authority.hold_round(when, late=False)
    await authority.close()
    assert keys.identity in authority.round.votes
    assert "No space left" in caplog.text


async def test_marks_and_ipv6_addresses_reach_the_consensus(
    folders: list[Path], relays: Sequence[MadeRelay]
) -> None:
    """Three relays have an IPv6 address, at which the first answers, the second does not."""
    keys = AuthorityKeys.load(folders[0], time.time())

    async def probe(router: RouterDescriptor) -> frozenset[int]:
        return frozenset({4}) if router.rsa_id == relays[1].rsa_id else frozenset({4, 6})

    settings = replace(
        config(0, folders[0], network_of([keys], free_ports(1)), 3), probe=probe, has_ipv6=True
    )
    marks = folders[0] / "approved-routers"
    marks.write_text(f"!middleonly {relays[0].rsa_id.hex()}\n!badexit {relays[2].rsa_id.hex()}\n")
    authority = Authority(settings)
    for relay in relays:
        ipv6 = ("2001:db8::7", 9000 + relay.number) if relay.number < 4 else None
        authority.upload(relay.documents(time.time() - 5, ipv6=ipv6), time.time())
    await authority.start()
    try:
        async with asyncio.timeout(60):
            await authority.published.wait()
        consensus = authority.cache.consensus("microdesc")
        assert consensus is not None
        listed = {router.rsa_id: router for router in consensus.routers}
        assert listed.keys() == {relays[n].rsa_id for n in (0, 2, 3)}, "it must answer at all its addresses"
        assert [listed[relays[n].rsa_id].ipv6 for n in (0, 2, 3)] == [
            ("2001:db8::7", 9001),
            ("2001:db8::7", 9003),
            None,
        ]
        flags = listed[relays[0].rsa_id].flags
        assert flags >= {"MiddleOnly", "BadExit", "Running", "Valid"}
        assert flags.isdisjoint({"Guard", "Exit", "HSDir", "V2Dir"})
        assert "BadExit" in listed[relays[2].rsa_id].flags and "BadExit" not in listed[relays[3].rsa_id].flags
        # What the operator writes while it runs counts with the next vote.
        marks.write_text(f"!reject {relays[3].rsa_id.hex()}\n")
        authority._read_relay_list()
        assert relays[3].rsa_id not in authority.descriptors.routers
        with pytest.raises(DirectoryError, match="rejected"):
            authority.upload(relays[3].documents(time.time()), time.time())
        assert "BadExit" not in authority._builder._known_flags()
    finally:
        await authority.close()


async def test_bad_requests(folders: list[Path], relays: Sequence[MadeRelay]) -> None:
    # It waits for relays that never come, so that no round ends meanwhile.
    async with asyncio.timeout(60), running(folders[:1], 99) as (authority,):
        assert await post(authority, "/tor/", b"rubbish") == 400
        assert await post(authority, "/tor/post/vote", b"network-status-version 3\n") == 400
        assert await post(authority, "/tor/post/consensus-signature", b"rubbish") == 400
        assert await post(authority, "/tor/post/elsewhere", b"") == 405
        assert (await get(authority, "/tor/status-vote/next/consensus-signatures")).status == 404
        assert (await get(authority, "/tor/status-vote/next/zz")).status == 400
        assert (await get(authority, "/tor/status-vote/current/consensus")).status == 404
        assert (await get(authority, "/tor/nothing")).status == 404
        reader, writer = await asyncio.open_connection("127.0.0.1", authority.dir_port.port)
        writer.write(b"garbage\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
        writer.close()
        assert await authority.answer(DirRequest("GET", "/tor/keys/all", {})) is None, "left to the cache"
        assert await post(authority, "/tor/", relays[0].documents(time.time())) == 200
