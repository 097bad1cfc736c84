"""Connecting to an onion service: descriptor, rendezvous point, introduction, joined circuit (rend-spec-v3).

The rendezvous circuit is built while the descriptor is fetched; introduction points are tried in random
order, those that failed lately last; when all of them fail, the descriptor is fetched anew, once. A service
that asks for work gets a proof with the introduction, one that did not answer is offered more.
Failures carry the SOCKS codes of proposal 304.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Hashable, Iterable
from typing import TypeVar

from pelure.errors import ConfigError, OnionServiceError, PelureError
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.client.hs_descriptors import DescriptorClient, ServiceDescriptor
from pelure.tor.client.hs_events import ClientEvent, DescriptorOpened, Introduced, OnClientEvent
from pelure.tor.client.hs_rendezvous import INTRODUCTION_FAILED, RENDEZVOUS_FAILED, Meeting, reach
from pelure.tor.client.pow import Work, most_workers
from pelure.tor.crypto.address import decode_address
from pelure.tor.crypto.keys import Rng
from pelure.tor.net.circuit_source import CircuitSource
from pelure.tor.net.netdir_source import NetDirSource, current_netdir
from pelure.tor.net.origin import Circuit
from pelure.tor.onion.client_auth import ClientAuthKey
from pelure.tor.onion.pow import Puzzle, client_effort
from pelure.tor.onion.second_layer import IntroPoint

BAD_ADDRESS = 0xF6
RENDEZVOUS_ATTEMPTS = 3
ANSWER_SECONDS = (10.0, 20.0, 30.0)
"""How long the service may take to come to the first rendezvous point, the second, the third."""
FAILURE_SECONDS = 120.0
"""For so long an introduction point that failed is tried after the others, and a service that did not answer
is offered more work."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class Unanswered(OnionServiceError):
    """An introduction was passed on, but the service did not come.

    The introduction point may not know yet that the service has left it: a descriptor newer than
    ``revision`` is wanted.
    """

    def __init__(self, failure: OnionServiceError, revision: int) -> None:
        super().__init__(str(failure), failure.code)
        self.revision = revision


