"""The pool's choices, with circuits that are built by fakes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from pelure.errors import CircuitError, PathError
from pelure.tor.client import pool as pools
from pelure.tor.client import pooled
from pelure.tor.client.demand import INTERNAL_MIN, Demand
from pelure.tor.client.pool import CircuitPool
from pelure.tor.directory.exit_policy import PortPolicy
from pelure.tor.directory.relay import Relay
from pelure.tor.net.origin import Circuit

PATIENCE = 30
WEB = PortPolicy.parse("accept 80,443")
SSH = PortPolicy.parse("accept 22")


def relay(number: int, policy: PortPolicy = WEB) -> Relay:
    identity = bytes([number]) * 20
    return Relay(f"relay{number}", identity, None, None, (("127.0.0.1", number),), exit_policy=policy)


GUARD, MIDDLE, THIRD, LAST = (relay(number) for number in range(1, 5))
EXITS = [relay(10), relay(11), relay(12, SSH)]


class FakeCircuit:
    """Enough of a circuit for the pool."""

    def __init__(self, path: Sequence[Relay]) -> None:
        self.path = list(path)
        self.closed = asyncio.Event()
        self.streams: list[object] = []
        self.on_closed: Callable[[object], None] | None = None

    def close(self) -> None:
        self.closed.set()
        if self.on_closed is not None:
            self.on_closed(self)


class FakeBuilder:
    """Builds at once, or fails, or waits for :attr:`gate`."""

    def __init__(self) -> None:
        self.built: list[FakeCircuit] = []
        self.begun = 0
        self.failures = 0
        self.extension_failures = 0
        self.gate: asyncio.Event | None = None
        self.cancelled = asyncio.Event()

    async def build(self, path: Sequence[Relay]) -> FakeCircuit:
        self.begun += 1
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if self.failures:
            self.failures -= 1
            raise CircuitError("no")
        circuit = FakeCircuit(path)
        self.built.append(circuit)
        return circuit

    async def extend(self, circuit: FakeCircuit, last: Relay) -> None:
        if self.extension_failures:
            self.extension_failures -= 1
            circuit.close()
            raise CircuitError("no")
        circuit.path.append(last)

    async def close(self) -> None:
        pass


class FakePaths:
    """The first exit that fits; internal paths along the same three relays."""

    def exit_path(self, port: int, ip: str | None = None, *, exclude: Collection[Relay] = ()) -> list[Relay]:
        for each in EXITS:
            if each.exit_policy.allows(port) and each not in exclude:
                return [GUARD, MIDDLE, each]
        raise PathError("no exit")

    def internal_path(
        self, length: int, last: Relay | None = None, *, exclude: Collection[Relay] = ()
    ) -> list[Relay]:
        path = [GUARD, MIDDLE, THIRD][: length if last is None else length - 1]
        return path if last is None else [*path, last]


@asynccontextmanager
async def pooled_circuits(
    ports: Sequence[int] = (), lengths: Sequence[int] = ()
) -> AsyncIterator[tuple[CircuitPool, FakeBuilder]]:
    builder = FakeBuilder()
    demand = Demand(asyncio.get_running_loop().time(), ports=ports, lengths=lengths)
    async with asyncio.timeout(PATIENCE):
        pool = CircuitPool(cast(Any, builder), FakePaths, demand)
        try:
            yield pool, builder
        finally:
            await pool.close()


def has_ready_exit(pool: CircuitPool) -> bool:
    """Whether an exit circuit is built that nobody uses."""
    return any(entry.circuit is not None and entry.isolation is None for entry in pool._exits)


async def settle(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until ``condition`` holds."""
    while not condition():  # noqa: ASYNC110 - there is no event for the state of fakes
        await asyncio.sleep(0)


async def test_streams_of_one_owner_share_and_others_do_not() -> None:
    async with pooled_circuits() as (pool, _):
        alice = await pool.exit_circuit("a.example", 80, "alice")
        assert await pool.exit_circuit("b.example", 443, "alice") is alice
        bob = await pool.exit_circuit("a.example", 80, "bob")
        assert bob is not alice
        assert await pool.exit_circuit("c.example", 80, "bob") is bob
        assert (await pool.exit_circuit("d.example", 22, "alice")).path[-1] == EXITS[2]


