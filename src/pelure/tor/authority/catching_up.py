"""Taking over from the other authorities what one has missed (dir-spec sections 3.4 and 4.5).

That is the consensus of an interval in which it did not vote, and descriptors that relays gave to others
only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from pelure.errors import DirectoryError
from pelure.tor.authority.descriptors import Descriptors
from pelure.tor.authority.exchange import Exchange, hex_paths
from pelure.tor.authority.voting import FLAVOURS
from pelure.tor.directory.cache import DirectoryCache
from pelure.tor.directory.consensus import Consensus, parse_consensus
from pelure.tor.directory.router_descriptor import (
    RouterDescriptor,
    parse_router_descriptor,
    split_router_descriptors,
)
from pelure.tor.directory.vote import Vote

log = logging.getLogger(__name__)


class CatchingUp:
    """Fetches from the authorities of ``exchange``, into ``cache`` and ``descriptors``.

    ``adopt`` takes a consensus, which it verifies (``DirectoryError``); ``changed`` is called when there are
    new descriptors.
    """

    def __init__(
        self,
        exchange: Exchange,
        cache: DirectoryCache,
        descriptors: Descriptors,
        adopt: Callable[[str, Consensus], None],
        changed: Callable[[], None],
    ) -> None:
        self._exchange = exchange
        self._cache = cache
        self._descriptors = descriptors
        self._adopt = adopt
        self._changed = changed

    async def fetch_consensus(self) -> None:
        """Take over the others' consensus, and the descriptors of what it lists."""
        identities = [one.v3ident for one in self._exchange.others if one.v3ident is not None]
        for answer in await self._exchange.get_from_all("/tor/keys/all.z"):
            with contextlib.suppress(DirectoryError):
                self._cache.add_certificates(answer, identities)
        for flavour in FLAVOURS:
            path = f"/tor/status-vote/current/consensus-{flavour}.z"
            for answer in await self._exchange.get_from_all(path):
                with contextlib.suppress(DirectoryError):
                    self._adopt(flavour, await asyncio.to_thread(parse_consensus, answer))
        for digest_path in hex_paths("/tor/server/d/", self._unknown_digests()):
            for answer in await self._exchange.get_from_all(f"{digest_path}.z"):
                await self._take(answer)

    async def fetch_descriptors(self, vote: Vote) -> None:
        """Get from the voter the descriptors that it knows and we don't: relays may have missed us."""
        known = self._descriptors.routers
        wanted = [
            entry.descriptor_digest
            for entry in vote.entries
            if entry.rsa_id not in known or known[entry.rsa_id].published < entry.published
        ]
        voter = next((one for one in self._exchange.others if one.v3ident == vote.identity), None)
        if voter is not None:
            for path in hex_paths("/tor/server/d/", wanted):
                await self._take(await self._exchange.get(voter, f"{path}.z"))

    def _unknown_digests(self) -> list[bytes]:
        consensus = self._cache.consensus("ns")
        routers = consensus.routers if consensus else []
        return [one.descriptor_digest for one in routers if one.rsa_id not in self._descriptors.routers]

    async def _take(self, documents: bytes) -> None:
        new = False
        for router in await asyncio.to_thread(_parse, documents):
            try:
                new |= self._descriptors.add_router(router, time.time())
            except DirectoryError as error:
                _log_refused(error)
        if new:
            self._changed()


def _parse(documents: bytes) -> list[RouterDescriptor]:
    routers = []
    for text in split_router_descriptors(documents):
        try:
            routers.append(parse_router_descriptor(text))
        except DirectoryError as error:
            _log_refused(error)
    return routers


def _log_refused(error: DirectoryError) -> None:
    log.info("a descriptor that another authority has is not acceptable: %s", error)