class OnionClient:
    """See the module. ``client_keys``: the keys that open a service's descriptor, by its 32-byte identity."""

    def __init__(
        self,
        source: CircuitSource,
        directory: NetDirSource,
        *,
        on_event: OnClientEvent | None = None,
        rng: Rng = os.urandom,
    ) -> None:
        self.client_keys: dict[bytes, list[ClientAuthKey]] = {}
        self._source = source
        self._directory = directory
        self._on_event = on_event
        self._rng = rng
        self._descriptors = DescriptorClient(source, rng)
        self._failed: dict[bytes, float] = {}
        self._unanswered: list[tuple[bytes, float]] = []
        self._places = asyncio.Semaphore(most_workers())

    async def connect(self, address: str, isolation: Hashable = None) -> Circuit:
        """Return a new circuit that ends at the service, for streams by ``circuit.begin("", port)``.

        It is the caller's to share among streams of one ``isolation``, and to close. Raises
        :class:`OnionServiceError`, its ``code`` as proposal 304 has it, and :class:`DirectoryError` before
        the network's directory is known.
        """
        try:
            identity = decode_address(address)
        except ConfigError as error:
            raise OnionServiceError(str(error), BAD_ADDRESS) from error
        secrets = [key.secret for key in self.client_keys.get(identity, ())]
        newer_than = -1
        for patience in ANSWER_SECONDS:
            try:
                return await self._connect(identity, secrets, patience, newer_than)
            except OnionServiceError as error:
                if error.code != RENDEZVOUS_FAILED or patience == ANSWER_SECONDS[-1]:
                    raise
                if isinstance(error, Unanswered):
                    newer_than = error.revision
                log.info("A rendezvous failed, trying another rendezvous point: %s", error)
        raise AssertionError("the last attempt returns or raises")

    def forget(self) -> None:
        """Fetch descriptors anew and take no notice of earlier failures (a *new identity*)."""
        self._descriptors.forget()
        self._failed.clear()
        self._unanswered.clear()

    def _emit(self, event: ClientEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)

    async def _connect(
        self, identity: bytes, secrets: list[bytes], patience: float, newer_than: int
    ) -> Circuit:
        arranging = asyncio.create_task(self._arrange())
        try:
            descriptor = await self._descriptor(identity, secrets, newer_than)
            try:
                meeting, point = await self._introduce(arranging, identity, descriptor)
            except OnionServiceError as error:
                if error.code == RENDEZVOUS_FAILED:
                    raise
                log.info("No introduction point of the descriptor at hand works: %s", error)
                descriptor = await self._descriptor(identity, secrets, descriptor.revision_counter)
                meeting, point = await self._introduce(arranging, identity, descriptor)
            try:
                return await meeting.join(self._emit, patience)
            except OnionServiceError as error:
                self._failed[point.auth_key] = time.monotonic()
                self._unanswered.append((identity, time.monotonic()))
                raise Unanswered(error, descriptor.revision_counter) from error
        except BaseException:
            arranged = await _abandon(arranging)
            if arranged is not None:
                arranged.circuit.close()
            raise

    async def _arrange(self) -> Meeting:
        failure: PelureError | None = None
        for _ in range(RENDEZVOUS_ATTEMPTS):
            try:
                return await Meeting.arrange(self._source, self._rng, self._emit)
            except PelureError as error:
                failure = error
        raise OnionServiceError(f"no rendezvous point can be reached: {failure}", RENDEZVOUS_FAILED)

    async def _descriptor(
        self, identity: bytes, secrets: list[bytes], newer_than: int = -1
    ) -> ServiceDescriptor:
        began = time.monotonic()
        netdir = current_netdir(self._directory)
        descriptor = await self._descriptors.get(netdir, identity, secrets, newer_than=newer_than)
        self._emit(DescriptorOpened(len(descriptor.content.intro_points), time.monotonic() - began))
        return descriptor

    async def _introduce(
        self, arranging: asyncio.Task[Meeting], identity: bytes, descriptor: ServiceDescriptor
    ) -> tuple[Meeting, IntroPoint]:
        """Introduce ourselves through any introduction point; returns which. Raises ``OnionServiceError``."""
        params = CircuitParams.from_consensus(current_netdir(self._directory).params)
        failure = OnionServiceError("the onion service has no introduction point now", INTRODUCTION_FAILED)
        work = Work(self._puzzle(identity, descriptor), self._rng, self._emit, self._places)
        try:
            for point in self._in_order(descriptor.content.intro_points):
                began = time.monotonic()
                work.begin()
                reaching = asyncio.create_task(reach(self._source, point))
                preparing: asyncio.Task[bytes] | None = None
                try:
                    meeting = await asyncio.shield(arranging)
                    preparing = asyncio.create_task(
                        meeting.prepare(point, descriptor, params, self._rng, work)
                    )
                    circuit, body = await reaching, await preparing
                    work.spent()
                    await meeting.introduce(circuit, body)
                except OnionServiceError as error:
                    if error.code == RENDEZVOUS_FAILED:
                        raise
                    if meeting.circuit.closed.is_set():
                        raise OnionServiceError("the rendezvous point was lost", RENDEZVOUS_FAILED) from error
                    self._failed[point.auth_key] = time.monotonic()
                    failure = error
                else:
                    relay = point.relay()
                    relay = current_netdir(self._directory).by_rsa.get(relay.rsa_id, relay)
                    self._emit(Introduced(relay.nickname, time.monotonic() - began))
                    return meeting, point
                finally:
                    if preparing is not None:
                        await _abandon(preparing)
                    reached = await _abandon(reaching)
                    if reached is not None:
                        reached.close()
        finally:
            await work.close()
        raise failure

    def _puzzle(self, identity: bytes, descriptor: ServiceDescriptor) -> Puzzle | None:
        """What to solve for an introduction: of more effort after each that was not answered lately."""
        params = descriptor.content.pow_params
        if params is None:
            return None
        since = time.monotonic() - FAILURE_SECONDS
        self._unanswered = [one for one in self._unanswered if one[1] > since]
        effort = client_effort(params.effort, sum(one[0] == identity for one in self._unanswered))
        return Puzzle(descriptor.blinded_key, params.seed, effort) if effort else None

    def _in_order(self, points: Iterable[IntroPoint]) -> list[IntroPoint]:
        """Random order, but those that failed lately come last, the latest failure at the very end."""
        now = time.monotonic()
        self._failed = {key: at for key, at in self._failed.items() if now - at < FAILURE_SECONDS}
        return sorted(points, key=lambda point: (self._failed.get(point.auth_key, 0.0), self._rng(8)))


async def _abandon(task: asyncio.Task[T]) -> T | None:
    """End a task; returns its result if it had one already."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return None if task.cancelled() or task.exception() is not None else task.result()
