"""Ranges, history, differences, subs, batches and watching, against a plain dict."""

from __future__ import annotations

import asyncio
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DriveError, ProtocolError
from pelure.hyper.bee import blocks
from pelure.hyper.bee.bee import Bee
from pelure.hyper.bee.messages import Block, Header, encode_block
from pelure.hyper.bee.walk import Range
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.tree import NotAvailable
from pelure.streams import memory_pipe


@pytest.fixture
def bee(store: Corestore) -> Bee:
    return Bee(store.get(name="bee"))


def key(number: int) -> bytes:
    return f"key {number:04}".encode()


async def fill(bee: Bee, count: int, seed: int = 1) -> dict[bytes, bytes]:
    rng, expected = random.Random(seed), {}
    batch = bee.batch()
    for i in range(count):
        name = key(rng.randrange(count * 2))
        if rng.random() < 0.2:
            batch.delete(name)
            expected.pop(name, None)
        else:
            batch.put(name, str(i).encode())
            expected[name] = str(i).encode()
    await batch.flush()
    return expected


async def test_batches_after_reopening(store: Corestore) -> None:
    """An index read from the disk has keys that are not loaded, and they are moved about unloaded."""
    rng, expected = random.Random(5), dict[bytes, bytes]()
    for number in range(40):
        bee = Bee(store.get(name="bee"))
        batch = bee.batch()
        start = rng.randrange(600)
        for i in range(rng.choice([1, 20, 80])):
            name = key(start + i if number % 2 else rng.randrange(600))
            if rng.random() < 0.2:
                batch.delete(name)
                expected.pop(name, None)
            else:
                batch.put(name, b"%d" % number)
                expected[name] = b"%d" % number
        await batch.flush()
        found = [(entry.key, entry.value) async for entry in bee.range()]
        assert found == sorted(expected.items())


BOUNDS = [None, key(0), key(100), key(333), key(599), b"", b"\xff"]


def within(bounds: Range, name: bytes) -> bool:
    return (
        (bounds.gt is None or name > bounds.gt)
        and (bounds.gte is None or name >= bounds.gte)
        and (bounds.lt is None or name < bounds.lt)
        and (bounds.lte is None or name <= bounds.lte)
    )


@pytest.mark.parametrize("reverse", [False, True])
async def test_ranges(bee: Bee, reverse: bool) -> None:
    expected = await fill(bee, 300)
    for low, high in itertools.product(BOUNDS, BOUNDS):
        for bounds in (Range(gte=low, lt=high), Range(gt=low, lte=high)):
            wanted = sorted((name for name in expected if within(bounds, name)), reverse=reverse)
            assert [entry.key async for entry in bee.range(bounds, reverse=reverse)] == wanted
    first = [entry.key async for entry in bee.range(reverse=reverse, limit=3)]
    assert first == sorted(expected, reverse=reverse)[:3]


async def test_versions_and_differences(bee: Bee) -> None:
    states: dict[int, dict[bytes, bytes]] = {}
    current: dict[bytes, bytes] = {}
    rng = random.Random(3)
    for i in range(120):
        name = key(rng.randrange(40))
        if rng.random() < 0.3:
            await bee.delete(name)
            current.pop(name, None)
        else:
            await bee.put(name, str(i).encode())
            current[name] = str(i).encode()
        states[bee.version] = dict(current)
    for version, state in states.items():
        assert {entry.key: entry.value async for entry in bee.checkout(version).range()} == state
        differences = {d.left.key if d.left else d.right.key: d async for d in bee.diff(version)}  # type: ignore[union-attr]
        changed = {k for k in current.keys() | state.keys() if current.get(k) != state.get(k)}
        assert differences.keys() == changed
        for name, difference in differences.items():
            assert (difference.left.value if difference.left else None) == current.get(name)
            assert (difference.right.value if difference.right else None) == state.get(name)
    part = [d async for d in bee.diff(30, Range(gte=key(10), lt=key(20)))]
    assert all(key(10) <= (d.left or d.right).key < key(20) for d in part)  # type: ignore[union-attr]


async def test_history(bee: Bee) -> None:
    await bee.put(b"a", b"1")
    await bee.put(b"b", None)
    await bee.delete(b"a")
    found = [(event.entry.key, event.entry.value, event.deleted) async for event in bee.history()]
    assert found == [(b"a", b"1", False), (b"b", None, False), (b"a", None, True)]
    backwards = [event.entry.seq async for event in bee.history(reverse=True)]
    assert backwards == [3, 2, 1]
    assert [event.entry.seq async for event in bee.history(2, 3)] == [2]


async def test_subs_do_not_see_each_other(bee: Bee) -> None:
    one, other = bee.sub(b"one"), bee.sub(b"other")
    await one.put(b"k", b"1")
    await other.put(b"k", b"2")
    await one.sub(b"deeper").put(b"k", b"3")
    assert [entry.value async for entry in one.range()] == [b"3", b"1"]
    assert [entry.key async for entry in other.range()] == [b"k"]
    assert [entry.key async for entry in bee.range()] == [b"one\0deeper\0k", b"one\0k", b"other\0k"]
    found = await one.get(b"k")
    assert found is not None and found.value == b"1"
    assert [event.entry.key async for event in other.history()] == [b"k"]


