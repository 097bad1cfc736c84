"""Circuits of the pool, there or on their way, and waiting for the first of several (path-spec 2.1)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from pelure.errors import CircuitError, LinkError, PathError
from pelure.tor.directory.relay import Relay
from pelure.tor.net.origin import Circuit

ATTEMPTS = 4
"""Circuits begun for one user before it is told that none can be had."""
RIVAL_SECONDS = 5.0
"""A circuit that somebody waits for and that takes longer gets a rival on another path."""


@dataclass(eq=False)
class PooledCircuit:
    """A circuit, perhaps still being built; ``isolation`` is set once it has an owner.

    ``waiting``: how many wait for it now. Times are the event loop's.
    """

    path: list[Relay]
    purpose: str
    created: float
    ready: asyncio.Task[Circuit]
    isolation: Hashable | None = None
    used_at: float | None = None
    waiting: int = 0

    @property
    def circuit(self) -> Circuit | None:
        """The circuit, if it is built and open."""
        if not self.ready.done() or self.ready.cancelled() or self.ready.exception() is not None:
            return None
        circuit = self.ready.result()
        return None if circuit.closed.is_set() else circuit

    @property
    def alive(self) -> bool:
        """Built and open, or being built."""
        return not self.ready.done() or self.circuit is not None

    @property
    def failure(self) -> BaseException:
        """Why it isn't alive."""
        if self.ready.cancelled():
            return CircuitError("the building of a circuit was given up")
        return self.ready.exception() or CircuitError("a circuit was closed when it was wanted")


class Race:
    """Waits for the first circuit of those that ``begin`` gives, one after the other.

    The next one is begun when one failed or takes too long. ``begin`` raises ``PathError`` if no other path
    exists. Those still being built in the end are handed to ``spare``, or stopped if nobody waits any more.
    """

    def __init__(
        self, begin: Callable[[], PooledCircuit], spare: Callable[[PooledCircuit], None] | None = None
    ) -> None:
        self._begin = begin
        self._spare = spare
        self._running: list[PooledCircuit] = []
        self._left = ATTEMPTS
        self._failure: BaseException | None = None

    async def run(self) -> Circuit:
        """The circuit. Raises ``CircuitError``, ``LinkError``, ``PathError``: the last failure."""
        try:
            while (circuit := self._finished()) is None:
                self._begin_next()
                if (ready := self._running[-1].circuit) is not None:
                    return ready
                await asyncio.wait(
                    {entry.ready for entry in self._running},
                    timeout=RIVAL_SECONDS if self._left else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            return circuit
        except asyncio.CancelledError:
            for entry in self._running:
                if entry.waiting == 1 and not entry.ready.done():
                    entry.ready.cancel()  # nobody else wants it
            raise
        finally:
            for entry in self._running:
                entry.waiting -= 1
                if self._spare is not None and not entry.waiting and not entry.ready.done():
                    self._spare(entry)

    def _finished(self) -> Circuit | None:
        """A circuit that is there; those that failed are dropped."""
        for entry in list(self._running):
            if entry.circuit is not None:
                return entry.circuit
            if not entry.alive:
                self._failure = entry.failure
                self._running.remove(entry)
                entry.waiting -= 1
                if not isinstance(self._failure, (CircuitError, LinkError)):
                    raise self._failure
        return None

    def _begin_next(self) -> None:
        """Begin another one, if there may be one; raise the failure if nothing is left to wait for."""
        if self._left:
            self._left -= 1
            try:
                entry = self._begin()
            except PathError as error:
                self._left = 0
                self._failure = self._failure or error
            else:
                entry.waiting += 1
                self._running.append(entry)
        if not self._running:
            raise self._failure or CircuitError("no circuit could be built")
