"""The circuits of one link by their ids, and whose it is to choose which id (tor-spec 5.1.1)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from pelure.tor.cell.commands import CIRC_ID_HIGH_BIT
from pelure.tor.cell.framing import Cell, Run


class CircuitHandler(Protocol):
    """What a link calls for one circuit; none of it may raise or block."""

    def handle(self, item: Cell | Run) -> None:
        """Cells came; a run's array may be kept and changed."""

    def link_closed(self, reason: str) -> None:
        """The link is gone, and the circuit with it."""

    def writable(self) -> None:
        """The circuit's queue on this link, congested before, has emptied."""


class CircuitTable:
    """Handlers by circuit id. ``idle_since``: when the last circuit went, None while there are any."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._handlers: dict[int, CircuitHandler] = {}
        self._high_bit = CIRC_ID_HIGH_BIT
        self._high_is_ours = False
        self._peer_takes_any = False
        self.idle_since: float | None = clock()

    def __len__(self) -> int:
        return len(self._handlers)

    def divide(self, high_bit: int, *, high_is_ours: bool, peer_takes_any: bool) -> None:
        """Say which ids are whose, as the handshake found.

        ``high_bit``: the highest bit of an id on this link. ``high_is_ours``: the ids that have it set are
        this side's, the rest the peer's. ``peer_takes_any``: the peer is bound to no half.
        """
        self._high_bit = high_bit
        self._high_is_ours = high_is_ours
        self._peer_takes_any = peer_takes_any

    def unused_id(self, taken: Callable[[int], object]) -> int | None:
        """An unused id of this side's half, None if too few are left to find one by trying.

        ``taken`` says whether an id that has no handler must not be used yet.
        """
        while len(self._handlers) < self._high_bit // 2:
            circ_id = int.from_bytes(os.urandom(4), "big") % self._high_bit
            if self._high_is_ours:
                circ_id |= self._high_bit
            if circ_id and circ_id not in self._handlers and not taken(circ_id):
                return circ_id
        return None

    def peer_may_choose(self, circ_id: int) -> bool:
        """Whether the peer may open a circuit with this id; 0 is never a circuit."""
        if circ_id == 0:
            return False
        return self._peer_takes_any or bool(circ_id & self._high_bit) != self._high_is_ours

    def get(self, circ_id: int) -> CircuitHandler | None:
        """The handler of the circuit ``circ_id``, None if there is no such circuit."""
        return self._handlers.get(circ_id)

    def add(self, circ_id: int, handler: CircuitHandler) -> None:
        """Give ``handler`` the circuit ``circ_id``, whoever had it before."""
        self._handlers[circ_id] = handler
        self.idle_since = None

    def remove(self, circ_id: int) -> None:
        """Forget a circuit. Idempotent."""
        self._handlers.pop(circ_id, None)
        if not self._handlers and self.idle_since is None:
            self.idle_since = self._clock()

    def clear(self) -> list[CircuitHandler]:
        """Forget all circuits; returns their handlers."""
        handlers = list(self._handlers.values())
        self._handlers.clear()
        return handlers
