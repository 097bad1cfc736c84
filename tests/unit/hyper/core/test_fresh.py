"""Blocks kept from their arrival until who waited for them has taken them."""

from __future__ import annotations

from pathlib import Path

from pelure.hyper.core import fresh
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.fresh import FreshBlocks
from pelure.hyper.wire.messages import Request
from pelure.hyper.wire.parts import BlockRequest, UpgradeRequest

BLOCK = bytes(65536)


def test_a_block_that_somebody_waits_for_is_taken_once() -> None:
    blocks = FreshBlocks()
    blocks.put(1, BLOCK)
    assert blocks.take(1) is None
    blocks.awaited.add(1)
    blocks.put(1, BLOCK)
    assert blocks.take(1) == BLOCK
    assert blocks.take(1) is None


def test_no_more_than_the_limit_is_kept_and_the_oldest_go() -> None:
    blocks = FreshBlocks()
    count = fresh.LIMIT // len(BLOCK)
    blocks.awaited.update(range(count + 3))
    for index in range(count + 3):
        blocks.put(index, BLOCK)
        blocks.put(index, BLOCK)
    assert [blocks.take(index) is not None for index in range(count + 3)] == [False] * 3 + [True] * count


def test_short_blocks_are_not_kept() -> None:
    blocks = FreshBlocks()
    blocks.awaited.add(1)
    blocks.put(1, b"short")
    assert blocks.take(1) is None


def test_what_was_dropped_from_a_core_is_not_given_out(tmp_path: Path) -> None:
    one, other = Corestore(tmp_path / "one"), Corestore(tmp_path / "other")
    try:
        writer = one.get(name="core")
        writer.append([BLOCK, BLOCK])
        reader = other.get(key=writer.key)
        growth = writer.proof(Request(1, 0, upgrade=UpgradeRequest(0, 2), manifest=True))
        block = writer.proof(Request(2, 0, block=BlockRequest(0, 1)))
        assert growth is not None and block is not None
        reader.fresh.awaited.add(0)
        reader.verify_and_store([growth, block])
        reader.clear(0, 1)
        assert reader.get_local(0) is None
        reader.verify_and_store([block])
        assert [reader.get_local(0), reader.get_local(0)] == [BLOCK, BLOCK]
    finally:
        one.close()
        other.close()
