"""A reader in a process of its own, to be killed: ``fetching.py PORT KEY STORE FOLDER``, over TCP."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.replication.stream import Replication
from pelure.hyper.drive.drive import Drive
from pelure.hyper.wire.noise import KeyPair
from pelure.share.fetch import Fetch
from pelure.streams import SocketStream


async def main(port: int, key: bytes, store: Path, folder: Path) -> None:
    """Fetch the drive ``key`` into ``folder``, as ``pelure get`` does."""
    cores = Corestore(store)
    drive = Drive(cores, key)
    stream = await SocketStream.connect("127.0.0.1", port)
    async with Replication(stream, True, cores, KeyPair.from_seed(bytes(32))):
        await Fetch(drive, folder).run()
    cores.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), bytes.fromhex(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])))
