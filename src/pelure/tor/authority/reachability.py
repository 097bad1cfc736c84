"""Which relays run, by an authority's own tests (dir-spec, "Running")."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from pelure.tor.directory.router_descriptor import RouterDescriptor

MAX_PROBES = 50
log = logging.getLogger(__name__)
Probe = Callable[[RouterDescriptor], Awaitable[frozenset[int]]]
"""Tells by which IP versions (4, 6) a relay answers at the ORPorts of its descriptor."""


class Reachability:
    """What tests of the relays in ``routers`` (descriptors by RSA identity) found.

    Without ``probe`` all relays are taken to run. ``has_ipv6``: this machine reaches IPv6 addresses.
    """

    def __init__(
        self, routers: Mapping[bytes, RouterDescriptor], probe: Probe | None, *, has_ipv6: bool
    ) -> None:
        self.found: dict[bytes, frozenset[int]] = {}
        self._routers = routers
        self._probe = probe
        self._has_ipv6 = has_ipv6

    def runs(self, rsa_id: bytes) -> bool:
        """Whether the relay answers by IPv4 and, as far as we can tell, at its IPv6 address if it has one."""
        if self._probe is None:
            return True
        router = self._routers.get(rsa_id)
        needed = {4, 6} if self._has_ipv6 and router is not None and router.ipv6 else {4}
        return needed <= self.found.get(rsa_id, frozenset())

    def ipv6_works(self, rsa_id: bytes) -> bool:
        """Whether the relay answers at its IPv6 address, as far as this machine can tell."""
        if not self._has_ipv6:
            return False
        return self._probe is None or 6 in self.found.get(rsa_id, frozenset())

    async def test_all(self, on_found: Callable[[], None]) -> None:
        """Try every relay; call ``on_found`` after each."""
        if self._probe is None:
            return
        probe, limit = self._probe, asyncio.Semaphore(MAX_PROBES)

        async def one(router: RouterDescriptor) -> None:
            async with limit:
                try:
                    self.found[router.rsa_id] = await probe(router)
                except Exception:
                    log.exception("bug: testing whether %s can be reached", router.nickname)
            on_found()

        known = dict(self._routers)
        self.found = {key: value for key, value in self.found.items() if key in known}
        await asyncio.gather(*(one(router) for router in known.values()))
