"""Relay messages of a circuit that are not of streams: who waits for which, and what may come too soon.

Nothing else is taken: a relay could mark the circuit with it for somebody who watches elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from pelure.errors import CircuitError, ProtocolError
from pelure.tor.circuit.events import RelayMessageReceived


class Mailbox:
    """One circuit's messages."""

    def __init__(self) -> None:
        self._waiters: list[tuple[Collection[int], asyncio.Future[RelayMessageReceived]]] = []
        self._reserved: set[int] = set()
        self._unclaimed: list[RelayMessageReceived] = []

    @property
    def awaited(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiters)

    def take(self, commands: Collection[int]) -> RelayMessageReceived | None:
        """The first message of one of ``commands`` that came already."""
        for message in self._unclaimed:
            if message.command in commands:
                self._unclaimed.remove(message)
                return message
        return None

    async def next(self, commands: Collection[int]) -> RelayMessageReceived:
        """Wait for the next message of one of ``commands``. Raises what :meth:`fail` was given."""
        future: asyncio.Future[RelayMessageReceived] = asyncio.get_running_loop().create_future()
        waiter = (commands, future)
        self._waiters.append(waiter)
        try:
            return await future
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def deliver(self, message: RelayMessageReceived) -> bool:
        """Give ``message`` to whoever waits for it; False if nobody does."""
        for waiter in self._waiters:
            commands, future = waiter
            if message.command in commands and not future.done():
                future.set_result(message)
                self._waiters.remove(waiter)
                return True
        return False

    def reserve(self, command: int) -> None:
        """Keep one message of ``command`` that comes before somebody waits for it."""
        self._reserved.add(command)

    def keep(self, message: RelayMessageReceived) -> None:
        """Keep ``message`` for later. Raises ``ProtocolError`` if it was not reserved for."""
        if message.command not in self._reserved:
            raise ProtocolError(f"a message of command {message.command} came that nobody asked for")
        self._reserved.remove(message.command)
        self._unclaimed.append(message)

    def fail(self, error: CircuitError) -> None:
        """The circuit is closed: whoever waits gets an error like ``error``."""
        waiters, self._waiters = self._waiters, []
        for _, future in waiters:
            if not future.done():
                future.set_exception(CircuitError(str(error), error.reason))
