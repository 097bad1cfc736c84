"""What waits in streams is bounded: the circuits with most of it go first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from pelure.errors import CircuitError
from pelure.tor.cell.commands import DestroyReason
from pelure.tor.client.memory import relieve


class FakeCircuit:
    """A circuit whose streams have so many bytes waiting each."""

    def __init__(self, *sizes: int) -> None:
        self.streams = [SimpleNamespace(endpoint=SimpleNamespace(buffered=n - 1, pending=1)) for n in sizes]
        self.error: CircuitError | None = None

    def give_up(self, error: CircuitError) -> None:
        self.error = error


def test_the_largest_go_first_and_no_more_than_needed() -> None:
    small, many, one, idle = FakeCircuit(10, 10), FakeCircuit(*[100] * 9), FakeCircuit(700), FakeCircuit()
    circuits = cast(Any, [small, many, one, idle])
    assert relieve(circuits, 1620) == 0 and many.error is None
    assert relieve(circuits, 1619) == 1
    assert many.error is not None and many.error.reason == DestroyReason.RESOURCELIMIT
    assert (small.error, one.error, idle.error) == (None, None, None)
    assert relieve(cast(Any, [small, one]), 19) == 2
