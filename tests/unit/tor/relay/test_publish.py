"""A descriptor on its way to authorities: to all of them, again in time, until it is taken."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pelure.errors import ConfigError
from pelure.tor.directory.exit_policy import ExitPolicy
from pelure.tor.directory.network import parse_network, torrc_options
from pelure.tor.relay import publish
from pelure.tor.relay.config import RelayConfig
from pelure.tor.relay.publish import Publisher

from .support import TORRC, until

SECONDS = 60.0


async def test_a_refusal_is_told_once_and_a_new_descriptor_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publish, "TESTING_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(publish, "TESTING_REFUSED_SECONDS", 0.0)
    came: list[bytes] = []

    async def authority(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        came.append(await reader.readexactly(1))
        answer = b"200 Descriptor accepted" if came[-1] == b"3" else b"400 Its clock is \x1b[31mwrong"
        writer.write(b"HTTP/1.0 " + answer + b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(authority, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    network = parse_network(TORRC.replace("127.0.0.1:9", f"127.0.0.1:{port}"))
    versions = itertools.count(1)
    accepted = asyncio.Queue[str]()
    publisher = Publisher(network, lambda: b"%d" % next(versions), accepted.put_nowait)
    running = asyncio.ensure_future(publisher.run())
    try:
        async with asyncio.timeout(SECONDS):
            assert await accepted.get() == "none"
    finally:
        running.cancel()
        server.close()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert came == [b"1", b"2", b"3"]
    reason = "it refuses the descriptor: Its clock is \x1b[31mwrong"
    assert caplog.messages == [f"authority none has no descriptor of this relay yet: {reason}"]


def test_a_reduced_exit_policy_is_in_the_place_of_the_default_one() -> None:
    def policy(torrc: str) -> ExitPolicy:
        options = torrc_options(f"Address 192.0.2.7\nExitRelay 1\n{torrc}")
        return RelayConfig.from_torrc(parse_network(TORRC), options, Path("data")).exit_policy

    reduced = policy("ReducedExitPolicy 1\nExitPolicy reject *:8080")
    accepted = [port for port in (22, 443, 1000, 8080, 9999, 64738) if reduced.allows("8.8.8.8", port)]
    assert accepted == [22, 443, 9999, 64738]
    assert policy("ReducedExitPolicy 0").allows("8.8.8.8", 1000)
    assert policy("ReducedExitPolicy 1\nExitPolicy accept *:*").allows("8.8.8.8", 1000)


def test_the_family_is_published_as_authorities_take_it() -> None:
    def family(line: str) -> tuple[str, ...]:
        options = {"address": ["192.0.2.7"], "myfamily": [line, "Kestrel"]}
        return RelayConfig.from_torrc(parse_network(TORRC), options, Path("data")).family

    one, other = "AB" * 20, "cd" * 20
    assert family(f"{one}, ${other}=Merlin") == (f"${one}", f"${other}=Merlin", "Kestrel")
    for wrong in ("$$" + one, one[1:], "$Merlin", "a-b"):
        with pytest.raises(ConfigError, match="MyFamily"):
            family(wrong)


def test_contact_information_is_one_line() -> None:
    options = {"address": ["192.0.2.7"], "contactinfo": ["me\nfamily $00"]}
    with pytest.raises(ConfigError, match="ContactInfo"):
        RelayConfig.from_torrc(parse_network(TORRC), options, Path("data"))


class Uploads:
    """Authorities that take uploads, and one without a DirPort; ``silent``: so many are not answered."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.accepted: list[str] = []
        self.silent = 0
        self._versions = itertools.count(1)

    @asynccontextmanager
    async def publishing(self, *authorities: str) -> AsyncIterator[Publisher]:
        network = parse_network(TORRC)
        [one] = network.authorities
        servers = [await asyncio.start_server(self._taker(name), "127.0.0.1", 0) for name in authorities]
        reachable = [
            replace(one, nickname=name, dirport=server.sockets[0].getsockname()[1])
            for name, server in zip(authorities, servers, strict=True)
        ]
        network = replace(network, authorities=(replace(one, dirport=0), *reachable))
        publisher = Publisher(network, lambda: b"%d" % next(self._versions), self.accepted.append)
        running = asyncio.ensure_future(publisher.run())
        try:
            async with asyncio.timeout(SECONDS):
                yield publisher
        finally:
            running.cancel()
            for server in servers:
                server.close()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    def _taker(self, name: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            document = await reader.readexactly(1)
            if self.silent:
                self.silent -= 1
            else:
                writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
            writer.close()
            self.came.put_nowait((name, document))

        return take


async def test_a_descriptor_goes_to_every_authority_and_a_new_one_when_asked_for() -> None:
    uploads = Uploads()
    async with uploads.publishing("first", "second") as publisher:
        for version in (b"1", b"2"):
            came = {await uploads.came.get() for _ in range(2)}
            assert came == {("first", version), ("second", version)}
            assert abs(time.time() - publisher.published_at) < 60 * SECONDS
            await until(lambda version=version: len(uploads.accepted) == 2 * int(version))
            publisher.publish()
    assert sorted(uploads.accepted) == ["first", "first", "second", "second"]


async def test_a_descriptor_is_published_anew_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "REPUBLISH_SECONDS", 0.001)
    uploads = Uploads()
    async with uploads.publishing("first"):
        assert [await uploads.came.get() for _ in range(3)] == [("first", b"%d" % n) for n in (1, 2, 3)]


async def test_who_does_not_answer_is_sent_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "TESTING_RETRY_SECONDS", 0.001)
    uploads = Uploads()
    uploads.silent = 2
    async with uploads.publishing("first"):
        assert [await uploads.came.get() for _ in range(3)] == [("first", b"1")] * 3
        await until(lambda: uploads.accepted)
