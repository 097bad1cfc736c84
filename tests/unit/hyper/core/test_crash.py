"""Killed at random moments, a store opens again, has all it acknowledged, and serves no bad block."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest

from pelure.hyper.blobs.blob_id import BlobId
from pelure.hyper.blobs.blobs import Blobs
from pelure.hyper.core.core import Core
from pelure.hyper.core.corestore import Corestore

CHILD = Path(__file__).parent / "crash_child.py"
START_SECONDS = 60.0


class Expected:
    """What the store has to hold, from all that its processes said before they were killed."""

    def __init__(self) -> None:
        self.blocks: dict[int, int] = {}
        self.imported: list[tuple[str, BlobId]] = []

    def read(self, lines: list[str]) -> None:
        for line in lines:
            kind, *words = line.split()
            if kind == "appended":
                first, count, fork = map(int, words)
                self.blocks.update(dict.fromkeys(range(first, first + count), fork))
            elif kind == "truncating":
                length = int(words[0])
                self.blocks = {index: fork for index, fork in self.blocks.items() if index < length}
            elif kind == "clearing":
                for index in range(int(words[0]), int(words[1])):
                    self.blocks.pop(index, None)
            elif kind == "imported":
                self.imported.append((words[0], BlobId(*map(int, words[1:]))))


async def run_and_kill(folder: Path, seed: int, delay: float) -> list[str]:
    """What a child said, killed ``delay`` seconds after it began to work."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(CHILD), str(folder), str(seed), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    first = await asyncio.wait_for(child.stdout.readline(), START_SECONDS)
    assert first == b"ready\n"
    await asyncio.sleep(delay)
    child.kill()
    said = await child.stdout.read()
    await child.wait()
    return said.decode().splitlines()


def content(index: int, fork: int) -> bytes:
    """The same as in the child."""
    head = f"{index} {fork} ".encode()
    size = (index * 7919 + fork * 104729) % 5000 if index % 3 else 65536
    return head + bytes([index % 251]) * size


def check_core(core: Core) -> None:
    """The tree is whole and signed, and each block held is the one that was appended."""
    batch = core.batch()
    assert core.roots == core.roots_at(core.length)
    if core.length:
        assert core.verifier is not None
        core.verifier.verify(batch, core.signature)
    for index in range(core.length):
        block = core.get_local(index)
        if block is not None:
            number, fork, _ = block.split(b" ", 2)
            assert int(number) == index and int(fork) <= core.fork
            assert block == content(index, int(fork))
    assert core.bitfield.first_set(core.length) is None


async def check(folder: Path, expected: Expected) -> None:
    writer, reader = Corestore(folder / "writer"), Corestore(folder / "reader")
    try:
        core = writer.get(name="core")
        check_core(core)
        check_core(reader.get(key=core.key))
        for index, fork in expected.blocks.items():
            assert core.get_local(index) == content(index, fork), f"block {index} was acknowledged"
        blobs = Blobs(writer.get(name="blobs"))
        for name, blob in expected.imported[-10:]:
            assert await blobs.get(blob, wait=False) == (folder / name).read_bytes()
    finally:
        writer.close()
        reader.close()


async def kills(folder: Path, count: int) -> None:
    rng, expected = random.Random(count), Expected()
    for seed in range(count):
        expected.read(await run_and_kill(folder, seed, rng.random() * 0.5))
        await check(folder, expected)


async def test_killed_at_a_few_random_moments(tmp_path: Path) -> None:
    await kills(tmp_path, 3)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_killed_at_two_hundred_random_moments(tmp_path: Path) -> None:
    await kills(tmp_path, 200)
