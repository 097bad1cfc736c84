"""The service's side of a rendezvous: from an opened INTRODUCE2 to a joined circuit (rend-spec-v3 4.2)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from pelure.errors import PelureError
from pelure.tor.cell.onion_messages import Rendezvous1
from pelure.tor.circuit.relaycrypto import HopKeys
from pelure.tor.crypto.keys import Rng
from pelure.tor.net.circuit_source import CircuitSource
from pelure.tor.net.origin import Circuit
from pelure.tor.net.others_first import others_first
from pelure.tor.onion.introduction import Introduction
from pelure.tor.service.events import OnEvent, RendezvousFailed, RendezvousJoined

CIRCUIT_LENGTH = 4
ATTEMPTS = 3
"""C tor's default too: the first, and ``hs_service_max_rdv_failures`` (2) more."""
CONCURRENT_BUILDS = 256
MAX_WAITING = 8192
ANSWER_SECONDS = 60.0
"""A client has given up on an introduction that was not answered for so long."""

RENDEZVOUS1_LEN = 168
"""Bytes that RENDEZVOUS1 is padded to, as C tor's is: a rendezvous point can't tell services apart by it."""
COOKIE_SECONDS = 300.0
"""Cookies are remembered for so long, as in C tor."""
MAX_COOKIES = 65_536

OnJoined = Callable[[Circuit], None]
log = logging.getLogger(__name__)


class Rendezvous:
    """Answers introductions; at most ``CONCURRENT_BUILDS`` circuits are built at once, the others wait.

    ``on_joined`` is called with each circuit, before anything can come through it.
    """

    def __init__(self, source: CircuitSource, on_joined: OnJoined, emit: OnEvent, rng: Rng) -> None:
        self.congestion_control: int | None = None
        """Cells per SENDME that the descriptor announces, None while it offers no congestion control."""
        self._source = source
        self._on_joined = on_joined
        self._emit = emit
        self._rng = rng
        self._building = asyncio.Semaphore(CONCURRENT_BUILDS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._met: OrderedDict[bytes, float] = OrderedDict()
        """The cookies answered lately, and when."""

    @property
    def in_progress(self) -> int:
        """How many introductions are being answered."""
        return len(self._tasks)

    def answer(self, introduction: Introduction, where: str) -> None:
        """Meet the client, in the background; ``where`` is how events name the rendezvous point.

        A cookie is answered once, through whichever introduction points it comes: clients who are in doubt
        whether one passed it on try another, and nobody else gains anything.
        """
        if self._is_known(introduction.cookie, time.monotonic()):
            log.info("A client that waits at %s is answered already", where)
            return
        if len(self._tasks) >= MAX_WAITING:
            log.warning("More than %d clients wait for a rendezvous; one is turned away", MAX_WAITING)
            return
        task = asyncio.create_task(self._answer(introduction, where, time.monotonic()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _is_known(self, cookie: bytes, now: float) -> bool:
        """Whether ``cookie`` came before; from now on it is known."""
        if cookie in self._met:
            return True
        self._met[cookie] = now
        while len(self._met) > MAX_COOKIES or now - next(iter(self._met.values())) > COOKIE_SECONDS:
            self._met.popitem(last=False)
        return False

    async def close(self) -> None:
        """Give up everything under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, introduction: Introduction, where: str, began: float) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._building:
                build_began = time.monotonic()
                circuit, answer = await self._meet(introduction)
            built = time.monotonic() - build_began
            self._join(circuit, introduction, *answer)
        except (PelureError, TimeoutError) as error:
            reason = str(error) or "there was not enough time"
            log.info("The rendezvous at %s failed: %s", where, reason)
            self._emit(RendezvousFailed(where, reason))
        else:
            self._emit(RendezvousJoined(circuit.id, where, built, time.monotonic() - began))

    async def _meet(self, introduction: Introduction) -> tuple[Circuit, tuple[bytes, bytes]]:
        """A circuit to the rendezvous point, and our answer, worked out while the circuit is built."""

        async def work_out() -> tuple[bytes, bytes]:
            await others_first()
            return introduction.answer(self._rng)

        working = asyncio.create_task(work_out())
        try:
            circuit = await self._circuit(introduction)
            try:
                return circuit, await working
            except BaseException:
                circuit.close()
                raise
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _circuit(self, introduction: Introduction) -> Circuit:
        for left in reversed(range(ATTEMPTS)):
            try:
                return await self._source.internal_circuit(
                    introduction.rendezvous_point, length=CIRCUIT_LENGTH, purpose="rendezvous"
                )
            except PelureError:
                if not left:
                    raise
        raise AssertionError("there is at least one attempt")

    def _join(
        self, circuit: Circuit, introduction: Introduction, handshake_info: bytes, material: bytes
    ) -> None:
        """Answer with RENDEZVOUS1; what follows on the circuit comes from the client."""
        message = Rendezvous1(introduction.cookie, handshake_info)
        body = message.encode()
        body += self._rng(RENDEZVOUS1_LEN - len(body))
        increment = self.congestion_control if introduction.congestion_control else None
        try:
            circuit.send(message.command, body)
            circuit.add_hs_hop(HopKeys.service(material), service=True, sendme_inc=increment)
        except PelureError:
            circuit.close()
            raise
        self._on_joined(circuit)
