"""Ids of circuits on a link (tor-spec 5.1.1): each side opens circuits in its own half."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from pelure.tor.cell.commands import CIRC_ID_HIGH_BIT
from pelure.tor.net.circuit_table import CircuitHandler, CircuitTable

if TYPE_CHECKING:
    from collections.abc import Callable

NARROW_HIGH_BIT = 0x8000


def handler() -> CircuitHandler:
    return cast(CircuitHandler, object())


@pytest.fixture
def table() -> CircuitTable:
    return CircuitTable(lambda: 7.0)


@pytest.mark.parametrize("high_bit", [CIRC_ID_HIGH_BIT, NARROW_HIGH_BIT])
@pytest.mark.parametrize("high_is_ours", [True, False])
def test_own_ids_and_the_peers_are_in_different_halves(
    table: CircuitTable, high_bit: int, high_is_ours: bool
) -> None:
    table.divide(high_bit, high_is_ours=high_is_ours, peer_takes_any=False)
    for _ in range(50):
        circ_id = table.unused_id(lambda _: False)
        assert circ_id and circ_id < 2 * high_bit
        assert bool(circ_id & high_bit) == high_is_ours
        assert not table.peer_may_choose(circ_id)
        assert table.peer_may_choose(circ_id ^ high_bit) == (circ_id != high_bit)


def test_a_peer_without_a_key_may_take_any_id_but_0(table: CircuitTable) -> None:
    table.divide(NARROW_HIGH_BIT, high_is_ours=True, peer_takes_any=True)
    assert table.peer_may_choose(1) and table.peer_may_choose(NARROW_HIGH_BIT | 1)
    assert not table.peer_may_choose(0)


def used_up_to(count: int) -> Callable[[int], bool]:
    """Whether an id is taken: each of the first ``count`` that are tried."""
    tried: list[int] = []

    def taken(circ_id: int) -> bool:
        tried.append(circ_id)
        return len(tried) <= count

    return taken


def test_an_id_that_is_taken_is_passed_over(table: CircuitTable) -> None:
    table.divide(4, high_is_ours=False, peer_takes_any=False)  # ids 1 to 3
    assert table.unused_id(used_up_to(20)) in {1, 2, 3}
    assert all(table.unused_id(lambda circ_id: circ_id != 3) == 3 for _ in range(20))
    table.add(2, handler())
    assert all(table.unused_id(lambda _: False) in {1, 3} for _ in range(20))
    table.add(1, handler())
    assert table.unused_id(lambda _: False) is None  # half of the ids are in use


def test_idle_since_the_last_circuit_went() -> None:
    now = [1.0]
    table = CircuitTable(lambda: now[0])
    assert table.idle_since == 1.0
    first, second = handler(), handler()
    table.add(1, first)
    table.add(2, second)
    now[0] = 2.0
    table.remove(1)
    assert (table.idle_since, len(table), table.get(1), table.get(2)) == (None, 1, None, second)
    table.remove(2)
    now[0] = 3.0
    table.remove(2)
    assert table.idle_since == 2.0
    table.add(1, first)
    assert table.clear() == [first] and len(table) == 0
