"""Which versions are whole, for any run of batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.hyper.bee.blocks import BlockCache
from pelure.hyper.bee.editor import Editor
from pelure.hyper.bee.messages import Block
from pelure.hyper.bee.versions import WholeVersions
from pelure.hyper.bee.walk import Range, RangeCursor

Steps = list[tuple[int, bool]]
STEPS = st.lists(st.tuples(st.integers(0, 60), st.booleans()), min_size=1, max_size=60)


class Blocks:
    """Blocks in memory, all of them held."""

    def __init__(self) -> None:
        self.data = [b""]

    def get(self, seq: int) -> Block:
        return Block.decode(seq, self.data[seq])

    def require(self, indexes: Iterable[int]) -> None:
        pass


def written(batches: list[Steps]) -> tuple[BlockCache, list[int]]:
    """The blocks of ``batches`` of keys to put or (true) delete, and the versions after each."""
    blocks, versions = Blocks(), list[int]()
    cache = cast(BlockCache, blocks)
    for steps in batches:
        editor = Editor.load(cache, len(blocks.data))
        for number, is_deletion in steps:
            if is_deletion:
                editor.delete(b"%03d" % number)
            else:
                editor.put(b"%03d" % number, b"value")
        blocks.data += editor.take_blocks()
        versions.append(len(blocks.data))
    return cache, versions


def content(blocks: BlockCache, version: int) -> list[tuple[bytes, int]]:
    cursor, found = RangeCursor(blocks, version, Range()), []
    while (block := cursor.next()) is not None:
        found.append((block.key, block.seq))
    return found


@settings(deadline=None, max_examples=60)
@given(st.lists(STEPS, min_size=1, max_size=8))
def test_each_version_is_like_one_between_batches(batches: list[Steps]) -> None:
    blocks, versions = written(batches)
    whole = WholeVersions(blocks)
    for seq in reversed(range(1, versions[-1])):
        found = whole.of(blocks.get(seq))
        expected = min(version for version in versions if version > seq)
        # A tree node that a deletion has merged into another may say what the batch's end does.
        assert found == expected or (seq < found and content(blocks, found) == content(blocks, expected))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=60), min_size=1, max_size=8))
def test_without_deletions_the_versions_are_those_between_batches(batches: list[list[int]]) -> None:
    blocks, versions = written([[(number, False) for number in numbers] for numbers in batches])
    whole = WholeVersions(blocks)
    for seq in reversed(range(1, versions[-1])):
        assert whole.of(blocks.get(seq)) == min(version for version in versions if version > seq)


def test_single_changes_are_whole_versions() -> None:
    blocks, versions = written([[(number * 7 % 50, False)] for number in range(200)])
    whole = WholeVersions(blocks)
    assert [whole.of(blocks.get(seq)) for seq in reversed(range(1, 201))] == versions[::-1]