async def test_streams_that_come_together_wait_for_one_circuit() -> None:
    async with pooled_circuits() as (pool, builder):
        builder.gate = asyncio.Event()
        waiting = [asyncio.ensure_future(pool.exit_circuit("a.example", 80, "alice")) for _ in range(5)]
        await asyncio.sleep(0)
        builder.gate.set()
        assert len(set(await asyncio.gather(*waiting))) == 1


async def test_unused_exits_are_ready_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "REFILL_SECONDS", 0.0)
    async with pooled_circuits(ports=[80, 443]) as (pool, builder):
        await settle(lambda: has_ready_exit(pool) and len(builder.built) == 2)
        ready = list(builder.built)
        assert cast(object, await pool.exit_circuit("a.example", 80, "alice")) in ready
        await settle(lambda: len(builder.built) == 3)
        ready[0].close()
        ready[1].close()
        await settle(lambda: len(builder.built) == 4)


async def test_old_exits_take_no_new_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pooled_circuits() as (pool, _):
        old = await pool.exit_circuit("a.example", 80, "alice")
        monkeypatch.setattr(pools, "MAX_DIRTINESS", -1.0)
        assert await pool.exit_circuit("a.example", 80, "alice") is not old


async def test_idle_exits_of_many_owners_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "REFILL_SECONDS", 0.0)
    monkeypatch.setattr(pools, "MAX_IDLE_EXITS", 3)
    async with pooled_circuits() as (pool, builder):
        for owner in range(10):
            circuit = await pool.exit_circuit("a.example", 80, owner)
            if owner == 0:
                cast(Any, circuit).streams.append(object())
        await settle(lambda: sum(entry.used_at is not None for entry in pool.circuits()) == 4)
        assert not builder.built[0].closed.is_set()


async def test_exits_that_failed_a_stream_are_left_out() -> None:
    async with pooled_circuits() as (pool, _):
        first = await pool.exit_circuit("a.example", 80, "alice")
        second = await pool.exit_circuit("a.example", 80, "alice", exclude=[EXITS[0]])
        assert (first.path[-1], second.path[-1]) == (EXITS[0], EXITS[1])
        with pytest.raises(PathError):
            await pool.exit_circuit("a.example", 80, "alice", exclude=EXITS[:2])


