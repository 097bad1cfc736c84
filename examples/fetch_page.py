"""Fetch a page of an onion service, or of any site, through the network.

    python examples/fetch_page.py http://….onion/ [NETWORK]

NETWORK is ``public`` (the default), ``embedded`` or a torrc file, as for ``pelure --network``.
"""

import asyncio
import sys

import httpx

import pelure
from pelure.tor.client.httpx_transport import TorTransport


async def main(url: str, network: str = "public") -> None:
    async with (
        pelure.connect(network) as tor,
        httpx.AsyncClient(transport=TorTransport(tor), timeout=60) as client,
    ):
        response = await client.get(url)
        print(response.status_code, len(response.content), "bytes")
        print(response.text[:500])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    asyncio.run(main(*sys.argv[1:]))
