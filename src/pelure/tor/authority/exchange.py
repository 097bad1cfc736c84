"""Talking to the other authorities over HTTP (dir-spec sections 3.2, 3.10 and 4.6), on their DirPorts.

A failure to reach one authority is logged and otherwise ignored: the protocol lives with absent ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from pelure.errors import PelureError
from pelure.streams import SocketStream
from pelure.tor.directory.compression import ACCEPT_ENCODING, decompress
from pelure.tor.directory.consensus import MAX_CONSENSUS_LENGTH
from pelure.tor.directory.network import DirAuthority
from pelure.tor.net import dir_http

MAX_DOCUMENTS = MAX_CONSENSUS_LENGTH
MAX_FINGERPRINTS = 96
log = logging.getLogger(__name__)


class Exchange:
    """The other authorities of a network; ``timeout``: seconds for one request."""

    def __init__(self, others: Sequence[DirAuthority], timeout: float) -> None:
        self.others = [other for other in others if other.dirport]
        self.timeout = timeout

    async def post_to_all(self, path: str, body: bytes) -> int:
        """POST ``body`` to every other authority; returns how many took it."""
        results = await asyncio.gather(*(self._post(other, path, body) for other in self.others))
        return sum(results)

    async def get_from_all(self, path: str) -> list[bytes]:
        """GET ``path`` from every other authority; the bodies of those that have it."""
        results = await asyncio.gather(*(self.get(other, path) for other in self.others))
        return [body for body in results if body]

    async def get(self, other: DirAuthority, path: str) -> bytes:
        """GET ``path`` from one authority; empty if it can't be reached or has nothing there."""
        try:
            async with asyncio.timeout(self.timeout):
                stream = await SocketStream.connect(other.ip, other.dirport)
                try:
                    headers = f"Host: {other.ip}\r\nAccept-Encoding: {ACCEPT_ENCODING}\r\n"
                    response = await dir_http.get(stream, path, limit=MAX_DOCUMENTS, headers=headers)
                finally:
                    await stream.close()
            encoding = response.headers.get("content-encoding", "")
            if response.status != 200:
                return b""
            return await asyncio.to_thread(decompress, response.body, encoding, MAX_DOCUMENTS)
        except (OSError, TimeoutError, PelureError) as error:
            log.info("authority %s does not give %s: %s", other.nickname, path[:60], error or "timed out")
            return b""

    async def _post(self, other: DirAuthority, path: str, body: bytes) -> bool:
        try:
            async with asyncio.timeout(self.timeout):
                stream = await SocketStream.connect(other.ip, other.dirport)
                try:
                    response = await dir_http.post(stream, path, body)
                finally:
                    await stream.close()
        except (OSError, TimeoutError, PelureError) as error:
            log.warning("can't reach authority %s: %s", other.nickname, error or "timed out")
            return False
        if response.status != 200:
            log.warning("authority %s refuses our %s with status %d", other.nickname, path, response.status)
        return response.status == 200


def hex_paths(prefix: str, digests: Iterable[bytes]) -> list[str]:
    """Request paths that ask for all of ``digests`` (hex, joined by ``+``), some dozens each."""
    words = [digest.hex().upper() for digest in digests]
    return [
        prefix + "+".join(words[start : start + MAX_FINGERPRINTS])
        for start in range(0, len(words), MAX_FINGERPRINTS)
    ]
