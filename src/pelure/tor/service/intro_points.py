"""Keeps a service's introduction points alive (rend-spec-v3 2.5.4, 3.1; C tor's lifetimes and retries).

One worker holds one introduction point: it builds a circuit, registers, returns to the same relay with the
same keys when only the circuit was lost, and replaces the point when its relay is gone, its time is over or
its replay cache is full. A replacement is up, and in the published descriptors, before the old one ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from functools import partial

from pelure.errors import PathError, PelureError, ProtocolError
from pelure.tor.cell.commands import RelayCommand
from pelure.tor.cell.extensions import DosParameters, Extension
from pelure.tor.cell.onion_messages import EstablishIntro, Introduce2
from pelure.tor.circuit.events import RelayMessageReceived
from pelure.tor.crypto.keys import Rng
from pelure.tor.directory.relay import Relay
from pelure.tor.net.circuit_source import CircuitSource
from pelure.tor.net.origin import Circuit
from pelure.tor.net.supervision import supervised
from pelure.tor.onion.introduction import IntroKeys
from pelure.tor.onion.replay import INTRODUCTIONS_MAX, INTRODUCTIONS_MIN, ReplayCache
from pelure.tor.onion.second_layer import IntroPoint
from pelure.tor.service.events import IntroPointEstablished, IntroPointLost, OnEvent

CIRCUIT_LENGTH = 3
LIFETIME_SECONDS_MIN = 18 * 3600.0
LIFETIME_SECONDS_MAX = 24 * 3600.0
ESTABLISH_SECONDS = 30.0
RETURN_ATTEMPTS = 2
PICKS = 5
RETRY_SECONDS_FIRST = 0.5
RETRY_SECONDS_MAX = 60.0
ROTATION_SECONDS = 30.0
PUBLICATION_SECONDS = 10.0
"""For so long the old introduction points may outlive the rotation that replaces them."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class ServiceIntroPoint:
    """One introduction point from the service's side. ``expires``: monotonic; ``holder``: its worker."""

    relay: Relay
    keys: IntroKeys
    replay: ReplayCache
    expires: float
    circuit: Circuit
    holder: asyncio.Task[None] | None
    spent: asyncio.Event = field(default_factory=asyncio.Event)

    def describe(self) -> IntroPoint:
        """The point as the descriptor names it."""
        assert self.relay.ntor_key is not None  # no circuit could have been built to it
        specifiers = tuple(self.relay.link_specifiers())
        return IntroPoint(specifiers, self.relay.ntor_key, self.keys.auth.public, self.keys.enc_public)


OnIntroduction = Callable[[ServiceIntroPoint, Introduce2], None]


