"""Changes two stores for ever and says what is done, line by line, until it is killed. See test_crash.py."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from pelure.hyper.blobs.blobs import BLOCK_SIZE, Blobs
from pelure.hyper.blobs.importing import import_file
from pelure.hyper.core.core import Core
from pelure.hyper.core.corestore import Corestore
from pelure.streams import memory_pipe


def content(index: int, fork: int) -> bytes:
    """What block ``index``, appended at ``fork``, holds; sizes on both sides of the inline limit."""
    head = f"{index} {fork} ".encode()
    size = (index * 7919 + fork * 104729) % 5000 if index % 3 else BLOCK_SIZE
    return head + bytes([index % 251]) * size


def say(*words: object) -> None:
    os.write(1, " ".join(map(str, words)).encode() + b"\n")


def change(core: Core, rng: random.Random) -> None:
    choice = rng.randrange(10)
    if choice == 0 and core.length > 30:
        length = core.length - rng.randrange(1, 20)
        say("truncating", length)
        core.truncate(length)
    elif choice == 1 and core.length > 5:
        start = rng.randrange(core.length - 3)
        say("clearing", start, start + 3)
        core.clear(start, start + 3)
    else:
        count = rng.randrange(1, 8)
        blocks = [content(core.length + i, core.fork) for i in range(count)]
        first = core.append(blocks)
        say("appended", first, count, core.fork)


async def copy_in(store: Corestore, folder: Path, rng: random.Random) -> None:
    """Import a file, copied or linked."""
    blobs = Blobs(store.get(name="blobs"))
    link = rng.random() < 0.5
    source = folder / f"source-{rng.randrange(4)}"
    if not source.exists():
        source.write_bytes(source.name.encode() * 30_000)
    with source.open("rb") as file:
        blob = await import_file(blobs, file.fileno(), str(source), link=link)
    blobs.core.make_durable()
    say("imported", source.name, blob.block_offset, blob.byte_offset, blob.block_length, blob.byte_length)


async def main(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    writer, reader = Corestore(folder / "writer"), Corestore(folder / "reader")
    core = writer.get(name="core")
    replica = reader.get(key=core.key)
    one, other = memory_pipe()
    say("ready")
    async with writer.replicate(one, True), reader.replicate(other, False):
        while True:
            change(core, rng)
            if rng.random() < 0.3:
                await copy_in(writer, folder, rng)
            if rng.random() < 0.3:
                await replica.update(wait=True)
                held = [
                    i for i in range(replica.length) if core.has(i) and (replica.fork, i) == (core.fork, i)
                ]
                await replica.download((i, i + 1) for i in held)
            await asyncio.sleep(0)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
