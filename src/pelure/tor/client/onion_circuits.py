"""Joined circuits to onion services, one for each service and isolation token, shared by streams.

Who asks first connects; whoever asks meanwhile waits for the same connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable

from pelure.tor.net.origin import Circuit

IDLE_SECONDS = 600.0
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
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    async def get(self, address: str, isolation: Hashable) -> tuple[Circuit, bool]:
        """An open circuit to ``address``, and whether it served somebody before.

        Raises ``OnionServiceError`` and what building circuits raises.
        """
        key = (address, isolation)
        task = self._tasks.get(key)
        if task is None or _is_over(task):
            task = asyncio.ensure_future(self._connect(address, isolation))
            self._tasks[key] = task
        self._waiting[task] = self._waiting.get(task, 0) + 1
        try:
            circuit = await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._waiting[task] == 1 and not task.done():
                task.cancel()  # nobody else wants this connection
            raise
        finally:
            self._waiting[task] -= 1
            if not self._waiting[task]:
                del self._waiting[task]
        served = circuit in self._used
        self._used[circuit] = self._loop.time()
        return circuit, served

    def circuits(self) -> dict[str, list[Circuit]]:
        """The open circuits by address, for ``netstat``."""
        found: dict[str, list[Circuit]] = {}
        for (address, _), task in self._tasks.items():
            if task.done() and not _is_over(task):
                found.setdefault(address, []).append(task.result())
        return found

    def _sweep(self) -> None:
        """Forget what is closed; close what no stream has used for long."""
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        now = self._loop.time()
        for key, task in list(self._tasks.items()):
            if not task.done():
                continue
            if not _is_over(task):
                circuit = task.result()
                if circuit.streams:
                    self._used[circuit] = now
                if now - self._used.get(circuit, now) <= IDLE_SECONDS:
                    continue
                circuit.close()
            del self._tasks[key]
        self._used = {circuit: at for circuit, at in self._used.items() if not circuit.closed.is_set()}

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
