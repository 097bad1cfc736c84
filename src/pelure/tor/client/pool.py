"""The client's circuits: kept ready, chosen for streams, isolated from each other (path-spec 2.1, 2.2, 2.3).

Exit circuits are shared by streams of one *isolation* token (any hashable: who asks, with what credentials)
until they are ten minutes old. Internal circuits are for one user alone: they are given out as they are, or
extended to the relay asked for (*cannibalised*), which is what saves the waiting.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Collection, Hashable
from typing import Protocol

from pelure.errors import PathError
from pelure.tor.client.builder import CircuitBuilder
from pelure.tor.client.demand import EXITS_PER_PORT, Demand
from pelure.tor.client.pooled import PooledCircuit, Race
from pelure.tor.directory.relay import Relay
from pelure.tor.net.origin import Circuit
from pelure.tor.net.supervision import supervised
from pelure.tor.path.selection import GUARD_MAY_RETURN_AT

log = logging.getLogger(__name__)

MAX_DIRTINESS = 600.0
"""Seconds after its first stream for which an exit circuit takes new ones."""
UNUSED_LIFETIME = 1800.0
"""Seconds for which an unused circuit is kept."""
MAX_IDLE_EXITS = 64
"""So many exit circuits that were used and have no streams are kept, however many owners there are."""
MAINTAIN_SECONDS = 10.0
MAX_BUILDING = 8
"""Circuits built ahead of use at a time; those that somebody waits for don't count."""
REFILL_SECONDS = 0.5
"""So long after a circuit was taken or lost others are built ahead: that holds up nobody who uses it."""
PRUNE_MIN = 64
RETRY_FIRST, RETRY_MAX = 1.0, 60.0


class Paths(Protocol):
    """Path selection on the current directory; raises ``PathError`` where nothing fits."""

    def exit_path(self, port: int, ip: str | None = None, *, exclude: Collection[Relay] = ()) -> list[Relay]:
        """A path whose last relay allows streams to ``port`` (of ``ip``)."""
        ...

    def internal_path(
        self, length: int, last: Relay | None = None, *, exclude: Collection[Relay] = ()
    ) -> list[Relay]:
        """A path of ``length`` relays without an exit, to ``last`` if given."""
        ...


def _allows(relay: Relay, host: str, port: int) -> bool:
    return (relay.exit_policy6 if ":" in host else relay.exit_policy).allows(port)


