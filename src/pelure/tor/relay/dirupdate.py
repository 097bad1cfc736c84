"""Keeping a directory cache up to date (dir-spec 4.2, 4.3): consensuses, certificates, descriptors of relays.

A relay asks the authorities, at their DirPorts, soon after a consensus is there to be had, and checks the
signatures before it passes a document on.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import random
import time
from collections.abc import Callable, Iterator

from pelure.errors import DirectoryError, PelureError
from pelure.streams import SocketStream
from pelure.tor.directory.cache import CONSENSUS_PATH, DirectoryCache
from pelure.tor.directory.compression import ACCEPT_ENCODING, decompress
from pelure.tor.directory.consensus import MAX_CONSENSUS_LENGTH, Consensus, parse_consensus
from pelure.tor.directory.consensus_verify import check_signatures, verify_consensus
from pelure.tor.directory.network import DirAuthority, Network
from pelure.tor.directory.router_descriptor import (
    MAX_DESCRIPTORS_LENGTH,
    RouterDescriptor,
    parse_router_descriptor,
    split_router_descriptors,
)
from pelure.tor.net import dir_http
from pelure.tor.net.memory import give_back

log = logging.getLogger(__name__)

REQUEST_SECONDS = 60.0
RETRY_SECONDS = 60.0
TESTING_RETRY_SECONDS = 0.5
DESCRIPTORS_PER_REQUEST = 92
MAX_CERTIFICATES = 1 << 20
PATHS = {"ns": CONSENSUS_PATH, "microdesc": f"{CONSENSUS_PATH}-microdesc"}


async def fetch_from(authority: DirAuthority, path: str, limit: int) -> bytes:
    """GET ``path`` from an authority's DirPort, unpacked. Raises ``DirectoryError`` or ``OSError``."""
    async with asyncio.timeout(REQUEST_SECONDS):
        stream = await SocketStream.connect(authority.ip, authority.dirport)
        try:
            headers = f"Host: {authority.ip}\r\nAccept-Encoding: {ACCEPT_ENCODING}\r\n"
            response = await dir_http.get(stream, path, limit=limit, headers=headers)
        finally:
            await stream.close()
    if response.status != 200:
        raise DirectoryError(f"authority {authority.nickname} answered {response.status} to {path[:60]}")
    encoding = response.headers.get("content-encoding", "")
    return await asyncio.to_thread(decompress, response.body, encoding, limit)


class CacheUpdater:
    """Fills ``cache`` from the network's authorities for as long as :meth:`run` runs."""

    def __init__(
        self, network: Network, cache: DirectoryCache, on_consensus: Callable[[Consensus], None]
    ) -> None:
        """``on_consensus`` hears of each new consensus of the microdesc flavour."""
        self._network = network
        self._cache = cache
        self._on_consensus = on_consensus

    async def run(self) -> None:
        """Fetch what is due, again and again; never returns."""
        retry = TESTING_RETRY_SECONDS if self._network.testing else RETRY_SECONDS
        while True:
            complete = await self.update()
            consensus = self._cache.consensus()
            wait = retry
            if complete and consensus is not None:
                await asyncio.to_thread(give_back)
                # Not all caches at once, and not before the authorities have published it.
                spread = (consensus.fresh_until - consensus.valid_after) / 20
                wait = max(consensus.fresh_until + random.uniform(0, spread) - time.time(), retry)
            await asyncio.sleep(wait)

    async def update(self) -> bool:
        """One round; True if everything current is here."""
        authorities = [one for one in self._network.voters if one.dirport]
        random.shuffle(authorities)
        for authority in authorities:
            try:
                if await self._update_from(authority):
                    return True
            except (PelureError, OSError, TimeoutError) as error:
                log.info("directory update from %s: %s", authority.nickname, str(error) or "no answer")
        return False

    async def _update_from(self, authority: DirAuthority) -> bool:
        for flavour, path in PATHS.items():
            current = self._cache.consensus(flavour)
            if current is None or current.fresh_until <= time.time():
                await self._fetch_consensus(authority, path)
        await self._fetch_microdescriptors(authority)
        await self._fetch_routers(authority)
        consensus = self._cache.consensus()
        fresh = consensus is not None and consensus.fresh_until > time.time()
        return fresh and not self._cache.wanted_microdescriptors() and not self._cache.wanted_routers()

    async def _fetch_consensus(self, authority: DirAuthority, path: str) -> None:
        text = await fetch_from(authority, path, MAX_CONSENSUS_LENGTH)
        consensus = await asyncio.to_thread(parse_consensus, text)
        voters = [one.v3ident for one in self._network.voters if one.v3ident is not None]
        known, now = self._cache.certificates, time.time()
        if check_signatures(consensus, voters, known, now).missing:
            certificates = await fetch_from(authority, "/tor/keys/all", MAX_CERTIFICATES)
            self._cache.add_certificates(certificates, voters)
        verify_consensus(consensus, voters, known, now)
        current = self._cache.consensus(consensus.flavour)
        if current is not None and current.valid_after >= consensus.valid_after:
            return
        self._cache.set_consensus(consensus)
        if consensus.flavour == "microdesc":
            self._on_consensus(consensus)

    async def _fetch_microdescriptors(self, authority: DirAuthority) -> None:
        for digests in _some_at_once(self._cache.wanted_microdescriptors()):
            names = "-".join(base64.b64encode(digest).decode().rstrip("=") for digest in digests)
            text = await fetch_from(authority, f"/tor/micro/d/{names}", MAX_CONSENSUS_LENGTH)
            self._cache.add_microdescriptors(text, time.time())

    async def _fetch_routers(self, authority: DirAuthority) -> None:
        for digests in _some_at_once(self._cache.wanted_routers()):
            names = "+".join(digest.hex().upper() for digest in digests)
            text = await fetch_from(authority, f"/tor/server/d/{names}", MAX_DESCRIPTORS_LENGTH)
            self._cache.add_routers(await asyncio.to_thread(_routers_in, text))


def _some_at_once(digests: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(digests), DESCRIPTORS_PER_REQUEST):
        yield digests[start : start + DESCRIPTORS_PER_REQUEST]


def _routers_in(texts: bytes) -> list[RouterDescriptor]:
    return [parse_router_descriptor(text) for text in split_router_descriptors(texts)]
