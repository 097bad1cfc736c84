"""Replication over a link of long delay, beside a bare TCP copy over the same link (issue 4, latency row).

A proxy delays every byte by half the round trip each way and keeps at most a window of bytes under way,
like a TCP connection whose windows are that large. The copy and the replication take turns through it. Goal:
at least 80 % of the bare copy's rate.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.results import report

from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication.stream import Replication
from pelure.hyper.wire.noise import KeyPair
from pelure.streams import SocketStream

CHUNK = 65536
MIB = 1 << 20


class Direction:
    """One way through the proxy: bytes wait ``delay`` s; at most ``window`` bytes are under way."""

    def __init__(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay: float, window: int):
        self.source = source
        self.sink = sink
        self.delay = delay
        self.window = window
        self._queue: deque[tuple[float, bytes]] = deque()
        self._acknowledged: deque[tuple[float, int]] = deque()
        self._under_way = 0
        self._changed = asyncio.Event()
        self._given = asyncio.Event()

    async def run(self) -> None:
        """Carry bytes until the source ends or either side breaks."""
        await asyncio.gather(self._take(), self._give())

    async def _take(self) -> None:
        while data := await self.source.read(CHUNK):
            while self._under_way + len(data) > self.window:
                await self._room()
            self._under_way += len(data)
            self._queue.append((time.monotonic() + self.delay, data))
            self._changed.set()
        self._queue.append((time.monotonic() + self.delay, b""))
        self._changed.set()

    async def _room(self) -> None:
        """Wait for the next acknowledgement, which takes the way back."""
        while not self._acknowledged:
            self._given.clear()
            await self._given.wait()
        when, size = self._acknowledged.popleft()
        await asyncio.sleep(max(0.0, when - time.monotonic()))
        self._under_way -= size

    async def _give(self) -> None:
        while True:
            while not self._queue:
                self._changed.clear()
                await self._changed.wait()
            when, data = self._queue.popleft()
            await asyncio.sleep(max(0.0, when - time.monotonic()))
            if not data:
                self.sink.write_eof()
                return
            self.sink.write(data)
            await self.sink.drain()
            self._acknowledged.append((time.monotonic() + self.delay, len(data)))
            self._given.set()


class Listener:
    """A TCP server on a free port of 127.0.0.1 for one connection."""

    def __init__(
        self, handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> None:
        self._handle = handle
        self._ended = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> int:
        """Return the port."""
        self._server = await asyncio.start_server(self._run, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._handle(reader, writer)
        except OSError:
            pass  # the other side is done
        finally:
            writer.close()
            self._ended.set()

    async def __aexit__(self, *_: object) -> None:
        """Wait for the end of the connection."""
        assert self._server is not None
        await self._ended.wait()
        self._server.close()


async def carry_one(target: int, round_trip: float, window: int) -> None:
    """Be the proxy: print a port, and carry one connection from it to port ``target`` and back."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        there = Direction(reader, far_writer, round_trip / 2, window)
        back = Direction(far_reader, writer, round_trip / 2, window)
        try:
            await asyncio.gather(there.run(), back.run())
        finally:
            far_writer.close()

    async with Listener(carry) as port:
        print(port, flush=True)


@asynccontextmanager
async def proxy(target: int, round_trip: float, window: int) -> AsyncIterator[int]:
    """A proxy in a process of its own, so that it keeps time; gives its port."""
    options = ["--proxy", str(target), "--round-trip", str(round_trip * 1000), "--window", str(window / MIB)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.hyper_latency", *options, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def bare_copy(size: int, round_trip: float, window: int) -> float:
    """Seconds to receive ``size`` bytes that are sent as soon as the connection is there."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(size // CHUNK):
            writer.write(bytes(CHUNK))
            await writer.drain()
        writer.write_eof()
        await reader.read()

    async with Listener(send) as target, proxy(target, round_trip, window) as port:
        started = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        left = size
        while left > 0:
            left -= len(await reader.read(CHUNK))
        seconds = time.perf_counter() - started
        writer.close()
    return seconds


async def replication(size: int, round_trip: float, window: int, folder: Path) -> float:
    """Seconds until an empty store holds a core of ``size`` bytes, from connecting on."""
    source, target = Corestore(folder / "source"), Corestore(folder / "target")
    writer = source.get(name="core")
    for _ in range(size // MIB):
        writer.append([os.urandom(CHUNK) for _ in range(MIB // CHUNK)], durable=False)

    ended = asyncio.Event()

    async def serve(stream: SocketStream) -> None:
        async with Replication(stream, False, source, KeyPair.generate(os.urandom)) as served:
            await served.wait_closed()
        ended.set()

    reader = target.get(key=writer.key)
    server = await SocketStream.listen(serve, "127.0.0.1", 0)
    far = int(server.sockets[0].getsockname()[1])
    async with server, proxy(far, round_trip, window) as port:
        started = time.perf_counter()
        stream = await SocketStream.connect("127.0.0.1", port)
        async with Replication(stream, True, target, KeyPair.generate(os.urandom)):
            await reader.update(wait=True)
            await reader.download([(0, writer.length)])
            seconds = time.perf_counter() - started
    await ended.wait()
    source.close()
    target.close()
    return seconds


async def measure(size: int, round_trip: float, window: int, runs: int) -> None:
    """Report both rates in MiB/s, and the one as a part of the other."""
    copies, replications = [], []
    for number in range(runs):
        copies.append(size / MIB / await bare_copy(size, round_trip, window))
        with tempfile.TemporaryDirectory() as folder:
            replications.append(size / MIB / await replication(size, round_trip, window, Path(folder)))
        print(
            f"run {number + 1} of {runs}: bare copy {copies[-1]:.2f} MiB/s, "
            f"replication {replications[-1]:.2f} MiB/s",
            file=sys.stderr,
        )
    row = f"{size // MIB} MiB through {round_trip * 1000:.0f} ms round trip, window of {window / MIB:g} MiB"
    shares = [100 * one / other for one, other in zip(replications, copies, strict=True)]
    for what, subject, unit, values in (
        (row, "bare TCP copy", "MiB/s", copies),
        (row, "pelure", "MiB/s", replications),
        ("part of the bare copy's rate", "pelure", "%", shares),
    ):
        report(benchmark="hyper_latency", row=what, subject=subject, unit=unit, runs=values)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hyper_latency", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less data, one run")
    parser.add_argument("--size", type=int, help="MiB to transfer (default: 256)")
    parser.add_argument("--round-trip", type=float, default=300.0, help="milliseconds")
    parser.add_argument("--window", type=float, default=4.0, help="MiB under way at most")
    parser.add_argument("--proxy", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    round_trip, window = options.round_trip / 1000, int(options.window * MIB)
    if options.proxy is not None:
        asyncio.run(carry_one(options.proxy, round_trip, window))
    else:
        size = options.size or (64 if options.quick else 256)
        asyncio.run(measure(size * MIB, round_trip, window, 1 if options.quick else 3))


if __name__ == "__main__":
    main()