class CircuitPool:
    """See the module. Implements ``net.circuit_source.CircuitSource``."""

    def __init__(
        self, builder: CircuitBuilder, paths: Callable[[], Paths], demand: Demand, *, extra_hops: int = 0
    ) -> None:
        """``paths`` gives the path selection of the directory as it is now.

        ``extra_hops``: how much longer than asked for internal circuits are (1 with full vanguards).
        """
        self._extra_hops = extra_hops
        self._builder = builder
        self._paths = paths
        self._demand = demand
        self._loop = asyncio.get_running_loop()
        self._exits: list[PooledCircuit] = []
        self._stock: list[PooledCircuit] = []
        self._given: list[PooledCircuit] = []
        self._prune_at = PRUNE_MIN
        self.first_built = asyncio.Event()
        """Set once any circuit was built: the network can be used."""
        self._wake = asyncio.Event()
        self._refill: asyncio.TimerHandle | None = None
        self._retry_at = 0.0
        self._retry_delay = RETRY_FIRST
        self._maintainer = asyncio.create_task(supervised(self._maintain, "the building of circuits ahead"))

    # ---- exits ----

    async def exit_circuit(
        self, host: str, port: int, isolation: Hashable, *, exclude: Collection[Relay] = ()
    ) -> Circuit:
        """A circuit for a stream to ``host``:``port``, shared with streams of the same ``isolation`` only.

        ``exclude``: exits that failed this stream. Raises ``CircuitError``, ``LinkError``, ``PathError``.
        """
        self._demand.exit_used(port, self._loop.time())
        tried: list[PooledCircuit] = []

        def begin() -> PooledCircuit:
            entry = self._find_exit(host, port, isolation, exclude, tried)
            if entry is None:
                path = self._paths().exit_path(port, _ip_or_none(host), exclude=exclude)
                entry = self._begin(path, "exit")
                self._exits.append(entry)
            entry.isolation = isolation
            entry.used_at = entry.used_at or self._loop.time()
            tried.append(entry)
            self._refill_later()
            return entry

        return await Race(begin).run()

    def _find_exit(
        self,
        host: str,
        port: int,
        isolation: Hashable,
        exclude: Collection[Relay],
        tried: Collection[PooledCircuit],
    ) -> PooledCircuit | None:
        """The best circuit that fits: built before unbuilt, the same owner's before an unused one."""
        now = self._loop.time()
        fitting = [
            entry
            for entry in self._exits
            if entry.alive
            and entry not in tried
            and entry.isolation in (None, isolation)
            and (entry.used_at is None or now - entry.used_at < MAX_DIRTINESS)
            and entry.path[-1] not in exclude
            and _allows(entry.path[-1], host, port)
        ]
        return max(
            fitting,
            key=lambda entry: (entry.circuit is not None, entry.isolation is not None, entry.created),
            default=None,
        )

    # ---- internal circuits ----

    async def internal_circuit(
        self, last: Relay | None, *, length: int, purpose: str, exclude: Collection[Relay] = ()
    ) -> Circuit:
        """See ``CircuitSource``."""
        length += self._extra_hops
        self._demand.internal_used(length if last is None else length - 1, self._loop.time())

        def begin() -> PooledCircuit:
            entry = self._take_stock(last, length, exclude)
            if entry is None:
                entry = self._begin(self._paths().internal_path(length, last, exclude=exclude), purpose)
            elif last is not None:
                entry = self._begin_extending(entry, last)
            entry.purpose = purpose
            self._give(entry)
            self._refill_later()
            return entry

        return await Race(begin, _close_when_built).run()

    def _give(self, entry: PooledCircuit) -> None:
        """Keep a circuit of somebody else's in mind, for listings; forget closed ones now and then."""
        if len(self._given) >= self._prune_at:
            self._given = [one for one in self._given if one.alive]
            self._prune_at = max(2 * len(self._given), PRUNE_MIN)
        self._given.append(entry)

    def _take_stock(
        self, last: Relay | None, length: int, exclude: Collection[Relay]
    ) -> PooledCircuit | None:
        """Take a ready circuit of the right length that ``last`` can be added to, or whose end will do."""
        wanted = length if last is None else length - 1
        first = int(length > GUARD_MAY_RETURN_AT)
        for entry in self._stock:
            if entry.circuit is None or len(entry.path) != wanted or last in entry.path[first:]:
                continue
            if last is not None or entry.path[-1] not in exclude:
                self._stock.remove(entry)
                return entry
        return None

    # ---- building ----

    def _begin(self, path: list[Relay], purpose: str) -> PooledCircuit:
        task = asyncio.ensure_future(self._builder.build(path))
        task.add_done_callback(self._settled)
        return PooledCircuit(path, purpose, self._loop.time(), task)

    def _settled(self, task: asyncio.Task[Circuit]) -> None:
        """Look again what is missing when a circuit failed, and when it closes."""
        if task.cancelled() or task.exception() is not None:
            self._refill_later()
        else:
            self.first_built.set()
            task.result().on_closed = lambda _: self._refill_later()

    def _begin_extending(self, stock: PooledCircuit, last: Relay) -> PooledCircuit:
        """``stock``, a ready circuit, with ``last`` at its end."""

        async def extend() -> Circuit:
            circuit = stock.ready.result()
            await self._builder.extend(circuit, last)
            return circuit

        task = asyncio.ensure_future(extend())
        task.add_done_callback(self._settled)
        return PooledCircuit([*stock.path, last], stock.purpose, stock.created, task)

    # ---- keeping circuits ready ----

    async def _maintain(self) -> None:
        while True:
            self._wake.clear()
            now = self._loop.time()
            self._expire(now)
            if now >= self._retry_at:
                self._stock_up(now)
            try:
                async with asyncio.timeout(MAINTAIN_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _refill_later(self) -> None:
        """Look what is missing, a moment from now."""
        if self._refill is None:
            self._refill = self._loop.call_later(REFILL_SECONDS, self._refill_now)

    def _refill_now(self) -> None:
        self._refill = None
        self._wake.set()

    def _expire(self, now: float) -> None:
        """Close what is too old, and the oldest of too many used exit circuits without streams."""
        used = [entry for entry in self._exits if entry.used_at is not None and _is_idle(entry)]
        surplus = set(used[: max(len(used) - MAX_IDLE_EXITS, 0)])
        for entry in self._exits:
            lifetime = UNUSED_LIFETIME if entry.used_at is None else MAX_DIRTINESS
            age = now - (entry.created if entry.used_at is None else entry.used_at)
            if _is_idle(entry) and (age > lifetime or entry in surplus):
                assert entry.circuit is not None
                entry.circuit.close()
        for entry in self._stock:
            if entry.circuit is not None and now - entry.created > UNUSED_LIFETIME:
                entry.circuit.close()
        for entries in (self._exits, self._stock):
            entries[:] = [entry for entry in entries if entry.alive]

    def _stock_up(self, now: float) -> None:
        """Begin the circuits that are missing, a few at a time."""
        try:
            while self._building() < MAX_BUILDING and (missing := self._missing(now)) is not None:
                path, purpose, entries = missing
                entry = self._begin(path, purpose)
                entry.ready.add_done_callback(self._built_ahead)
                entries.append(entry)
        except PathError as error:
            log.info("no circuits are built ahead: %s", error)
            self._back_off(now)

    def _building(self) -> int:
        unfinished = [entry for entry in (*self._exits, *self._stock) if not entry.ready.done()]
        return sum(not entry.waiting for entry in unfinished)

    def _missing(self, now: float) -> tuple[list[Relay], str, list[PooledCircuit]] | None:
        """The path of a circuit that should be there and isn't, its purpose and where to keep it."""
        for port in self._demand.ports(now):
            unused = [e for e in self._exits if e.isolation is None and _allows(e.path[-1], "", port)]
            if len(unused) < EXITS_PER_PORT:
                try:
                    return self._paths().exit_path(port), "exit", self._exits
                except PathError:
                    continue  # no exit for this port; others may have one
        for length, wanted in self._demand.internal(now).items():
            if sum(len(entry.path) == length for entry in self._stock) < wanted:
                return self._paths().internal_path(length), "ready", self._stock
        return None

    def _built_ahead(self, task: asyncio.Task[Circuit]) -> None:
        """A circuit that nobody asked for was built or failed; failures make the next wait longer."""
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._retry_delay, self._retry_at = RETRY_FIRST, 0.0
            self._wake.set()
        else:
            log.info("a circuit built ahead failed: %s", error)
            self._back_off(self._loop.time())

    def _back_off(self, now: float) -> None:
        if now >= self._retry_at:
            self._retry_at = now + self._retry_delay
            self._loop.call_later(self._retry_delay, self._wake.set)
            self._retry_delay = min(self._retry_delay * 2, RETRY_MAX)

    # ---- for others ----

    def circuits(self) -> list[PooledCircuit]:
        """Every circuit that is open or being built, for ``netstat``."""
        return [entry for entry in (*self._exits, *self._stock, *self._given) if entry.alive]

    def network_changed(self) -> None:
        """The directory or the network came back: try again at once."""
        self._retry_at, self._retry_delay = 0.0, RETRY_FIRST
        self._wake.set()

    async def close(self) -> None:
        """Close every circuit and stop building; idempotent."""
        self._maintainer.cancel()
        if self._refill is not None:
            self._refill.cancel()
        entries = [*self._exits, *self._stock, *self._given]
        for entry in entries:
            if entry.circuit is not None:
                entry.circuit.close()
            entry.ready.cancel()
        tasks = [self._maintainer, *(entry.ready for entry in entries)]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._builder.close()


def _is_idle(entry: PooledCircuit) -> bool:
    """Built, without streams, and nobody is about to open one."""
    return entry.circuit is not None and not entry.circuit.streams and not entry.waiting


def _close_when_built(entry: PooledCircuit) -> None:
    """Nobody waits for this circuit any more."""

    def close(task: asyncio.Task[Circuit]) -> None:
        if entry.circuit is not None:
            entry.circuit.close()

    entry.ready.add_done_callback(close)


def _ip_or_none(host: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None
