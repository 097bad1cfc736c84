"""Link protocol 3: narrow cells widened, however the bytes are cut."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.tor.cell.commands import CellCommand
from pelure.tor.cell.framing import Cell, Run, encode
from pelure.tor.net.narrow import NarrowReader

CELLS = st.one_of(
    st.builds(
        Cell,
        st.integers(0, 0xFFFF),
        st.sampled_from([CellCommand.CREATE2, CellCommand.DESTROY, CellCommand.RELAY]),
        st.binary(min_size=509, max_size=509),
    ),
    st.builds(
        Cell,
        st.integers(0, 0xFFFF),
        st.sampled_from([CellCommand.VPADDING, CellCommand.CERTS]),
        st.binary(max_size=700),
    ),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(CELLS, max_size=8), st.integers(1, 900))
def test_cells_arrive_as_they_were_sent(cells: list[Cell], step: int) -> None:
    wire = b"".join(encode(cell, wide=False) for cell in cells)
    reader = NarrowReader(wire[:step])
    got: list[Cell] = []
    for item in [*reader.feed(b""), *_feed(reader, wire[step:], step)]:
        if isinstance(item, Run):
            got += [Cell(item.circ_id, CellCommand.RELAY, row[5:].tobytes()) for row in item.cells]
        else:
            got.append(item)
    assert got == cells


def _feed(reader: NarrowReader, data: bytes, step: int) -> list[Cell | Run]:
    items: list[Cell | Run] = []
    for start in range(0, len(data), step):
        items += reader.feed(data[start : start + step])
    return items
