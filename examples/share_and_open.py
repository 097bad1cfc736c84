"""Share a folder and open it again, both by the Python API, on the embedded network.

python examples/share_and_open.py FOLDER
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import pelure
import pelure.share


async def main(folder: Path) -> None:
    """Publish ``folder`` with a link for Alice, then list it as Alice would."""
    with tempfile.TemporaryDirectory() as home:
        publisher, reader = Path(home) / "publisher", Path(home) / "reader"
        async with pelure.share.publish(
            [folder], ["alice"], network="embedded", state=publisher
        ) as published:
            link = published.links["alice"]
            print(link)
            network = str(publisher / "embedded" / "network.torrc")
            async with pelure.open(link, network=network, state=reader) as remote:
                await remote.drive.update(wait=True)
                async for entry in remote.drive.list():
                    print(entry.path, await remote.drive.size(entry))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    asyncio.run(main(Path(sys.argv[1])))
