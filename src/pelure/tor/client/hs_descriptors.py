"""A client's onion service descriptors: fetched, verified, kept while they are valid (rend-spec-v3 2.2)."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from pelure.errors import CryptoError, DirectoryError, OnionServiceError, PelureError
from pelure.tor.crypto.blinding import blind_public, blinding_factor, subcredential
from pelure.tor.crypto.keys import Rng
from pelure.tor.directory.netdir import NetDir
from pelure.tor.directory.relay import Relay
from pelure.tor.net import dir_http
from pelure.tor.net.circuit_source import CircuitSource
from pelure.tor.onion.descriptor import MissingClientAuth, WrongClientAuth, open_descriptor
from pelure.tor.onion.outer import MAX_DESCRIPTOR_LEN, OuterDescriptor
from pelure.tor.onion.ring import HsDirRing, RingParams
from pelure.tor.onion.second_layer import SecondLayer
from pelure.tor.onion.time_periods import PeriodSchedule

CIRCUIT_LENGTH = 4
FETCH_SECONDS = 30.0
CACHE_ENTRIES = 1024

NOT_FOUND = 0xF0
INVALID = 0xF1
MISSING_AUTH = 0xF4
WRONG_AUTH = 0xF5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServiceDescriptor:
    """An opened descriptor: its content, the subcredential it goes with, and its revision."""

    content: SecondLayer
    subcredential: bytes
    revision_counter: int


@dataclass(frozen=True)
class _Cached:
    outer: OuterDescriptor
    expires: float


class DescriptorClient:
    """Fetches descriptors of services, by their 32-byte identity keys."""

    def __init__(self, source: CircuitSource, rng: Rng) -> None:
        self._source = source
        self._rng = rng
        self._cache: dict[bytes, _Cached] = {}
        self._fetching: dict[bytes, asyncio.Task[OuterDescriptor]] = {}

    async def get(
        self, netdir: NetDir, identity: bytes, client_secrets: Iterable[bytes], *, refresh: bool = False
    ) -> ServiceDescriptor:
        """Return the service's descriptor in the time period of ``netdir``, opened with client secrets.

        ``refresh``: ask the directories even if a valid one is at hand. Raises :class:`OnionServiceError` with
        the SOCKS code of: not found, invalid, client key missing, client key wrong.
        """
        slot = PeriodSchedule.from_consensus(netdir, testing=netdir.network.testing).fetch_slot()
        try:
            factor = blinding_factor(identity, slot.period.number, slot.period.length)
            blinded_key = blind_public(identity, factor)
        except CryptoError as error:
            raise OnionServiceError("this onion address holds no usable key", INVALID) from error
        subcred = subcredential(identity, blinded_key)
        now = time.time()
        cached = self._cache.get(blinded_key)
        if cached is not None and cached.expires > now and not refresh:
            outer = cached.outer
        else:
            directories = [relay for relay in netdir.hsdirs if relay.protocols.supports("HSDir", 2)]
            ring = HsDirRing(directories, slot, RingParams.from_params(netdir.params))
            outer = await self._fetch_shared(blinded_key, ring.fetches(blinded_key))
        try:
            content = open_descriptor(outer, blinded_key, subcred, client_secrets, now)
        except MissingClientAuth as error:
            raise OnionServiceError(str(error), MISSING_AUTH) from error
        except WrongClientAuth as error:
            self._cache.pop(blinded_key, None)
            raise OnionServiceError(str(error), WRONG_AUTH) from error
        except (DirectoryError, CryptoError) as error:
            self._cache.pop(blinded_key, None)
            raise OnionServiceError(f"the onion service's descriptor is invalid: {error}", INVALID) from error
        return ServiceDescriptor(content, subcred, outer.revision_counter)

    async def _fetch_shared(self, blinded_key: bytes, directories: list[Relay]) -> OuterDescriptor:
        """Fetch once for everybody who waits for the same descriptor."""
        task = self._fetching.get(blinded_key)
        if task is None:
            task = asyncio.create_task(self._fetch(blinded_key, directories))
            self._fetching[blinded_key] = task
            task.add_done_callback(lambda done: self._fetched(blinded_key, done))
        return await asyncio.shield(task)

    def _fetched(self, blinded_key: bytes, task: asyncio.Task[OuterDescriptor]) -> None:
        del self._fetching[blinded_key]
        if not task.cancelled() and task.exception() is None:
            outer = task.result()
            while len(self._cache) >= CACHE_ENTRIES:
                del self._cache[next(iter(self._cache))]
            self._cache[blinded_key] = _Cached(outer, time.time() + outer.lifetime * 60)

    async def _fetch(self, blinded_key: bytes, directories: list[Relay]) -> OuterDescriptor:
        """Ask the directories in random order; the newest of invalid answers' reasons is what is told."""
        failure = OnionServiceError(
            "the onion service can't be found: it is not running, or never was", NOT_FOUND
        )
        for relay in sorted(directories, key=lambda _: self._rng(8)):
            try:
                async with asyncio.timeout(FETCH_SECONDS):
                    outer = await self._ask(relay, blinded_key)
            except TimeoutError:
                log.info("%s did not answer a descriptor request in time", relay.nickname)
            except CryptoError as error:
                log.info("%s sent a descriptor that doesn't verify: %s", relay.nickname, error)
                failure = OnionServiceError(f"the onion service's descriptor is invalid: {error}", INVALID)
            except PelureError as error:
                log.info("%s gave no descriptor: %s", relay.nickname, error)
            else:
                return outer
        raise failure

    async def _ask(self, relay: Relay, blinded_key: bytes) -> OuterDescriptor:
        circuit = await self._source.internal_circuit(relay, length=CIRCUIT_LENGTH, purpose="hsdir")
        try:
            stream = await circuit.begin_dir()
            name = base64.b64encode(blinded_key).decode("ascii").rstrip("=")
            answer = await dir_http.get(stream, f"/tor/hs/3/{name}", limit=MAX_DESCRIPTOR_LEN)
        finally:
            circuit.close()
        if answer.status != 200:
            raise DirectoryError(f"it answered with status {answer.status}")
        outer = OuterDescriptor.parse(answer.body, time.time())
        if outer.blinded_key != blinded_key:
            raise DirectoryError("it sent the descriptor of another onion service")
        return outer

    def forget(self) -> None:
        """Drop every descriptor."""
        self._cache.clear()
