"""Defence of a service against floods of introductions by proofs of work (proposal 327 sections 3.1 and 3.4).

Introductions wait in a queue, those with the most effort first, while more come than the service can answer;
without a queue everybody is answered at once. The descriptor tells clients what effort lets them in.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from pelure.errors import ProtocolError
from pelure.tor.crypto.keys import Rng
from pelure.tor.net.supervision import supervised
from pelure.tor.net.throttle import Bucket
from pelure.tor.net.wallclock import sleep_until
from pelure.tor.onion.intro_queue import UPDATE_SECONDS, EffortQueue, IntroQueue, PowLimits
from pelure.tor.onion.introduction import Introduction
from pelure.tor.onion.pow import PowParams, ProofOfWork, Puzzle
from pelure.tor.onion.pow_seeds import PowSeeds
from pelure.tor.service.events import EffortSuggested, OnEvent
from pelure.tor.service.rendezvous import CONCURRENT_BUILDS

MAX_CHEAP_IN_PROGRESS = 16
"""So many rendezvous may be under way when one of less effort than suggested begins."""
RETRY_SECONDS = 0.1
MAX_UNCHECKED = 1024
"""Proofs waiting to be checked, which takes some milliseconds each."""
SIGNIFICANT_CHANGE = 0.15
"""The descriptor is published anew for a change of the suggested effort by this part of it."""

Launch = Callable[[Introduction, str], None]
log = logging.getLogger(__name__)


class _Unchecked(NamedTuple):
    """An introduction whose proof is to be checked."""

    introduction: Introduction
    where: str
    puzzle: Puzzle
    proof: ProofOfWork


class PowDefence:
    """See the module. Introductions come in by :meth:`submit` and go out by ``launch``.

    ``in_progress`` tells how many rendezvous are under way. ``changed`` is called when ``params``, the
    descriptor's line, has changed.
    """

    def __init__(
        self,
        limits: PowLimits,
        launch: Launch,
        in_progress: Callable[[], int],
        changed: Callable[[], None],
        emit: OnEvent,
        rng: Rng,
    ) -> None:
        self._launch = launch
        self._in_progress = in_progress
        self._changed = changed
        self._emit = emit
        self._seeds = PowSeeds(rng, time.time())
        self._queue = IntroQueue[tuple[Introduction, str]](limits)
        self._bucket = Bucket(limits.rate, limits.burst, time.monotonic())
        self._unchecked = EffortQueue[_Unchecked](MAX_UNCHECKED)
        self._checking: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._keeping: asyncio.Task[None] | None = None
        self.params = PowParams(self._seeds.current, 0, self._seeds.expires)

    def start(self) -> None:
        """Begin to change seeds and to adjust the suggested effort."""
        self._keeping = asyncio.create_task(supervised(self._keep, "keeping the defence by proofs of work"))

    async def close(self) -> None:
        """Forget who waits."""
        if self._retry is not None:
            self._retry.cancel()
        tasks = [task for task in (self._keeping, self._checking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def submit(self, introduction: Introduction, where: str, blinded_key: bytes) -> None:
        """Answer an introduction in its turn; one with a wrong proof never.

        ``where`` names its rendezvous point; ``blinded_key`` is of the descriptor that the client had.
        """
        if introduction.proof_of_work is None:
            self._enqueue(introduction, where, 0)
            return
        try:
            proof = ProofOfWork.decode(introduction.proof_of_work)
            puzzle = self._seeds.puzzle(proof, blinded_key)
            puzzle.check_effort(proof)
        except ProtocolError as error:
            log.info("An introduction is not answered: %s", error)
            return
        self._unchecked.add(_Unchecked(introduction, where, puzzle, proof), proof.effort, time.monotonic())
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(supervised(self._check, "checking proofs of work"))

    async def _check(self) -> None:
        """Check proofs one after the other, beside the event loop; those that claim most effort first."""
        while (one := self._unchecked.pop(time.monotonic())) is not None:
            try:
                await asyncio.to_thread(one.puzzle.check, one.proof)
                self._seeds.use(one.proof)
            except ProtocolError as error:
                log.info("An introduction is not answered: %s", error)
            else:
                self._enqueue(one.introduction, one.where, one.proof.effort)

    def _enqueue(self, introduction: Introduction, where: str, effort: int) -> None:
        self._queue.add((introduction, where), effort, time.monotonic())
        if self._retry is None:
            self._drain()

    def _drain(self) -> None:
        """Answer whom the limits allow; look again in a moment if others wait."""
        self._retry = None
        while len(self._queue) and self._may_launch():
            request = self._queue.pop(time.monotonic())
            if request is not None:
                self._launch(*request)
        if len(self._queue):
            self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._drain)

    def _may_launch(self) -> bool:
        most = CONCURRENT_BUILDS if self._queue.top_follows_suggestion else MAX_CHEAP_IN_PROGRESS
        return self._in_progress() < most and self._bucket.take(time.monotonic())

    async def _keep(self) -> None:
        update = time.time() + UPDATE_SECONDS
        while True:
            await sleep_until(min(update, self._seeds.expires))
            now = time.time()
            if now >= self._seeds.expires:
                self._seeds.rotate(now)
            if now >= update:
                self._queue.update_effort()
                update = now + UPDATE_SECONDS
            self._renew_params()

    def _renew_params(self) -> None:
        """Publish another seed, or an effort that differs enough from the published one."""
        told, effort = self.params.effort, self._queue.suggested_effort
        if abs(effort - told) > SIGNIFICANT_CHANGE * told:
            log.info("Clients are asked for an effort of %d now; %d wait", effort, len(self._queue))
            self._emit(EffortSuggested(effort, len(self._queue)))
        elif self._seeds.current == self.params.seed:
            return
        self.params = PowParams(self._seeds.current, effort, self._seeds.expires)
        self._changed()
