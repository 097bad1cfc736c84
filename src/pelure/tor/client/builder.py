"""Builds one circuit along a chosen path, within the learned time, and keeps record of guards and vanguards.

path-spec 2.4, guard-spec 4, proposal 292. A circuit that comes too late for use is still awaited, to measure
how long circuits take.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from pelure.errors import CircuitError, LinkError
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.directory.relay import Relay
from pelure.tor.net.links import LinkManager
from pelure.tor.net.origin import Circuit

log = logging.getLogger(__name__)

MEASURED_LENGTH = 3
"""Circuits of this length teach the time-out; others get it in proportion, as they take."""


class RelayRecord(Protocol):
    """What the builder tells of guards and vanguards; ``now`` is seconds since the epoch."""

    def guard_succeeded(self, relay: Relay, now: float, end: Relay) -> bool:
        """A circuit by ``relay`` to ``end`` was built; False if it shall not be used (guard-spec 4.8)."""
        ...

    def guard_failed(self, relay: Relay, now: float) -> None:
        """No link to ``relay``, or no first hop, could be made."""

    def hop_succeeded(self, relay: Relay) -> None:
        """A circuit was extended to ``relay``."""

    def hop_failed(self, relay: Relay, now: float) -> None:
        """A circuit could not be extended to ``relay``."""


class BuildTimes(Protocol):
    """How long circuits take (path-spec 2.4); seconds."""

    @property
    def timeout(self) -> float:
        """When a circuit is given up for use."""
        ...

    @property
    def abandon(self) -> float:
        """When it isn't even measured any longer."""
        ...

    def built(self, seconds: float) -> None:
        """A circuit of three hops was there after ``seconds``."""

    def timed_out(self) -> None:
        """One wasn't there in time."""


class CircuitBuilder:
    """Builds circuits; what it learns is kept in ``record`` and ``times``."""

    def __init__(
        self,
        links: LinkManager,
        record: RelayRecord,
        times: BuildTimes,
        params: Callable[[], CircuitParams],
    ) -> None:
        self._links = links
        self._record = record
        self._times = times
        self._params = params
        self._late: set[asyncio.Task[Circuit]] = set()

    async def build(self, path: Sequence[Relay]) -> Circuit:
        """Build through ``path`` within the learned time. Raises ``LinkError``, ``CircuitError``."""
        await self._reach(path[0])
        limit = self._times.timeout * self._scale(path)
        task = asyncio.ensure_future(self._build_hops(path))
        try:
            await asyncio.wait({task}, timeout=limit)
        except asyncio.CancelledError:
            task.add_done_callback(_close_late)
            task.cancel()
            raise
        if not task.done():
            if len(path) == MEASURED_LENGTH:
                self._times.timed_out()
            self._late.add(task)
            task.add_done_callback(self._came_late)
            raise CircuitError(f"a circuit was not built within {limit:.1f} seconds")
        circuit = task.result()
        if not self._record.guard_succeeded(path[0], time.time(), path[-1]):
            circuit.close()
            raise CircuitError("a better entry guard may be reachable again")
        return circuit

    async def extend(self, circuit: Circuit, last: Relay) -> None:
        """Make ``circuit`` one hop longer within the learned time. Raises ``CircuitError``."""
        await circuit.extend(last, timeout=self._times.timeout)

    def _scale(self, path: Sequence[Relay]) -> float:
        return max(len(path), MEASURED_LENGTH) / MEASURED_LENGTH

    async def _reach(self, guard: Relay) -> None:
        try:
            await self._links.get(guard)
        except LinkError:
            self._record.guard_failed(guard, time.time())
            raise

    async def _build_hops(self, path: Sequence[Relay]) -> Circuit:
        """Build hop by hop, so that it is known which one failed."""
        started = time.monotonic()
        patience = self._times.abandon * self._scale(path)
        try:
            circuit = await Circuit.build(
                self._links,
                path[:1],
                params=self._params(),
                timeout=patience,
                congestion_control=len(path) == 1,
            )
        except CircuitError:
            self._record.guard_failed(path[0], time.time())
            raise
        try:
            for index, relay in enumerate(path[1:], 1):
                await self._add_hop(circuit, relay, patience, is_last=index == len(path) - 1)
        except BaseException:
            circuit.close()
            raise
        if len(path) == MEASURED_LENGTH:
            self._times.built(time.monotonic() - started)
        return circuit

    async def _add_hop(self, circuit: Circuit, relay: Relay, patience: float, *, is_last: bool) -> None:
        try:
            await circuit.extend(relay, timeout=patience, congestion_control=is_last)
        except CircuitError:
            self._record.hop_failed(relay, time.time())
            raise
        self._record.hop_succeeded(relay)

    def _came_late(self, task: asyncio.Task[Circuit]) -> None:
        self._late.discard(task)
        _close_late(task)

    async def close(self) -> None:
        """Give up what is still being measured."""
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)


def _close_late(task: asyncio.Task[Circuit]) -> None:
    """Close a circuit that came when nobody wanted it any more."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
