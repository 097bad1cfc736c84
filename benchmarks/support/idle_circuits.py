"""Many idle circuits through one relay, made by pelure's own client code in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import uvloop
from benchmarks.support.namespace import BenchmarkError

from pelure.errors import PelureError
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.client.dirclient import DirectoryClient
from pelure.tor.directory.network import parse_network
from pelure.tor.directory.relay import Relay
from pelure.tor.net.links import LinkManager
from pelure.tor.net.origin import Circuit
from pelure.tor.net.statefile import StateFolder

T = TypeVar("T")
AT_ONCE = 32
BUILD_SECONDS = 60.0


def with_idle_circuits(network_file: Path, path: Sequence[str], count: int, look: Callable[[], T]) -> T:
    """Build ``count`` circuits through the relays of these fingerprints, and return what ``look`` sees then.

    Raises :class:`BenchmarkError` if more than one in ten attempts fails.
    """
    return uvloop.run(_with_idle_circuits(network_file, path, count, look))


async def _with_idle_circuits(
    network_file: Path, path: Sequence[str], count: int, look: Callable[[], T]
) -> T:
    links = LinkManager()
    with TemporaryDirectory(prefix="pelure-bench-") as folder:
        state = StateFolder(Path(folder))
        try:
            directory = DirectoryClient(parse_network(network_file.read_text()), links, state)
            async with asyncio.timeout(BUILD_SECONDS):
                relays = {one.fingerprint: one for one in (await directory.bootstrap()).relays}
            circuits = await _build(links, directory.params, [relays[one] for one in path], count)
            seen = look()
            if any(circuit.closed.is_set() for circuit in circuits):
                raise BenchmarkError("idle circuits were closed")
            return seen
        finally:
            await links.close()
            state.close()


async def _build(
    links: LinkManager, params: CircuitParams, path: Sequence[Relay], count: int
) -> list[Circuit]:
    circuits: list[Circuit] = []
    failures: list[PelureError] = []
    started = 0

    async def build_some() -> None:
        nonlocal started
        while started < count:
            started += 1
            try:
                circuits.append(await Circuit.build(links, path, params=params, timeout=BUILD_SECONDS))
            except PelureError as error:
                failures.append(error)
                started -= 1
                if len(failures) > count // 10:
                    raise BenchmarkError(f"{len(circuits)} of {count} idle circuits: {error}") from None

    await asyncio.gather(*(build_some() for _ in range(AT_ONCE)))
    return circuits
