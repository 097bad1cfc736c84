"""A descriptor on its way to an authority that does not take it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest

from pelure.tor.directory.network import parse_network
from pelure.tor.relay import publish
from pelure.tor.relay.publish import Publisher

from .support import TORRC

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
