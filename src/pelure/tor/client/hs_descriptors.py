"""A client's onion service descriptors: fetched, verified, kept while they are valid (rend-spec-v3 2.2)."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from pelure.errors import CryptoError, DirectoryError, OnionServiceError, PelureError
from pelure.tor.crypto.blinding import blind_public, blinding_factor, subcredential
from pelure.tor.crypto.keys import Rng
from pelure.tor.directory.netdir import NetDir
from pelure.tor.directory.relay import Relay
from pelure.tor.net import dir_http
from pelure.tor.net.circuit_source import CircuitSource
from pelure.tor.net.dir_http import DirResponse
from pelure.tor.onion.descriptor import MissingClientAuth, WrongClientAuth, open_descriptor
from pelure.tor.onion.outer import MAX_DESCRIPTOR_LEN, OuterDescriptor
from pelure.tor.onion.ring import HsDirRing, RingParams
from pelure.tor.onion.second_layer import SecondLayer
from pelure.tor.onion.time_periods import PeriodSchedule, PeriodSlot

CIRCUIT_LENGTH = 4
FETCH_SECONDS = 30.0
HEDGE_SECONDS = 5.0
CACHE_ENTRIES = 1024

NOT_FOUND = 0xF0
INVALID = 0xF1
MISSING_AUTH = 0xF4
WRONG_AUTH = 0xF5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServiceDescriptor:
    """An opened descriptor: its content, the keys and subcredential it goes with, and its revision."""

    content: SecondLayer
    blinded_key: bytes
    signing_key: bytes
    subcredential: bytes = field(repr=False)
    revision_counter: int


@dataclass(frozen=True)
class _Cached:
    """A fetched descriptor, and what it held for each set of client secrets that it was opened with."""

    outer: OuterDescriptor
    expires: float
    opened: dict[frozenset[bytes], ServiceDescriptor] = field(default_factory=dict, repr=False)

    def is_good(self, now: float, newer_than: int) -> bool:
        """Whether it is valid and new enough, and the seed for proofs of work has not expired (327, 3.2)."""
        params = [one.content.pow_params for one in self.opened.values()]
        seed_is_good = all(one is None or one.expires > now for one in params)
        return self.expires > now and self.outer.revision_counter > newer_than and seed_is_good


class DescriptorClient:
    """Fetches descriptors of services, by their 32-byte identity keys."""

    def __init__(self, source: CircuitSource, rng: Rng) -> None:
        self._source = source
        self._rng = rng
        self._cache: dict[bytes, _Cached] = {}
        self._fetching: dict[tuple[bytes, int], asyncio.Task[_Cached]] = {}
        self._rings: WeakKeyDictionary[NetDir, HsDirRing[Relay]] = WeakKeyDictionary()

    async def get(
        self, netdir: NetDir, identity: bytes, client_secrets: Iterable[bytes], *, newer_than: int = -1
    ) -> ServiceDescriptor:
        """Return the service's descriptor in the time period of ``netdir``, opened with client secrets.

        ``newer_than`` is the revision counter of one that was of no use: the directories are asked for a
        later one, and an older one is taken only if none has that. Raises :class:`OnionServiceError` with
        the SOCKS code of: not found, invalid, client key missing, client key wrong.
        """
        slot = PeriodSchedule.from_consensus(netdir, testing=netdir.network.testing).fetch_slot()
        try:
            factor = blinding_factor(identity, slot.period.number, slot.period.length)
            blinded_key = blind_public(identity, factor)
        except CryptoError as error:
            raise OnionServiceError("this onion address holds no usable key", INVALID) from error
        subcred = subcredential(identity, blinded_key)
        cached = self._cache.get(blinded_key)
        if cached is None or not cached.is_good(time.time(), newer_than):
            directories = self._ring(netdir, slot).fetches(blinded_key)
            cached = await self._fetch_shared(blinded_key, directories, newer_than)
        secrets = frozenset(client_secrets)
        if secrets not in cached.opened:
            cached.opened[secrets] = self._open(cached.outer, blinded_key, subcred, secrets)
        return cached.opened[secrets]

    def _ring(self, netdir: NetDir, slot: PeriodSlot) -> HsDirRing[Relay]:
        """The ring of ``netdir``'s time period, made once: thousands of relays are hashed for it."""
        ring = self._rings.get(netdir)
        if ring is None:
            directories = [relay for relay in netdir.hsdirs if relay.protocols.supports("HSDir", 2)]
            ring = HsDirRing(directories, slot, RingParams.from_params(netdir.params))
            self._rings[netdir] = ring
        return ring

    def _open(
        self, outer: OuterDescriptor, blinded_key: bytes, subcred: bytes, secrets: frozenset[bytes]
    ) -> ServiceDescriptor:
        try:
            content = open_descriptor(outer, blinded_key, subcred, secrets, time.time())
        except MissingClientAuth as error:
            self._cache.pop(blinded_key, None)  # the service may be open to all by the next time
            raise OnionServiceError(str(error), MISSING_AUTH) from error
        except WrongClientAuth as error:
            self._cache.pop(blinded_key, None)
            raise OnionServiceError(str(error), WRONG_AUTH) from error
        except (DirectoryError, CryptoError) as error:
            self._cache.pop(blinded_key, None)
            raise OnionServiceError(f"the onion service's descriptor is invalid: {error}", INVALID) from error
        return ServiceDescriptor(content, blinded_key, outer.signing_key, subcred, outer.revision_counter)

    async def _fetch_shared(self, blinded_key: bytes, directories: list[Relay], newer_than: int) -> _Cached:
        """Fetch once for everybody who waits for the same descriptor."""
        key = blinded_key, newer_than
        task = self._fetching.get(key)
        if task is None:
            task = asyncio.create_task(self._fetch_and_keep(blinded_key, directories, newer_than))
            self._fetching[key] = task
            task.add_done_callback(lambda done: self._fetched(key, done))
        return await asyncio.shield(task)

    def _fetched(self, key: tuple[bytes, int], task: asyncio.Task[_Cached]) -> None:
        del self._fetching[key]
        if not task.cancelled():
            task.exception()  # whoever asked may be gone: nobody has to be told then

    async def _fetch_and_keep(self, blinded_key: bytes, directories: list[Relay], newer_than: int) -> _Cached:
        outer = await self._fetch(blinded_key, directories, newer_than)
        while len(self._cache) >= CACHE_ENTRIES:
            del self._cache[next(iter(self._cache))]
        cached = self._cache[blinded_key] = _Cached(outer, time.time() + outer.lifetime * 60)
        return cached

    async def _fetch(self, blinded_key: bytes, directories: list[Relay], newer_than: int) -> OuterDescriptor:
        """Ask the directories in random order; a slow one gets a rival after some seconds."""
        waiting = sorted(directories, key=lambda _: self._rng(8))
        running: set[asyncio.Task[OuterDescriptor]] = set()
        failure = OnionServiceError("the onion service can't be found: is it running?", NOT_FOUND)
        older: OuterDescriptor | None = None
        try:
            while waiting or running:
                if waiting:
                    running.add(asyncio.create_task(self._ask(waiting.pop(0), blinded_key)))
                patience = HEDGE_SECONDS if waiting else None
                done, running = await asyncio.wait(
                    running, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    try:
                        outer = task.result()
                    except OnionServiceError as error:
                        failure = error if error.code == INVALID else failure
                    else:
                        if outer.revision_counter > newer_than:
                            return outer
                        older = outer
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if older is None:
            raise failure
        return older

    async def _ask(self, relay: Relay, blinded_key: bytes) -> OuterDescriptor:
        """Ask one directory. Raises :class:`OnionServiceError`: not found, or invalid."""
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                answer = await self._request(relay, blinded_key)
        except (PelureError, TimeoutError) as error:
            log.info("%s gave no descriptor: %s", relay.nickname, error or "it did not answer in time")
            raise OnionServiceError(f"{relay.nickname} did not answer", NOT_FOUND) from error
        if answer.status != 200:
            log.info("%s has no descriptor (status %d)", relay.nickname, answer.status)
            raise OnionServiceError(f"{relay.nickname} has no descriptor", NOT_FOUND)
        try:
            outer = OuterDescriptor.parse(answer.body, time.time())
        except (DirectoryError, CryptoError) as error:
            log.info("%s sent a descriptor that can't be used: %s", relay.nickname, error)
            raise OnionServiceError(f"the onion service's descriptor is invalid: {error}", INVALID) from error
        if outer.blinded_key != blinded_key:
            log.info("%s sent the descriptor of another onion service", relay.nickname)
            raise OnionServiceError("a directory sent the descriptor of another onion service", INVALID)
        return outer

    async def _request(self, relay: Relay, blinded_key: bytes) -> DirResponse:
        circuit = await self._source.internal_circuit(relay, length=CIRCUIT_LENGTH, purpose="hsdir")
        try:
            stream = circuit.open_dir()
            name = base64.b64encode(blinded_key).decode("ascii").rstrip("=")
            return await dir_http.get(stream, f"/tor/hs/3/{name}", limit=MAX_DESCRIPTOR_LEN)
        finally:
            circuit.close()

    def forget(self) -> None:
        """Drop every descriptor."""
        self._cache.clear()
