"""Cutting a link's bytes into cells and runs (tor-spec 3)."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ProtocolError
from pelure.tor.cell.commands import CELL_LEN, PAYLOAD_LEN, CellCommand, is_variable
from pelure.tor.cell.framing import FEW, Cell, CellReader, Run, encode

FILL = random.Random(3).randbytes(PAYLOAD_LEN)


def flatten(items: list[Cell | Run]) -> list[Cell]:
    """The single cells of a list of cells and runs."""
    cells = []
    for item in items:
        if isinstance(item, Cell):
            cells.append(item)
        else:
            rows = [bytes(row) for row in item.cells]
            assert {int.from_bytes(row[:4], "big") for row in rows} == {item.circ_id}
            cells += [Cell(item.circ_id, row[4], row[5:]) for row in rows]
    return cells


@st.composite
def cells(draw: st.DrawFn) -> Cell:
    command = draw(st.sampled_from([*CellCommand, 3, 3, 3, 3, 9, 200, 60]))
    length = draw(st.integers(0, 40)) if is_variable(command) else PAYLOAD_LEN
    return Cell(draw(st.integers(0, 3)) * 0x40000001, int(command), FILL[:length])


@settings(deadline=None, max_examples=100)
@given(st.lists(cells(), max_size=30), st.lists(st.integers(1, 2000), max_size=20))
def test_any_cells_in_any_chunks(sent: list[Cell], cuts: list[int]) -> None:
    stream = b"".join(encode(cell) for cell in sent)
    reader, items, position = CellReader(), list[Cell | Run](), 0
    for size in [*cuts, len(stream)]:
        items += reader.feed(stream[position : position + size])
        position += size
    assert flatten(items) == sent


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=3000))
def test_any_bytes_are_cells(data: bytes) -> None:
    items = CellReader().feed(data)
    assert data.startswith(b"".join(encode(cell) for cell in flatten(items)))


def relay(circ_id: int, command: int = CellCommand.RELAY) -> bytes:
    return encode(Cell(circ_id, command, FILL))


def test_relay_cells_of_one_circuit_become_one_writable_run() -> None:
    (run,) = CellReader().feed(relay(7) * 4 + relay(7, CellCommand.RELAY_EARLY) + relay(7)[:100])
    assert isinstance(run, Run)
    assert (run.circ_id, len(run), run.cells.shape) == (7, 5, (5, CELL_LEN))
    assert run.cells.dtype == np.uint8 and run.cells.flags.c_contiguous and run.cells.flags.writeable
    assert run.tobytes() == relay(7) * 4 + relay(7, CellCommand.RELAY_EARLY)


def test_runs_end_where_the_circuit_or_the_kind_changes() -> None:
    destroy = encode(Cell(8, CellCommand.DESTROY, b"\1"))
    padding = encode(Cell(0, CellCommand.VPADDING, b"xyz"))
    data = relay(7) * 5 + relay(8) * 9 + destroy + destroy + relay(8) * 6 + padding + relay(8) + relay(7) * 7
    shapes = [
        (item.circ_id, len(item) if isinstance(item, Run) else CellCommand(item.command).name)
        for item in CellReader().feed(data)
    ]
    assert shapes == [
        (7, 5),
        (8, 9),
        (8, "DESTROY"),
        (8, "DESTROY"),
        (8, 6),
        (0, "VPADDING"),
        (8, "RELAY"),
        (7, 7),
    ]


def test_few_cells_stay_single() -> None:
    for count in range(1, FEW + 1):
        assert CellReader().feed(relay(7) * count) == [Cell(7, CellCommand.RELAY, FILL)] * count
    items = CellReader().feed(relay(7) * FEW + relay(8) * (FEW + 1))
    assert [isinstance(item, Run) for item in items] == [False] * FEW + [True]


def test_the_reader_keeps_no_hold_on_what_it_was_fed() -> None:
    data = bytearray(relay(7) * 5 + relay(9)[:20])
    reader = CellReader()
    (run,) = reader.feed(data)
    data[:] = bytes(len(data))
    assert isinstance(run, Run) and run.tobytes() == relay(7) * 5
    assert flatten(reader.feed(relay(9)[20:])) == [Cell(9, CellCommand.RELAY, FILL)]


def test_set_circ_id_rewrites_every_header() -> None:
    (run,) = CellReader().feed(relay(7) * 5)
    assert isinstance(run, Run)
    run.set_circ_id(0x80000001)
    assert run.tobytes() == relay(0x80000001) * 5


def test_a_narrow_link_gives_versions_alone() -> None:
    versions = Cell(0, CellCommand.VERSIONS, b"\0\4\0\5")
    narrow = encode(versions, wide=False)
    stream = narrow + encode(Cell(0, CellCommand.CERTS, b"abc"))
    reader = CellReader(wide=False)
    assert [item for byte in narrow for item in reader.feed(bytes([byte]))] == [versions]

    reader = CellReader(wide=False)
    assert reader.feed(stream) == [versions]
    reader.wide = True
    assert reader.feed(b"") == [Cell(0, CellCommand.CERTS, b"abc")]


def test_a_narrow_link_refuses_anything_else() -> None:
    with pytest.raises(ProtocolError):
        CellReader(wide=False).feed(encode(Cell(0, CellCommand.NETINFO, b""), wide=False))


def test_bodies_that_do_not_fit_are_refused() -> None:
    for cell in (Cell(1, CellCommand.RELAY, bytes(510)), Cell(1, CellCommand.CERTS, bytes(65536))):
        with pytest.raises(ProtocolError):
            encode(cell)
