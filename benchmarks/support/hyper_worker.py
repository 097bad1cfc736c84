"""One measured operation of pelure's drives, in a process of its own so that its memory can be told.

The counterpart of ``npm_bench.js``, with the same arguments and answers. ``python -m
benchmarks.support.hyper_worker COMMAND STORE ...`` prints a line of JSON when it is done; ``serve`` prints
one with its port first, and is done when its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from pelure.cli.run import tune_memory
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication.stream import Replication
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.local import LocalDrive
from pelure.hyper.drive.mirror import Mirror, MirrorOptions
from pelure.streams import SocketStream

MIB = 1 << 20
LOOKUPS = 10_000
BATCH = 10_000

Answer = dict[str, Any]


def say(answer: Answer) -> None:
    print(json.dumps(answer), flush=True)


def peak() -> float:
    """The largest memory of this process so far, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def entry_path(i: int) -> str:
    return f"/folder {i // 1000}/entry {i % 1000}"


async def import_file(drive: Drive, file: str, how: str = "copy") -> Answer:
    start = time.perf_counter()
    fd = os.open(file, os.O_RDONLY)
    await drive.import_file("/file", fd, file, link=how == "link")
    os.close(fd)
    return {"seconds": time.perf_counter() - start}


async def import_folder(drive: Drive, folder: str, how: str) -> Answer:
    """``how``: put ``one`` by one, in a ``batch``, or import ``linked``, which is what the command does."""
    names = os.listdir(folder)
    start = time.perf_counter()
    if how == "linked":
        local = LocalDrive(folder)
        async for step in Mirror(local, drive, MirrorOptions(link=True)).steps():
            assert step.operation == "add", step
        local.close()
    elif how == "batch":
        batch = drive.batch()
        for name in names:
            await batch.put("/" + name, read(folder, name))
        await batch.flush()
    else:
        for name in names:
            await drive.put("/" + name, read(folder, name))
    return {"seconds": time.perf_counter() - start}


def read(folder: str, name: str) -> bytes:
    with open(f"{folder}/{name}", "rb", buffering=0) as file:
        return file.read()


async def serve(drive: Drive) -> Answer:
    async def accept(stream: SocketStream) -> None:
        async with drive.store.replicate(stream, False) as replication:
            await replication.wait_closed()

    server = await SocketStream.listen(accept, "127.0.0.1", 0)
    async with server:
        say({"port": server.sockets[0].getsockname()[1]})
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    return {}


async def fetch(drive: Drive, version: str, port: str) -> Answer:
    start = time.perf_counter()
    async with connected(drive, version, port):
        await drive.download()
        return {"seconds": time.perf_counter() - start}


async def ranges(drive: Drive, version: str, port: str, starts: str) -> Answer:
    """Milliseconds for each range of 1 MiB of a file, nothing of which is here yet."""
    milliseconds = []
    async with connected(drive, version, port):
        await drive.entry("/file")
        for at in map(int, starts.split(",")):
            start = time.perf_counter()
            size = sum([len(part) async for part in drive.read("/file", at, at + MIB)])
            milliseconds.append(1000 * (time.perf_counter() - start))
            assert size == MIB
    return {"milliseconds": milliseconds}


async def make_entries(drive: Drive, count: str) -> Answer:
    start = time.perf_counter()
    await put_entries(drive, int(count), 1, "target")
    return {"seconds": time.perf_counter() - start}


async def use_entries(drive: Drive, count: str) -> Answer:
    """List and look up all that ``make-entries`` made; then change one in a hundred and compare."""
    total, version = int(count), drive.version
    start = time.perf_counter()
    listed = sum([1 async for _ in drive.list("/")])
    listing = time.perf_counter() - start
    assert listed == total, listed

    start = time.perf_counter()
    for i in range(LOOKUPS):
        assert await drive.entry(entry_path((i * 7919 + 17) % total)) is not None
    lookup = time.perf_counter() - start

    await put_entries(drive, total, 100, "changed")
    start = time.perf_counter()
    differences = sum([1 async for found in drive.diff(version) if found.left and found.right])
    diff = time.perf_counter() - start
    assert differences == -(-total // 100), differences
    return {"list": listing, "lookup": lookup / LOOKUPS, "diff": diff}


async def put_entries(drive: Drive, count: int, step: int, target: str) -> None:
    """Every ``step``-th entry, in batches of 10,000."""
    for begin in range(0, count, BATCH * step):
        batch = drive.batch()
        for i in range(begin, min(begin + BATCH * step, count), step):
            batch.symlink(entry_path(i), target)
        await batch.flush()


@asynccontextmanager
async def connected(drive: Drive, version: str, port: str) -> AsyncIterator[Replication]:
    """Replicating with the server on ``port``, and the drive known up to ``version``."""
    stream = await SocketStream.connect("127.0.0.1", int(port))
    async with drive.store.replicate(stream, True) as replication:
        while drive.version < int(version):
            await drive.core.changed()
        yield replication


COMMANDS: dict[str, Callable[..., Awaitable[Answer]]] = {
    "import-file": import_file,
    "import-folder": import_folder,
    "serve": serve,
    "fetch": fetch,
    "ranges": ranges,
    "make-entries": make_entries,
    "use-entries": use_entries,
}
READERS = ("fetch", "ranges")
"""Commands whose first argument is the key of another store's drive."""


async def main() -> None:
    name, folder, *rest = sys.argv[1:]
    store = Corestore(Path(folder))
    key = bytes.fromhex(rest.pop(0)) if name in READERS else None
    drive = Drive(store, key)
    answer = await COMMANDS[name](drive, *rest)
    say({**answer, "key": drive.key.hex(), "version": drive.version, "peak": peak()})
    store.close()


if __name__ == "__main__":
    tune_memory()  # as the command does
    uvloop.run(main())
