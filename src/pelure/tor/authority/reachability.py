"""Which relays run, by an authority's own tests (dir-spec, "Running")."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
        self._tested: dict[bytes, tuple[object, ...]] = {}
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
        """Try every relay each ``interval`` seconds, new ones and those that moved as they come.

        Calls ``on_found`` after each.
        """
        while True:
            self.found = {key: value for key, value in self.found.items() if key in self._routers}
            self._tested = {key: value for key, value in self._tested.items() if key in self._routers}
            await self._test(list(self._routers.values()), on_found)
            self.complete = True
            on_found()
            await self._ask_again(time.time() + interval, until, on_found)

    async def _ask_again(self, end: float, until: Until, on_found: Callable[[], None]) -> None:
        """Until ``end`` test addresses as they become known, and again those that did not answer."""
        pause = RETRY_SECONDS
        retry_at = time.time() + pause
        while True:
            await until(min(end, retry_at), lambda: bool(self._untested()))
            if time.time() >= end:
                return
            if routers := self._untested():
                pause = RETRY_SECONDS
                retry_at = min(retry_at, time.time() + pause)
            else:
                routers = [one for key, one in self._routers.items() if not self.runs(key)]
                pause *= 2
                retry_at = time.time() + pause
            await self._test(routers, on_found)

    def _untested(self) -> list[RouterDescriptor]:
        return [one for key, one in self._routers.items() if self._tested.get(key) != _places(one)]

    async def _test(self, routers: Sequence[RouterDescriptor], on_found: Callable[[], None]) -> None:
        if self._probe is None:
            return
        probe, limit = self._probe, asyncio.Semaphore(MAX_PROBES)
        self._tested.update((router.rsa_id, _places(router)) for router in routers)

        async def one(router: RouterDescriptor) -> None:
            async with limit:
                try:
                    self.found[router.rsa_id] = await probe(router)
                except Exception:
                    log.exception("bug: testing whether %s can be reached", router.nickname)
            on_found()

        await asyncio.gather(*(one(router) for router in routers))


def _places(router: RouterDescriptor) -> tuple[object, ...]:
    """Who is to answer, and where."""
    return router.ed_id, router.ip, router.orport, router.ipv6
