"""The control socket: requests, events, errors, a client that goes away."""

import asyncio
import errno
import stat
from pathlib import Path

import pytest

from pelure.errors import ConfigError, PelureError
from pelure.share.control import ControlServer, is_running, request


async def collect(folder: Path, op: str, **fields: object) -> list[dict]:
    return [event async for event in request(folder, op, **fields)]


async def test_events_then_done(tmp_path: Path) -> None:
    async def count(asked, emit):
        for number in range(asked["to"]):
            await emit("number", value=number)
        return {"sum": 3}

    async def fail(asked, emit):
        raise ConfigError("no such thing")

    server = ControlServer(tmp_path, {"count": count, "fail": fail})
    assert not is_running(tmp_path)
    await server.start()
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    assert [e.get("value") for e in await collect(tmp_path, "count", to=3)] == [0, 1, 2, None]
    with pytest.raises(PelureError, match="no such thing"):
        await collect(tmp_path, "fail")
    with pytest.raises(PelureError, match="does not know"):
        await collect(tmp_path, "nonsense")
    await server.close()
    assert not is_running(tmp_path)
    with pytest.raises(FileNotFoundError):
        await collect(tmp_path, "count")


async def test_what_goes_wrong_in_an_operation_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def full(asked, emit):
        raise OSError(errno.ENOSPC, "No space left on device")

    async def bug(asked, emit):
        raise ZeroDivisionError

    server = ControlServer(tmp_path, {"full": full, "bug": bug})
    await server.start()
    with pytest.raises(PelureError, match="No space left"):
        await collect(tmp_path, "full")
    assert "bug" not in caplog.text
    with pytest.raises(PelureError, match="a bug ended this"):
        await collect(tmp_path, "bug")
    assert "ZeroDivisionError" in caplog.text
    await server.close()


async def test_a_client_that_leaves_ends_its_request(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def follow(asked, emit):
        try:
            await emit("started")
            await asyncio.Event().wait()
        finally:
            ended.set()
        return {}

    server = ControlServer(tmp_path, {"follow": follow})
    await server.start()
    events = request(tmp_path, "follow")
    assert (await anext(events))["event"] == "started"
    await events.aclose()
    async with asyncio.timeout(30):
        await ended.wait()
    await server.close()


async def test_garbage_on_the_socket(tmp_path: Path) -> None:
    server = ControlServer(tmp_path, {})
    await server.start()
    for garbage in (b"\xff\xfe\n", b"{}\n", b"[]\n", b"3\n", b"\n"):
        reader, writer = await asyncio.open_unix_connection(str(server.path))
        writer.write(garbage)
        assert b"does not know" in await reader.readline()
        writer.close()
    await server.close()


async def test_a_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)

    async def ping(asked, emit):
        return {"pong": True}

    server = ControlServer(folder, {"ping": ping})
    await server.start()
    assert (await collect(folder, "ping"))[-1]["pong"]
    await server.close()
    assert not is_running(folder)
