"""Memory stays flat over 5,000 connections, each by a rendezvous of its own, of two ``pelure`` processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from interop.commands import Command
from interop.ctor import CTorNetwork, FileServer, payload

pytestmark = [pytest.mark.ctor, pytest.mark.soak, pytest.mark.timeout(3600)]

CONNECTIONS = 5000
BATCH = 250
AT_ONCE = 12
ATTEMPTS = 3
WARM_UP = 500
"""Connections until caches and lists have the size that they keep."""
GROWTH_MAX = 8 << 20
"""Bytes that a process may grow by after that: below 2 kB a connection; a kept circuit costs 40 kB."""


async def fetch(port: int, host: str, user: str) -> None:
    """GET a page of 1,000 bytes through the SOCKS proxy; each ``user`` has circuits of its own."""
    async with asyncio.timeout(120):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            name, target = user.encode(), host.encode()
            credentials = bytes([1, len(name)]) + name + b"\1x"
            request = bytes([5, 1, 0, 3, len(target)]) + target + (80).to_bytes(2, "big")
            writer.write(b"\5\1\2" + credentials + request)
            assert await reader.readexactly(4) == b"\5\2\1\0"
            answer = await reader.readexactly(10)
            assert answer[1] == 0, f"SOCKS reply {answer[1]:#x}"
            writer.write(b"GET /1000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(1000) == payload(1000)[0]
        finally:
            writer.close()


async def test_memory_stays_flat_over_5000_connections(
    ctor_network: CTorNetwork, file_server: FileServer, tmp_path: Path
) -> None:
    network = ["--network", str(ctor_network.network_file)]
    serve = [*network, "--state", str(tmp_path / "a"), "onion", "serve", "--port", f"80:{file_server.port}"]
    proxy = [*network, "--state", str(tmp_path / "b"), "proxy", "--socks", "127.0.0.1:0"]
    gate = asyncio.Semaphore(AT_ONCE)
    failures = 0

    async def connect(number: int) -> None:
        nonlocal failures
        async with gate:
            for attempt in range(ATTEMPTS):
                try:
                    await fetch(port, address, f"{number}.{attempt}")
                    return
                except (AssertionError, OSError, EOFError, TimeoutError):
                    failures += 1
            raise AssertionError(f"connection {number} failed {ATTEMPTS} times")

    with (
        Command(*serve, log=tmp_path / "serve.log") as service,
        Command(*proxy, log=tmp_path / "proxy.log") as client,
    ):
        address = (await asyncio.to_thread(service.wait, "published"))["address"]
        port = (await asyncio.to_thread(client.wait, "listening"))["port"]
        await asyncio.to_thread(client.wait, "bootstrapped")
        processes = [psutil.Process(command.process.pid) for command in (service, client)]
        sizes: list[list[int]] = []
        for first in range(0, CONNECTIONS, BATCH):
            await asyncio.gather(*(connect(number) for number in range(first, first + BATCH)))
            sizes.append([process.memory_info().rss for process in processes])
            mebibytes = [f"{size / 2**20:.1f}" for size in sizes[-1]]
            print(f"{first + BATCH}: {mebibytes} MiB, {failures} failures", flush=True)

    warm = sizes[WARM_UP // BATCH - 1 :]
    for name, series in zip(("service", "client"), zip(*warm, strict=True), strict=True):
        growth = max(series) - series[0]
        assert growth < GROWTH_MAX, f"the {name} grew by {growth / 2**20:.1f} MiB: {series}"
    assert failures <= CONNECTIONS // 100
