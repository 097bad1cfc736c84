"""Fair queues of cells and the state folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ConfigError
from pelure.tor.net.queues import HIGH_WATER, LOW_WATER, QUANTUM, CellQueues
from pelure.tor.net.statefile import StateFolder
from unit.tor.net.support import FullDisk


def cells(circ_id: int, first: int, count: int) -> np.ndarray:
    run = np.zeros((count, 514), np.uint8)
    run[:, 0] = circ_id
    run[:, 1] = np.arange(first, first + count) % 256
    return run


def taken(queues: CellQueues, limit: int) -> list[tuple[int, int]]:
    """(circuit, number) of each cell in the order in which they leave."""
    buffers, _ = queues.take(limit)
    rows = [row for buffer in buffers for row in np.asarray(buffer).reshape(-1, 514)]
    return [(int(row[0]), int(row[1])) for row in rows]


def test_circuits_take_turns() -> None:
    queues = CellQueues()
    queues.put(1, cells(1, 0, 300), 300, 0.0)
    queues.put(2, cells(2, 0, 300), 300, 0.0)
    order = [circ_id for circ_id, _ in taken(queues, 4 * QUANTUM)]
    assert order == [1] * QUANTUM + [2] * QUANTUM + [1] * QUANTUM + [2] * QUANTUM


def test_a_quiet_circuit_goes_before_busy_ones() -> None:
    queues = CellQueues()
    queues.put(1, cells(1, 0, 500), 500, 0.0)
    taken(queues, QUANTUM)
    queues.put(2, cells(2, 0, 1), 1, 0.0)
    assert taken(queues, 2)[0] == (2, 0)


def test_congestion_is_told_once_and_relieved_once() -> None:
    queues = CellQueues()
    assert not queues.put(1, cells(1, 0, HIGH_WATER - 1), HIGH_WATER - 1, 0.0)
    assert queues.put(1, cells(1, 0, 1), 1, 0.0)
    assert queues.take(HIGH_WATER - LOW_WATER - 1)[1] == []
    assert queues.take(1)[1] == [1]
    assert queues.take(LOW_WATER)[1] == []
    assert queues.cells == 0 and queues.queued(1) == 0 and queues.oldest(1) is None


def test_dropping_a_circuit_leaves_the_others() -> None:
    queues = CellQueues()
    queues.put(1, cells(1, 0, 5), 5, 3.0)
    queues.put(2, cells(2, 0, 5), 5, 4.0)
    assert queues.oldest(1) == 3.0 and queues.waiting() == [1, 2]
    assert queues.drop(1) == 5 and queues.drop(1) == 0 and queues.cells == 5
    assert taken(queues, 100) == [(2, number) for number in range(5)]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.one_of(st.tuples(st.just("put"), st.integers(1, 4), st.integers(1, 200)),
                  st.tuples(st.just("take"), st.integers(1, 300), st.just(0))),
        max_size=40,
    )
)  # fmt: skip
def test_each_circuits_cells_leave_once_and_in_order(steps: list[tuple[str, int, int]]) -> None:
    queues = CellQueues()
    put = dict.fromkeys(range(1, 5), 0)
    seen: dict[int, list[int]] = {circ_id: [] for circ_id in put}

    def check(limit: int) -> None:
        for circ_id, number in taken(queues, limit):
            seen[circ_id].append(number)

    for what, one, two in steps:
        if what == "put":
            queues.put(one, cells(one, put[one], two), two, 0.0)
            put[one] += two
        else:
            check(one)
    check(1 << 30)
    assert queues.cells == 0
    for circ_id, count in put.items():
        assert seen[circ_id] == [number % 256 for number in range(count)]


def test_a_state_folder_is_locked_and_private(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "deep" / "state"
    with StateFolder(path) as state:
        assert state.path.stat().st_mode & 0o777 == 0o700
        with pytest.raises(ConfigError, match="in use"):
            StateFolder(path)
        assert state.read("missing") is None and state.read_json("missing") is None
        state.write_json("guards.json", {"a": [1, 2]})
        assert state.read_json("guards.json") == {"a": [1, 2]}
        assert not caplog.records
        assert (path / "guards.json").stat().st_mode & 0o777 == 0o600
        state.write("guards.json", b"{ damaged")
        assert state.read_json("guards.json") is None
        assert ["guards.json" in record.getMessage() for record in caplog.records] == [True]
        assert sorted(os.listdir(path)) == ["guards.json", "lock"]
    StateFolder(path).close()


def test_a_full_disk_costs_nothing_but_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full_disk = FullDisk(monkeypatch)
    with StateFolder(tmp_path / "state") as state:
        assert state.write("guards.json", b"old")
        full_disk.is_full = True
        assert not state.write("guards.json", b"new") and not state.write("guards.json", b"newer")
        assert state.read("guards.json") == b"old"
        assert sorted(os.listdir(state.path)) == ["guards.json", "lock"]  # no half-written file stays
        assert [record.getMessage() for record in caplog.records] == [
            f"Can't save guards.json in {state.path}: No space left on device. What was there is kept."
        ]
        full_disk.is_full = False
        assert state.write("guards.json", b"new") and state.read("guards.json") == b"new"


def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        StateFolder(tmp_path / "file" / "state")