class IntroPoints:
    """See the module. ``changed`` is awaited after the set changed: it publishes what is in ``listed``."""

    def __init__(
        self,
        source: CircuitSource,
        count: int,
        on_introduction: OnIntroduction,
        changed: Callable[[], Awaitable[None]],
        back: Callable[[], None],
        emit: OnEvent,
        rng: Rng,
        dos: DosParameters | None = None,
    ) -> None:
        """``back`` is called when the first circuit is there again after all of them were lost.

        ``dos``: how introduction points shall limit introductions, None for the network's own limit.
        """
        self.count = count
        self.listed: list[ServiceIntroPoint] = []
        self._source = source
        self._on_introduction = on_introduction
        self._changed = changed
        self._back = back
        self._cut_off = False
        self._emit = emit
        self._rng = rng
        self._dos = dos
        self._points: set[ServiceIntroPoint] = set()
        self._workers: set[asyncio.Task[None]] = set()
        self._rotating = asyncio.Lock()
        self._rotations = 0

    def start(self) -> None:
        """Begin to establish ``count`` introduction points."""
        for _ in range(self.count):
            self._spawn(asyncio.Event())

    def _spawn(self, up: asyncio.Event) -> None:
        work = supervised(partial(self._hold, up), "holding an introduction point")
        worker = asyncio.create_task(work)
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    async def close(self) -> None:
        """End every introduction point; the published descriptor goes on naming them."""
        await self._end_workers(set(self._workers))
        for point in list(self._points):
            self._end(point)
        self.listed.clear()

    async def rotate(self) -> None:
        """Replace every introduction point by another with new keys, and end the old ones.

        Returns when the old ones are gone: nobody can introduce himself by a descriptor from before. Several
        calls at once share one rotation, but never one that had begun before the call.
        """
        begun_before = self._rotations
        async with self._rotating:
            if self._rotations > begun_before:
                return
            self._rotations += 1
            await self._rotate()

    async def _rotate(self) -> None:
        old = set(self._workers)
        ups = [asyncio.Event() for _ in range(self.count)]
        for up in ups:
            self._spawn(up)
        try:
            async with asyncio.timeout(ROTATION_SECONDS):
                for up in ups:
                    await up.wait()
        except TimeoutError:
            log.warning("Not all new introduction points could be established in time")
        await self._end_workers(old)
        self.listed = [point for point in self.listed if point.holder not in old]
        try:
            async with asyncio.timeout(PUBLICATION_SECONDS):
                await self._changed()
        except TimeoutError:
            log.info("The new introduction points are still being published")
        for point in [point for point in self._points if point.holder in old]:
            self._end(point)

    async def _end_workers(self, workers: Collection[asyncio.Task[None]]) -> None:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    def _end(self, point: ServiceIntroPoint) -> None:
        self._points.discard(point)
        point.circuit.close()

    async def _hold(self, up: asyncio.Event) -> None:
        """Hold one introduction point after the other, until cancelled; ``up`` is set with the first."""
        me = asyncio.current_task()
        while True:
            point = await self._establish_somewhere()
            self.listed = [one for one in self.listed if one.holder is not me] + [point]
            up.set()
            if not self._rotating.locked():  # else the rotation publishes all of them at once
                await self._changed()
            for older in [one for one in self._points if one.holder is me and one is not point]:
                self._end(older)
            await self._keep(point)

    async def _establish_somewhere(self) -> ServiceIntroPoint:
        pause = RETRY_SECONDS_FIRST
        while True:
            try:
                return await self._establish(await self._circuit_to_another_relay())
            except PelureError as error:
                log.info("No introduction point could be established, trying again: %s", error)
                await asyncio.sleep(pause * (0.5 + self._fraction()))
                pause = min(2 * pause, RETRY_SECONDS_MAX)

    async def _establish(self, circuit: Circuit) -> ServiceIntroPoint:
        """Make the end of ``circuit`` an introduction point with fresh keys."""
        lifetime = LIFETIME_SECONDS_MIN + (LIFETIME_SECONDS_MAX - LIFETIME_SECONDS_MIN) * self._fraction()
        introductions = INTRODUCTIONS_MIN + int((INTRODUCTIONS_MAX - INTRODUCTIONS_MIN) * self._fraction())
        point = ServiceIntroPoint(
            circuit.path[-1],
            IntroKeys.generate(self._rng),
            ReplayCache(introductions),
            time.monotonic() + lifetime,
            circuit,
            asyncio.current_task(),
        )
        self._points.add(point)
        try:
            await self._register(point)
        except BaseException:
            self._end(point)
            raise
        return point

    async def _circuit_to_another_relay(self) -> Circuit:
        """Prefer relays that are no introduction point yet; a small network may have no other.

        Another worker may have taken the relay while the circuit was being built: then once more.
        """
        for _ in range(PICKS):
            taken = {point.relay for point in self._points}
            try:
                circuit = await self._source.internal_circuit(
                    None, length=CIRCUIT_LENGTH, purpose="intro", exclude=taken
                )
            except PathError:
                break
            if all(point.relay != circuit.path[-1] for point in self._points):
                return circuit
            circuit.close()
        return await self._source.internal_circuit(None, length=CIRCUIT_LENGTH, purpose="intro")

    async def _register(self, point: ServiceIntroPoint) -> None:
        """Make the end of the point's circuit the introduction point (ESTABLISH_INTRO)."""
        began, circuit = time.monotonic(), point.circuit
        circuit.on_message = lambda message: self._on_message(point, message)
        try:
            request = EstablishIntro.create(point.keys.auth, circuit.kh(), self._extensions(point.relay))
            circuit.send(request.command, request.encode())
            await circuit.expect(RelayCommand.INTRO_ESTABLISHED, timeout=ESTABLISH_SECONDS)
        except BaseException:
            circuit.close()
            raise
        log.info("%s is an introduction point now", point.relay.nickname)
        self._emit(IntroPointEstablished(point.relay.nickname, time.monotonic() - began))

    def _extensions(self, relay: Relay) -> list[Extension]:
        if self._dos is None or not relay.protocols.supports("HSIntro", 5):
            return []
        return [self._dos.extension()]

    async def _keep(self, point: ServiceIntroPoint) -> None:
        """Return when the point is to be replaced."""
        while True:
            try:
                async with asyncio.timeout(max(point.expires - time.monotonic(), 0)):
                    if await _first(point.circuit.closed, point.spent) is point.spent:
                        return
            except TimeoutError:
                return
            reason = str(point.circuit.error or "the circuit was closed")
            log.info("The circuit to introduction point %s was lost: %s", point.relay.nickname, reason)
            self._emit(IntroPointLost(point.relay.nickname, reason))
            self._cut_off |= all(one.circuit.closed.is_set() for one in self.listed)
            if not await self._return_to(point):
                return
            if self._cut_off:
                self._cut_off = False
                self._back()

    async def _return_to(self, point: ServiceIntroPoint) -> bool:
        """Register again at the same relay with the same keys, so that the descriptor stays true."""
        for _ in range(RETURN_ATTEMPTS):
            await asyncio.sleep(RETRY_SECONDS_FIRST * (0.5 + self._fraction()))
            try:
                point.circuit = await self._source.internal_circuit(
                    point.relay, length=CIRCUIT_LENGTH, purpose="intro"
                )
                await self._register(point)
                return True
            except PelureError as error:
                log.info("Introduction point %s can't be reached again: %s", point.relay.nickname, error)
        return False

    def _on_message(self, point: ServiceIntroPoint, message: RelayMessageReceived) -> None:
        if message.command != RelayCommand.INTRODUCE2:
            raise ProtocolError(f"a message of command {message.command} came from an introduction point")
        try:
            introduction = Introduce2.decode(message.data)
        except ProtocolError as error:
            log.info("A malformed introduction came through %s: %s", point.relay.nickname, error)
            return
        if not point.replay.accept(introduction.encrypted):
            log.info("A replayed introduction came through %s", point.relay.nickname)
        else:
            self._on_introduction(point, introduction)
        if point.replay.full:
            point.spent.set()

    def _fraction(self) -> float:
        return int.from_bytes(self._rng(4), "big") / (1 << 32)


async def _first(*events: asyncio.Event) -> asyncio.Event:
    """Wait for any of ``events``; return the first of them, in the order given, that is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return next(event for event in events if event.is_set())
