"""A directory authority and its relay half in one process: one cache, one set of answers."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from pelure.errors import PelureError
from pelure.tor.authority.config import AuthorityConfig
from pelure.tor.authority.server import Authority
from pelure.tor.directory.cache import DirectoryCache
from pelure.tor.directory.consensus import Consensus
from pelure.tor.directory.relay import Relay
from pelure.tor.directory.router_descriptor import RouterDescriptor
from pelure.tor.relay.config import RelayConfig
from pelure.tor.relay.server import OnEvent, RelayServer

PROBE_SECONDS = 30.0
log = logging.getLogger(__name__)


class AuthorityNode:
    """Runs both halves; ``test_reachability``: vote only relays running that a link can be made to."""

    def __init__(
        self,
        config: AuthorityConfig,
        relay_config: RelayConfig,
        *,
        test_reachability: bool,
        on_event: OnEvent | None = None,
    ) -> None:
        """Raises ``ConfigError`` for unusable keys."""
        cache = DirectoryCache()
        if test_reachability:
            config = replace(config, probe=self._probe)
        self.authority = Authority(config, cache)
        # An authority is where relays begin: it can't wait for others to reach it.
        relay_config = replace(relay_config, assume_reachable=True)
        self.relay = RelayServer(
            relay_config, authority=self.authority.answer, cache=cache, on_event=on_event
        )
        self.authority.on_consensus.append(self._consensus_changed)

    async def start(self) -> None:
        """Listen on both ports and begin to vote. Raises ``ConfigError``."""
        await self.authority.dir_port.start()  # first: the relay half uploads its descriptor there
        await self.relay.start()
        await self.authority.start()

    async def close(self) -> None:
        """Stop both halves."""
        await self.authority.close()
        await self.relay.close()

    def _consensus_changed(self, consensus: Consensus) -> None:
        if consensus.flavour == "microdesc":
            self.relay.consensus_changed(consensus)

    async def _probe(self, router: RouterDescriptor) -> frozenset[int]:
        """By which IP versions a new link to the relay comes up and proves both of its identities."""
        if router.rsa_id == self.relay.keys.rsa.public.identity:
            return frozenset({4, 6})
        places = {4: (router.ip, router.orport)}
        if router.ipv6 is not None and self.authority.config.has_ipv6:
            places[6] = router.ipv6
        answers = await asyncio.gather(*(self._reaches(router, place) for place in places.values()))
        return frozenset(version for version, reached in zip(places, answers, strict=True) if reached)

    async def _reaches(self, router: RouterDescriptor, place: tuple[str, int]) -> bool:
        relay = Relay(router.nickname, router.rsa_id, router.ed_id, router.ntor_key, (place,))
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                link = await self.relay.links.connect(relay)
        except (PelureError, OSError, TimeoutError) as error:
            log.info(
                "%s does not answer at %s: %s", router.nickname, place[0], str(error) or "no answer in time"
            )
            return False
        return not link.closed
