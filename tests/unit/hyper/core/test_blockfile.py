"""The block file: what is appended can be read at once; what could not be written is tried again."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from pelure.hyper.core import blockfile
from pelure.hyper.core.blockfile import BlockFile


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is appended written often."""
    monkeypatch.setattr(blockfile, "_TAIL_BYTES", 20_000)
    monkeypatch.setattr(blockfile, "_TAIL_BLOCKS", 6)


@pytest.mark.usefixtures("small_pieces")
def test_appended_and_placed_blocks_read_back(tmp_path: Path) -> None:
    chance = random.Random(1)
    file = BlockFile(tmp_path / "blocks", 0)
    blocks: dict[int, bytes] = {}
    for number in range(2000):
        data = chance.randbytes(chance.randrange(1, 5000))
        if number % 7 == 0:  # as an import does: a gap among what is appended
            position = file.reserve(len(data))
            file.write(position, data)
        else:
            position = file.append(data)
        blocks[position] = data
        if number % 5 == 0:
            position = chance.choice(list(blocks))
            assert file.read(position, len(blocks[position])) == blocks[position]
        if number % 100 == 0:
            file.sync()
            assert not file.dirty
    file.sync()
    for position, data in blocks.items():
        assert file.read(position, len(data)) == data
    end = file.end
    file.close()
    assert os.path.getsize(tmp_path / "blocks") == end


def test_what_was_read_ahead_is_read_anew_once_it_is_written(tmp_path: Path) -> None:
    file = BlockFile(tmp_path / "blocks", 0)
    first, late, last = b"a" * 4000, b"b" * 4000, b"c" * 4000
    file.append(first)
    file.sync()
    gap = file.reserve(4000)
    waiting = file.append(last)
    beyond = file.reserve(4000)
    file.write(beyond, late)
    assert file.read(0, 2000) + file.read(2000, 2000) == first  # and, ahead, what is not written yet
    assert file.read(gap, 4000) == bytes(4000)
    file.write(gap, late)
    assert [file.read(position, 4000) for position in (gap, waiting, beyond)] == [late, last, late]
    file.close()


@pytest.mark.parametrize("readers", [2, 4, 6])
def test_readers_at_once_get_what_each_reads(
    readers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockfile, "_AHEAD_BYTES", 5000)
    data = random.Random(2).randbytes(60_000)
    file = BlockFile(tmp_path / "blocks", 0)
    file.append(data)
    for step in range(0, 20_000, 1000):
        for position in range(step, step + 7000 * readers, 7000):
            assert file.read(position, 1000) == data[position : position + 1000]
    file.close()


@pytest.mark.usefixtures("small_pieces")
def test_what_could_not_be_written_is_written_by_the_next_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = BlockFile(tmp_path / "blocks", 0)
    full = True
    write = os.pwritev

    def pwritev(fd: int, parts: Iterable[bytes], position: int, flags: int = 0) -> int:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, list(parts)[:1], position, flags)  # less than was asked for, too

    monkeypatch.setattr(os, "pwritev", pwritev)
    blocks = [bytes([number]) * 4000 for number in range(4)]
    positions = [file.append(block) for block in blocks]
    with pytest.raises(OSError, match="No space left"):
        file.sync()
    assert file.dirty
    full = False
    file.sync()
    assert [file.read(position, 4000) for position in positions] == blocks
    file.close()


@pytest.mark.usefixtures("small_pieces")
def test_a_system_that_can_not_pass_its_cache_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, read = os.pwritev, os.preadv

    def pwritev(fd: int, parts: Sequence[bytes], position: int, flags: int = 0) -> int:
        if flags:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return write(fd, parts, position)

    def preadv(fd: int, parts: Sequence[bytearray], position: int, flags: int = 0) -> int:
        if flags:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return read(fd, parts, position)

    monkeypatch.setattr(os, "pwritev", pwritev)
    monkeypatch.setattr(os, "preadv", preadv)
    file = BlockFile(tmp_path / "blocks", 0)
    positions = [file.append(bytes([number]) * 9000) for number in range(4)]
    file.write(file.reserve(5000), bytes(5000))
    file.sync()
    assert [file.read(position, 9000) for position in positions] == [bytes([i]) * 9000 for i in range(4)]
    file.close()
    again = BlockFile(tmp_path / "blocks", file.end)
    assert again.read(positions[3], 9000) == bytes([3]) * 9000
    again.close()
