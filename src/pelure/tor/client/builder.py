"""Builds one circuit along a chosen path, within the learned time, and keeps the guard's record.

path-spec 2.4, guard-spec 4.
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
"""Circuits of this length teach the time-out; longer ones get it in proportion."""


class GuardRecord(Protocol):
    """What the builder tells of guards; ``now`` is seconds since the epoch."""

    def succeeded(self, relay: Relay, now: float) -> bool:
        """A circuit was built through ``relay``; False if it shall not be used (guard-spec 4.8)."""
        ...

    def failed(self, relay: Relay, now: float) -> None:
        """No link to ``relay`` could be made."""


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
    """Builds circuits; what it learns is kept in ``guards`` and ``times``."""

    def __init__(
        self,
        links: LinkManager,
        guards: Callable[[], GuardRecord],
        times: BuildTimes,
        params: Callable[[], CircuitParams],
    ) -> None:
        self._links = links
        self._guards = guards
        self._times = times
        self._params = params
        self._late: set[asyncio.Task[Circuit]] = set()

    async def build(self, path: Sequence[Relay]) -> Circuit:
        """Build through ``path`` within the learned time. Raises ``LinkError``, ``CircuitError``."""
        await self._reach(path[0])
        scale = max(len(path), MEASURED_LENGTH) / MEASURED_LENGTH
        limit = self._times.timeout * scale
        started = time.monotonic()
        task = asyncio.ensure_future(
            Circuit.build(self._links, path, params=self._params(), timeout=self._times.abandon * scale)
        )
        try:
            await asyncio.wait({task}, timeout=limit)
        except asyncio.CancelledError:
            task.add_done_callback(_close_late)
            task.cancel()
            raise
        if not task.done():
            self._let_finish(task, started, len(path))
            raise CircuitError(f"a circuit was not built within {limit:.1f} seconds")
        circuit = task.result()
        if len(path) == MEASURED_LENGTH:
            self._times.built(time.monotonic() - started)
        if not self._guards().succeeded(path[0], time.time()):
            circuit.close()
            raise CircuitError("a better entry guard may be reachable again")
        return circuit

    async def extend(self, circuit: Circuit, last: Relay) -> None:
        """Make ``circuit`` one hop longer within the learned time. Raises ``CircuitError``."""
        await circuit.extend(last, timeout=self._times.timeout)

    async def _reach(self, guard: Relay) -> None:
        try:
            await self._links.get(guard)
        except LinkError:
            self._guards().failed(guard, time.time())
            raise

    def _let_finish(self, task: asyncio.Task[Circuit], started: float, length: int) -> None:
        """A circuit that is late for use still tells how long circuits take."""
        if length == MEASURED_LENGTH:
            self._times.timed_out()

        def finished(done: asyncio.Task[Circuit]) -> None:
            self._late.discard(done)
            if _close_late(done) and length == MEASURED_LENGTH:
                self._times.built(time.monotonic() - started)

        self._late.add(task)
        task.add_done_callback(finished)

    async def close(self) -> None:
        """Give up what is still being measured."""
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)


def _close_late(task: asyncio.Task[Circuit]) -> bool:
    """Close a circuit that came when nobody wanted it any more; False if none came."""
    if task.cancelled() or task.exception() is not None:
        return False
    task.result().close()
    return True