async def test_a_batch_sees_its_own_changes(bee: Bee) -> None:
    await bee.put(b"old", b"1")
    batch = bee.batch()
    batch.put(b"new", b"2")
    batch.delete(b"old")
    seen = await batch.get(b"new")
    assert seen is not None and seen.value == b"2" and await batch.get(b"old") is None
    assert await bee.get(b"new") is None
    assert await batch.flush() == 2 and await batch.flush() == 0
    assert await bee.get(b"old") is None


async def test_concurrent_writers_wait_for_each_other(bee: Bee) -> None:
    await asyncio.gather(*(bee.put(key(i), b"x") for i in range(50)), fill(bee.sub(b"s"), 100))
    assert len([entry async for entry in bee.range(Range(lt=b"s"))]) == 50


async def test_watch(bee: Bee) -> None:
    await bee.put(b"in/a", b"1")
    seen: list[tuple[int, int]] = []
    first = asyncio.Event()

    async def follow() -> None:
        async for now, before in bee.watch(Range(gte=b"in/", lt=b"in0")):
            seen.append((now.version, before.version))
            first.set()

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    await bee.put(b"out", b"x")
    await bee.put(b"in/a", b"2")
    await asyncio.wait_for(first.wait(), 30)
    task.cancel()
    assert seen[0][0] == 4


async def test_a_checkout_that_was_cut_off_says_so(bee: Bee) -> None:
    for i in range(20):
        await bee.put(key(i), b"x")
    old = bee.checkout(15)
    bee.core.truncate(10)
    with pytest.raises(NotAvailable):
        await old.get(key(1))
    await bee.put(b"on", b"x")
    assert len([entry async for entry in bee.range()]) == 10
    assert not old.writable
    with pytest.raises(DriveError):
        old.batch()


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=100)
def test_blocks_from_anyone(data: bytes) -> None:
    try:
        block = Block.decode(1, data)
        block.levels()
        assert isinstance(block.is_deletion, bool)
    except ProtocolError:
        pass
    try:
        Header.decode(data)
    except ProtocolError:
        pass


numbers = st.integers(0, 2**40)


@given(st.binary(max_size=9), st.none() | st.binary(max_size=9), st.lists(st.lists(numbers, max_size=8)))
@settings(deadline=None, max_examples=60)
def test_blocks_round_trip(name: bytes, value: bytes | None, levels: list[list[int]]) -> None:
    block = Block.decode(5, encode_block(name, value, [(keys, []) for keys in levels]))
    assert (block.key, block.value, block.levels()) == (name, value, [(keys, []) for keys in levels])


async def test_an_index_in_circles_is_refused(store: Corestore) -> None:
    core = store.get(name="circle")
    loop = encode_block(b"m", b"x", [([1], [1, 0, 1, 0])])
    core.append([Header().encode(), loop])
    bee = Bee(core)
    with pytest.raises(ProtocolError):
        await bee.get(b"a")
    with pytest.raises(ProtocolError):
        _ = [entry async for entry in bee.range()]
    core.append([encode_block(b"z", b"x", [([77], [])])])
    with pytest.raises(DriveError):
        await bee.get(b"a")


@pytest.mark.parametrize("keys", [[b"b", b"a"], [b"a", b"a"]], ids=["out of order", "twice"])
async def test_an_index_whose_keys_are_not_in_order_is_refused(store: Corestore, keys: list[bytes]) -> None:
    """Else a tree node that is its own child could be walked over for ever."""
    core = store.get(name="bee")
    core.append([Header().encode(), *(encode_block(key, b"", [([1, 2], [])]) for key in keys)])
    bee = Bee(core)
    for walk in (bee.range(), bee.range(reverse=True), bee.diff(1)):
        with pytest.raises(ProtocolError, match="order"):
            async for _ in walk:
                pass


async def test_the_cache_holds_few_blocks_that_are_large(
    store: Corestore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "_CACHED_BYTES", 100_000)
    core = store.get(name="bee")
    core.append([Header().encode(), *(encode_block(key(n), bytes(40_000), []) for n in range(30))])
    cache = blocks.BlockCache(core)
    for seq in range(1, 31):
        assert cache.get(seq).key == key(seq - 1)
    held = [seq for seq in range(1, 31) if seq in cache._young or seq in cache._old]
    assert 30 in held and len(held) <= 6


async def test_a_long_range_takes_few_round_trips(
    store: Corestore, bee: Bee, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing asks for ever more at once: each time it waits for who has it, who may be far away."""
    expected = await fill(bee, 5000)
    other = Corestore(tmp_path / "other")
    copy, fetches = Bee(other.get(key=bee.core.key)), 0
    fetch = Bee._fetch

    async def counted(self: Bee, *arguments: Any) -> None:
        nonlocal fetches
        fetches += 1
        await fetch(self, *arguments)

    monkeypatch.setattr(Bee, "_fetch", counted)
    left, right = memory_pipe()
    async with asyncio.timeout(60), store.replicate(left, True), other.replicate(right, False):
        await copy.core.update(wait=True)
        found = [(entry.key, entry.value) async for entry in copy.range()]
    other.close()
    assert found == sorted(expected.items())
    assert fetches < 60  # with 64 blocks ahead of a missing one, always, it is 162; now 25
