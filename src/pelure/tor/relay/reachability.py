"""Whether others reach this relay's ORPorts, found out before it is published (tor-spec 5.3.1, dir-spec 2.1).

As in C tor: circuits are built that end at this relay itself, by way of two others of the network. The last
hop's CREATE2 comes on a link that the other relay opened, to the address that would be published, or it does
not come. Any link that a relay opens to this one proves as much.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
from collections.abc import Callable, Sequence

from pelure.errors import DirectoryError
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.directory.cache import DirectoryCache
from pelure.tor.directory.microdescriptor import parse_microdescriptor
from pelure.tor.directory.netdir import make_relay
from pelure.tor.directory.relay import Relay
from pelure.tor.net.link import Link
from pelure.tor.net.links import LinkManager
from pelure.tor.net.origin import Circuit

log = logging.getLogger(__name__)

ATTEMPT_SECONDS = 30.0
PAUSE_SECONDS = 5.0  # between two attempts
COMPLAIN_AFTER = 4  # attempts: others may have failed for reasons of their own
COMPLAIN_SECONDS = 1200.0  # until it is said again
HINT = (
    "open the port in the firewall, or forward it on the router, and check the address; "
    "it is not published before others reach it (AssumeReachable 1: publish anyway)"
)
OnVerdict = Callable[[int, bool], None]


class ReachabilityTest:
    """The test of one relay. ``on_verdict(version, reachable)`` hears of each IP version's outcome; a bad one
    is repeated now and then as long as it lasts."""

    def __init__(
        self, links: LinkManager, cache: DirectoryCache, params: CircuitParams, on_verdict: OnVerdict
    ) -> None:
        self._links = links
        self._cache = cache
        self._params = params
        self._on_verdict = on_verdict
        self._reached = {4: asyncio.Event(), 6: asyncio.Event()}

    def create_came(self, link: Link) -> None:
        """A circuit was asked for on ``link``: if another relay opened it, this one can be reached."""
        if link.initiator or link.peer.rsa_id is None:
            return
        self._reached[ipaddress.ip_address(link.address[0].partition("%")[0]).version].set()

    async def reach(self, me: Relay) -> None:
        """Try until ``me``, this relay with one address only, is reached."""
        version = ipaddress.ip_address(me.addresses[0][0]).version
        reached = self._reached[version]
        complained = -COMPLAIN_SECONDS
        tried = 0
        loop = asyncio.get_running_loop()
        while not reached.is_set():
            path = self._path(me, version)
            if path:
                tried += 1
                await self._attempt([*path, me], reached)
            if tried >= COMPLAIN_AFTER and loop.time() > complained + COMPLAIN_SECONDS:
                complained = loop.time()
                self._on_verdict(version, False)
            if not reached.is_set():
                await _wait(reached, PAUSE_SECONDS)
        self._on_verdict(version, True)

    async def _attempt(self, path: Sequence[Relay], reached: asyncio.Event) -> None:
        building = asyncio.ensure_future(
            Circuit.build(self._links, path, params=self._params, timeout=ATTEMPT_SECONDS)
        )
        waiting = asyncio.ensure_future(reached.wait())
        try:
            await asyncio.wait({building, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if building.done() and (error := building.exception()) is not None:
                log.info("a circuit to test whether this relay can be reached: %s", error)
        finally:
            waiting.cancel()
            building.cancel()
            results = await asyncio.gather(building, waiting, return_exceptions=True)
            if isinstance(results[0], Circuit):
                results[0].close()

    def _path(self, me: Relay, version: int) -> list[Relay]:
        """Two relays to reach this one by; the second has no link to it yet, or none would be opened."""
        consensus = self._cache.consensus("microdesc")
        if consensus is None:
            return []
        running = [one for one in consensus.routers if "Running" in one.flags and one.rsa_id != me.rsa_id]
        random.shuffle(running)
        found: list[Relay] = []
        for status in running:
            text = self._cache.microdescriptor(status.md_digest)
            if text is None:
                continue
            try:
                relay = make_relay(status, parse_microdescriptor(text))
            except DirectoryError:
                continue
            last = not found
            if last and (
                self._links.find(relay) or (version == 6 and not relay.protocols.supports("Relay", 3))
            ):
                continue
            found.insert(0, relay)
            if len(found) == 2:
                return found
        return []


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
