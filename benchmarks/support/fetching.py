"""Fetches through a SOCKS port, timed: bulk by ``curl``, first bytes by a client in this process."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop
from benchmarks.support.namespace import BenchmarkError, say

FETCH_SECONDS = 180
SMALL = 1000
"""Bytes of the file that is asked for when only the first byte counts."""


@dataclass(frozen=True)
class Via:
    """A SOCKS port of this machine and the credentials that say which circuits may be shared."""

    socks: int
    user: str = "bench"


def download(via: Via, host: str, sizes: Sequence[int]) -> float:
    """Fetch ``/<size>`` for each of ``sizes`` at once; seconds until the last one is whole."""
    command = ["curl", "--silent", "--show-error", "--fail", "--max-time", str(FETCH_SECONDS)]
    command += ["--output", "/dev/null", "--write-out", "%{size_download}"]
    command += ["--proxy", f"socks5h://{via.user}:x@127.0.0.1:{via.socks}"]
    started = time.perf_counter()
    transfers = [
        subprocess.Popen(
            [*command, f"http://{host}/{size}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for size in sizes
    ]
    try:
        answers = [transfer.communicate() for transfer in transfers]
    finally:
        for transfer in transfers:
            transfer.kill()
            transfer.wait()
    seconds = time.perf_counter() - started
    for size, (got, error) in zip(sizes, answers, strict=True):
        if got != str(size):
            raise BenchmarkError(f"{got or 0} of {size} bytes came from {host}: {error.strip()}")
    return seconds


def first_byte(via: Via, host: str, *, seconds: float = FETCH_SECONDS) -> float:
    """Seconds from connecting to the SOCKS port to the first byte of the answer to a GET."""
    return uvloop.run(_timed(via, host, seconds))


def many(via: Via, host: str, count: int, at_once: int) -> float:
    """Answers a second to ``count`` requests, each with credentials of its own.

    Failures are said and not counted as answers. Raises :class:`BenchmarkError` if one in ten fails.
    """

    async def all_of_them() -> float:
        free = asyncio.Semaphore(at_once)

        async def one(number: int) -> None:
            async with free:
                await _timed(Via(via.socks, f"{via.user}-{number}"), host, FETCH_SECONDS)

        started = time.perf_counter()
        ends = await asyncio.gather(*(one(number) for number in range(count)), return_exceptions=True)
        seconds = time.perf_counter() - started
        failures = [end for end in ends if end is not None]
        for failure in failures:
            if not isinstance(failure, BenchmarkError):
                raise failure
            say(f"a request failed: {failure}")
        if len(failures) * 10 >= count:
            raise BenchmarkError(f"{len(failures)} of {count} requests to {host} failed: {failures[0]}")
        return (count - len(failures)) / seconds

    return uvloop.run(all_of_them())


async def _timed(via: Via, host: str, seconds: float) -> float:
    try:
        async with asyncio.timeout(seconds):
            return await _first_byte(via, host)
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        raise BenchmarkError(f"no answer from {host}: {type(error).__name__} {error}") from None


async def _first_byte(via: Via, host: str) -> float:
    name, _, port = host.partition(":")
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", via.socks)
    try:
        writer.write(b"\x05\x01\x02")  # user name and password (RFC 1928, 1929), a step at a time
        await reader.readexactly(2)
        writer.write(b"\x01" + _counted(via.user) + _counted("x"))
        await reader.readexactly(2)
        writer.write(b"\x05\x01\x00\x03" + _counted(name) + int(port or 80).to_bytes(2, "big"))
        answer = await reader.readexactly(10)
        if answer[1]:
            raise BenchmarkError(f"SOCKS error {answer[1]:#x} for {host}")
        writer.write(f"GET /{SMALL} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await reader.readexactly(1)
        seconds = time.perf_counter() - started
        await reader.read()
        return seconds
    finally:
        writer.close()


def _counted(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