@pytest.mark.parametrize(
    ("host", "ip"), [("1.2.3", None), ("1.2.3.4", "1.2.3.4"), ("::1", "::1"), ("7", None)]
)
async def test_only_addresses_are_taken_for_addresses(
    host: str, ip: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def exit_path(self: FakePaths, port: int, ip: str | None = None, *, exclude: object = ()) -> list[Relay]:
        asked.append(ip)
        return [GUARD, MIDDLE, EXITS[0]]

    monkeypatch.setattr(FakePaths, "exit_path", exit_path)
    async with pooled_circuits() as (pool, _):
        with contextlib.suppress(PathError):  # these exits take no IPv6
            await pool.exit_circuit(host, 80, "alice")
    assert asked[0] == ip  # circuits built ahead come later


async def test_failed_builds_are_tried_again_a_few_times() -> None:
    async with pooled_circuits() as (pool, builder):
        builder.failures = pooled.ATTEMPTS - 1
        assert (await pool.exit_circuit("a.example", 80, "alice")).path[-1] == EXITS[0]
        builder.failures = 100
        with pytest.raises(CircuitError):
            await pool.exit_circuit("a.example", 80, "bob")


async def test_internal_circuits_are_for_one_user_each() -> None:
    async with pooled_circuits() as (pool, _):
        circuits = [await pool.internal_circuit(None, length=3, purpose="rendezvous") for _ in range(3)]
        assert len(set(circuits)) == 3
        assert [entry.purpose for entry in pool.circuits() if entry.circuit in circuits] == ["rendezvous"] * 3


async def test_ready_circuits_are_extended_to_the_last_relay() -> None:
    async with pooled_circuits(lengths=[3]) as (pool, builder):
        await settle(lambda: len(builder.built) == INTERNAL_MIN)
        ready = list(builder.built)
        circuit = await pool.internal_circuit(LAST, length=4, purpose="intro")
        assert cast(object, circuit) in ready
        assert circuit.path == [GUARD, MIDDLE, THIRD, LAST]
        # One that already holds the last relay does not do.
        other: Circuit = await pool.internal_circuit(THIRD, length=4, purpose="hsdir")
        assert cast(object, other) not in ready
        # The guard may, three hops on.
        assert cast(object, await pool.internal_circuit(GUARD, length=4, purpose="hsdir")) in ready


async def test_a_ready_circuit_that_ends_where_it_shall_not_does_not_do() -> None:
    async with pooled_circuits(lengths=[3]) as (pool, builder):
        await settle(lambda: len(builder.built) == INTERNAL_MIN)
        ready = list(builder.built)
        other: Circuit = await pool.internal_circuit(None, length=3, purpose="intro", exclude=[THIRD])
        assert cast(object, other) not in ready
        fine = await pool.internal_circuit(None, length=3, purpose="intro", exclude=[GUARD, MIDDLE])
        assert cast(object, fine) in ready


async def test_a_failed_extension_takes_another_circuit() -> None:
    async with pooled_circuits(lengths=[3]) as (pool, builder):
        await settle(lambda: len(builder.built) == INTERNAL_MIN)
        builder.extension_failures = 2
        circuit = await pool.internal_circuit(LAST, length=4, purpose="intro")
        assert circuit.path[-1] == LAST and not circuit.closed.is_set()


async def slow_then_quick(
    builder: FakeBuilder, asking: asyncio.Future[Circuit]
) -> tuple[Circuit, FakeCircuit]:
    """Let the first circuit that ``asking`` begins be slow: what it got, and the slow one, built."""
    gate = builder.gate = asyncio.Event()
    await settle(lambda: builder.begun > 0)
    builder.gate = None
    circuit = await asking
    before = len(builder.built)
    gate.set()
    await settle(lambda: len(builder.built) > before)
    return circuit, builder.built[before]


async def test_a_slow_exit_circuit_gets_a_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled, "RIVAL_SECONDS", 0.01)
    async with pooled_circuits() as (pool, builder):
        asking = asyncio.ensure_future(pool.exit_circuit("a.example", 80, "alice"))
        circuit, late = await slow_then_quick(builder, asking)
        assert not circuit.closed.is_set() and not late.closed.is_set()  # both can be used later


async def test_a_slow_internal_circuit_gets_a_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled, "RIVAL_SECONDS", 0.01)
    async with pooled_circuits() as (pool, builder):
        asking = asyncio.ensure_future(pool.internal_circuit(LAST, length=3, purpose="intro"))
        circuit, late = await slow_then_quick(builder, asking)
        await late.closed.wait()  # it is of no use to anybody else
        assert not circuit.closed.is_set()


async def test_giving_up_stops_the_building() -> None:
    async with pooled_circuits() as (pool, builder):
        builder.gate = asyncio.Event()
        waiting = asyncio.ensure_future(pool.internal_circuit(LAST, length=3, purpose="intro"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        await builder.cancelled.wait()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_failures_of_circuits_built_ahead_back_off() -> None:
    async with pooled_circuits(ports=[80]) as (pool, builder):
        builder.failures = 1000
        await settle(lambda: builder.failures < 1000)
        for _ in range(50):
            await asyncio.sleep(0)
        assert builder.failures > 1000 - 2 * pools.MAX_BUILDING
        builder.failures = 0
        pool.network_changed()
        await settle(lambda: has_ready_exit(pool))


async def test_no_exit_for_a_predicted_port_stops_nothing() -> None:
    async with pooled_circuits(ports=[6667, 80]) as (pool, _):
        await settle(lambda: has_ready_exit(pool))
