"""Which relays run, by an authority's own tests (dir-spec, "Running")."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from pelure.tor.directory.router_descriptor import RouterDescriptor

MAX_PROBES = 50
RETRY_SECONDS = 5.0
"""A relay that does not answer is asked again after so long, then after twice as long, and so on."""
log = logging.getLogger(__name__)
Probe = Callable[[RouterDescriptor], Awaitable[frozenset[int]]]
"""Tells by which IP versions (4, 6) a relay answers at the ORPorts of its descriptor."""


class Until(Protocol):
    """Waits for ``moment`` (epoch seconds), or until ``enough`` holds."""

    def __call__(self, moment: float, enough: Callable[[], bool], /) -> Awaitable[None]: ...


class Reachability:
    """What tests of the relays in ``routers`` (descriptors by RSA identity) found.

    ``complete``: all relays that were known in the beginning have been tested; nothing can be said before.

    Without ``probe`` all relays are taken to run. ``has_ipv6``: this machine reaches IPv6 addresses.
    """

    def __init__(
        self, routers: Mapping[bytes, RouterDescriptor], probe: Probe | None, *, has_ipv6: bool
    ) -> None:
        self.found: dict[bytes, frozenset[int]] = {}
        self.complete = probe is None
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

    async def test_forever(self, interval: float, until: Until, on_found: Callable[[], None]) -> None:
        """Try every relay each ``interval`` seconds, new ones as they come; call ``on_found`` after each."""
        while True:
            known = dict(self._routers)
            self.found = {key: value for key, value in self.found.items() if key in known}
            await self._test(known.values(), on_found)
            self.complete = True
            on_found()
            await self._ask_again(time.time() + interval, known, until, on_found)

    async def _ask_again(
        self, end: float, known: dict[bytes, RouterDescriptor], until: Until, on_found: Callable[[], None]
    ) -> None:
        """Until ``end``, or a new relay comes, try those of ``known`` again that did not answer."""
        pause = RETRY_SECONDS
        while True:
            await until(min(end, time.time() + pause), lambda: bool(self._routers.keys() - known.keys()))
            if time.time() >= end or self._routers.keys() - known.keys():
                return
            pause *= 2
            await self._test([one for key, one in known.items() if not self.runs(key)], on_found)

    async def _test(self, routers: Iterable[RouterDescriptor], on_found: Callable[[], None]) -> None:
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

        await asyncio.gather(*(one(router) for router in routers))
