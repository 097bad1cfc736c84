"""An onion service that sends back what it gets, and a client that talks to it, in one process.

    python examples/echo_service.py [NETWORK]

NETWORK is ``embedded`` (the default: a private network on this machine), ``public`` or a torrc file.
"""

import asyncio
import sys

import pelure
from pelure.streams import ByteStream
from pelure.tor.service.targets import IncomingInfo


async def echo(stream: ByteStream, info: IncomingInfo) -> None:
    while data := await stream.read():
        await stream.write(data)
    await stream.close()


async def main(network: str = "embedded") -> None:
    async with pelure.connect(network) as tor:
        service = await tor.serve_onion({7: echo})
        print("published", service.address)

        stream = await tor.open_stream(service.address, 7)
        await stream.write(b"hello through six relays")
        print("echo:", (await stream.read()).decode())
        await stream.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
