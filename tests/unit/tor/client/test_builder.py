"""Building hop by hop: what is recorded of relays and times, what happens to circuits that come late."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from pelure.errors import CircuitError, LinkError
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.client import builder as builders
from pelure.tor.client.builder import CircuitBuilder
from pelure.tor.directory.relay import Relay


def relay(number: int) -> Relay:
    return Relay(f"relay{number}", bytes([number]) * 20, None, None, (("127.0.0.1", number),))


PATH = [relay(1), relay(2), relay(3)]


class FakeCircuit:
    """Extends unless told to fail at a relay; waits for the gate before the last hop."""

    failing_at: Relay | None = None
    gate: asyncio.Event | None = None
    made: list[FakeCircuit]

    def __init__(self) -> None:
        self.hops: list[tuple[Relay, bool]] = []
        self.closed = asyncio.Event()

    @classmethod
    async def build(
        cls, links: object, path: Sequence[Relay], *, params: object, timeout: float, congestion_control: bool
    ) -> FakeCircuit:
        circuit = cls()
        cls.made.append(circuit)
        await circuit.extend(path[0], timeout=timeout, congestion_control=congestion_control)
        return circuit

    async def extend(self, relay: Relay, *, timeout: float, congestion_control: bool = True) -> None:
        if relay == self.failing_at:
            raise CircuitError("no")
        if self.gate is not None and len(self.hops) == 2:
            await self.gate.wait()
        self.hops.append((relay, congestion_control))

    def close(self) -> None:
        self.closed.set()


class Record:
    """Notes what it is told; also the learned times."""

    timeout = 30.0
    abandon = 60.0

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []
        self.usable = True
        self.times: list[float] = []
        self.late = 0
        self.reachable = True

    def guard_succeeded(self, relay: Relay, now: float, end: Relay) -> bool:
        self.notes.append(("guard ok", f"{relay.nickname} to {end.nickname}"))
        return self.usable

    def guard_failed(self, relay: Relay, now: float) -> None:
        self.notes.append(("guard failed", relay.nickname))

    def hop_succeeded(self, relay: Relay) -> None:
        self.notes.append(("ok", relay.nickname))

    def hop_failed(self, relay: Relay, now: float) -> None:
        self.notes.append(("failed", relay.nickname))

    def built(self, seconds: float) -> None:
        self.times.append(seconds)

    def timed_out(self) -> None:
        self.late += 1

    async def get(self, relay: Relay) -> None:
        """What a link manager does."""
        if not self.reachable:
            raise LinkError("unreachable")


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    class Circuit(FakeCircuit):
        made: list[FakeCircuit] = []  # noqa: RUF012 - a list for each test

    monkeypatch.setattr(builders, "Circuit", Circuit)
    return Record()


def make(record: Record) -> CircuitBuilder:
    return CircuitBuilder(cast(Any, record), record, record, CircuitParams)


def circuits() -> Any:
    return cast(Any, builders).Circuit


async def test_a_circuit_is_built_and_measured(record: Record) -> None:
    built = await make(record).build(PATH)
    # Congestion control is for the last hop only.
    assert cast(Any, built).hops == [(PATH[0], False), (PATH[1], False), (PATH[2], True)]
    assert record.notes == [("ok", "relay2"), ("ok", "relay3"), ("guard ok", "relay1 to relay3")]
    assert len(record.times) == 1


async def test_only_circuits_of_three_hops_teach(record: Record) -> None:
    await make(record).build([*PATH, relay(4)])
    await make(record).build(PATH[:1])
    assert record.times == []


async def test_who_failed_is_recorded(record: Record) -> None:
    record.reachable = False
    with pytest.raises(LinkError):
        await make(record).build(PATH)
    record.reachable = True
    for index in range(3):
        circuits().failing_at = PATH[index]
        with pytest.raises(CircuitError):
            await make(record).build(PATH)
    failures = [note for note in record.notes if "failed" in note[0]]
    assert failures == [
        ("guard failed", "relay1"),
        ("guard failed", "relay1"),
        ("failed", "relay2"),
        ("failed", "relay3"),
    ]
    assert all(circuit.closed.is_set() for circuit in circuits().made if circuit.hops)


async def test_a_circuit_through_a_worse_guard_is_not_used(record: Record) -> None:
    record.usable = False
    with pytest.raises(CircuitError, match="guard"):
        await make(record).build(PATH)
    assert circuits().made[0].closed.is_set()


async def test_a_late_circuit_is_measured_and_closed(record: Record) -> None:
    record.timeout = 0.0
    circuits().gate = asyncio.Event()
    builder = make(record)
    with pytest.raises(CircuitError, match="not built within"):
        await builder.build(PATH)
    assert (record.late, record.times) == (1, [])
    circuits().gate.set()
    async with asyncio.timeout(30):
        await circuits().made[0].closed.wait()
    assert len(record.times) == 1


async def test_closing_and_cancelling_leave_nothing_behind(record: Record) -> None:
    circuits().gate = asyncio.Event()
    builder = make(record)
    building = asyncio.ensure_future(builder.build(PATH))
    while not circuits().made:  # noqa: ASYNC110 - there is no event for the state of fakes
        await asyncio.sleep(0)
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    record.timeout = 0.0
    with pytest.raises(CircuitError):
        await builder.build(PATH)
    await builder.close()
    assert all(circuit.closed.is_set() for circuit in circuits().made if len(circuit.hops) == 2)
