"""Joined circuits to onion services, one for each service and isolation token, shared by streams.

Who asks first connects; whoever asks meanwhile waits for the same connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable

from pelure.tor.net.origin import Circuit

IDLE_SECONDS = 600.0
MAX_IDLE = 64
"""So many circuits without streams are kept, however many isolation tokens there are."""
SWEEP_SECONDS = 30.0

Connect = Callable[[str, Hashable], Awaitable[Circuit]]
"""Joins a circuit to the service at an address (``….onion``) for an isolation token."""


class OnionCircuits:
    """See the module."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[tuple[str, Hashable], asyncio.Task[Circuit]] = {}
        self._waiting: dict[asyncio.Task[Circuit], int] = {}
        self._used: dict[Circuit, float] = {}
        self._tidy_at = MAX_IDLE
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    async def get(self, address: str, isolation: Hashable) -> tuple[Circuit, bool]:
        """An open circuit to ``address``, and whether it served somebody before.

        Raises ``OnionServiceError`` and what building circuits raises.
        """
        key = (address, isolation)
        task = self._tasks.get(key)
        if task is None or _is_over(task):
            if len(self._tasks) >= self._tidy_at:
                self._tidy()
            task = asyncio.ensure_future(self._connect(address, isolation))
            self._tasks[key] = task
        self._waiting[task] = self._waiting.get(task, 0) + 1
        try:
            circuit = await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                if self._waiting[task] == 1:
                    task.cancel()  # nobody else wants this connection
            elif not _is_over(task):  # it came in the same moment: kept for a while, like one that was used
                self._used.setdefault(task.result(), self._loop.time())
            raise
        finally:
            self._waiting[task] -= 1
            if not self._waiting[task]:
                del self._waiting[task]
        served = circuit in self._used
        self._used[circuit] = self._loop.time()
        return circuit, served

    def joined(self, address: str, isolation: Hashable) -> Circuit | None:
        """The open circuit to ``address`` that :meth:`get` would give at once, None if there is none."""
        task = self._tasks.get((address, isolation))
        if task is None or not task.done() or _is_over(task):
            return None
        circuit = task.result()
        self._used[circuit] = self._loop.time()
        return circuit

    def circuits(self) -> dict[str, list[Circuit]]:
        """The open circuits by address, for ``netstat``."""
        found: dict[str, list[Circuit]] = {}
        for (address, _), task in self._tasks.items():
            if task.done() and not _is_over(task):
                found.setdefault(address, []).append(task.result())
        return found

    def _sweep(self) -> None:
        """Every now and then: see :meth:`_tidy`."""
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        self._tidy()

    def _tidy(self) -> None:
        """Close what no stream has used for long, and the oldest of too many; forget what is closed."""
        now = self._loop.time()
        idle = []
        for circuit, used_at in self._used.items():
            if circuit.streams:
                self._used[circuit] = now
            elif not circuit.closed.is_set():
                idle.append((used_at, circuit))
        idle.sort(key=lambda pair: pair[0])
        surplus = len(idle) - MAX_IDLE
        for index, (used_at, circuit) in enumerate(idle):
            if index < surplus or now - used_at > IDLE_SECONDS:
                circuit.close()
        self._tasks = {key: task for key, task in self._tasks.items() if not _is_over(task)}
        self._used = {circuit: at for circuit, at in self._used.items() if not circuit.closed.is_set()}
        self._tidy_at = len(self._tasks) + MAX_IDLE

    async def close(self) -> None:
        """Close every circuit; idempotent."""
        self._sweeper.cancel()
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            if not task.done():
                task.cancel()
            elif not _is_over(task):
                task.result().close()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_over(task: asyncio.Task[Circuit]) -> bool:
    """Whether a connection failed, was given up or has ended."""
    if not task.done():
        return False
    return task.cancelled() or task.exception() is not None or task.result().closed.is_set()
