"""A small HTTP/1.1 file server on loopback that hands out payloads of known SHA-256.

It runs in a thread with its own event loop, so that synchronous tests can use it too.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from functools import lru_cache

MEGABYTE = 1_000_000


@lru_cache(maxsize=4)
def payload(size: int) -> tuple[bytes, str]:
    """Return ``size`` bytes that look random but are always the same, and their SHA-256 in hex."""
    body = hashlib.shake_256(b"pelure test payload").digest(size)
    return body, hashlib.sha256(body).hexdigest()


class FileServer:
    """Serves ``/<n>`` as an ``n``-byte :func:`payload`; counts requests; echoes POST bodies.

    Use as a context manager; ``port`` is its TCP port on 127.0.0.1.
    """

    def __init__(self) -> None:
        self.port = 0
        self.requests = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="file server", daemon=True)

    def __enter__(self) -> FileServer:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def url(self, size: int, host: str | None = None) -> str:
        """The address of the ``size``-byte payload, under another ``host[:port]`` if given."""
        return f"http://{host or f'127.0.0.1:{self.port}'}/{size}"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass  # the client went away or spoke no HTTP
        except asyncio.CancelledError:
            pass  # the server stops
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection stays open."""
        request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = request.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        self.requests += 1
        if method == "POST":
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        else:
            body, _ = await asyncio.to_thread(payload, int(path.strip("/") or "0"))
        keep = headers.get("connection", "").lower() != "close"
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n".encode()
        )
        view = memoryview(body)
        for start in range(0, len(view), 1 << 18):
            writer.write(view[start : start + (1 << 18)])
            await writer.drain()
        return keep
