"""The directory of a client of pelure, in a process of its own so that its memory can be told.

``python -m benchmarks.support.directory_client FOLDER RELAYS`` has the directory in ``FOLDER/pelure`` as
``pelure proxy`` has it. For a line on standard input it tells how many microseconds choosing a path takes.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import uvloop

import pelure.cli.main  # what the command loads counts
import pelure.cli.proxy
import pelure.tor.api  # noqa: F401
from pelure.cli.run import tune_memory
from pelure.tor.client.dirclient import DirectoryClient
from pelure.tor.directory.network import parse_network
from pelure.tor.net.links import LinkManager
from pelure.tor.net.statefile import StateFolder
from pelure.tor.path.selection import PathSelector
from pelure.tor.path.vanguards import VanguardManager

PATHS = 1000


async def main(folder: Path, relays: int) -> None:
    """Read the directory; then measure."""
    network = parse_network((folder / "network").read_text())
    with StateFolder(folder / "pelure") as state:
        directory = DirectoryClient(network, LinkManager(), state)
        netdir = await directory.bootstrap()
        assert len(netdir.relays) == relays and directory.guards is not None
        vanguards = VanguardManager(os.urandom)
        vanguards.update(netdir, time.time())
        paths = PathSelector(netdir, directory.guards, vanguards, os.urandom, time.time)
        refreshing = asyncio.create_task(directory.refresh_loop())
        await asyncio.to_thread(sys.stdin.readline)
        started = time.process_time()
        for _ in range(PATHS):
            paths.exit_path(443)
        print(json.dumps((time.process_time() - started) / PATHS * 1e6), flush=True)
        refreshing.cancel()


if __name__ == "__main__":
    tune_memory()
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2])))
