"""A client's proofs of work: worker processes search while circuits are built (proposal 327 section 3.2).

Processes, because a search keeps a processor busy for seconds: it neither delays the event loop nor shares
its interpreter, several run at once, and one that is not needed any more is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE

from pelure.errors import ProtocolError
from pelure.tor.client.hs_events import OnClientEvent, PuzzleBegun, PuzzleSolved
from pelure.tor.client.pow_worker import order
from pelure.tor.crypto.keys import Rng
from pelure.tor.onion.pow import NONCE_LEN, ProofOfWork, Puzzle

EFFORT_PER_WORKER = 16
"""With less to do a second process would begin when the first one is done."""

WORKERS_MAX = 8

log = logging.getLogger(__name__)


def most_workers() -> int:
    """How many processes a client should run at once."""
    return min(os.cpu_count() or 1, WORKERS_MAX)


async def prove(puzzle: Puzzle, rng: Rng, places: asyncio.Semaphore) -> ProofOfWork | None:
    """Return a proof, or None if no process can be run; cancelled, it ends the search.

    Each process takes one of ``places``, which a client's puzzles share.
    """
    workers = max(1, min(most_workers(), puzzle.effort // EFFORT_PER_WORKER))
    searches = {asyncio.create_task(_search(puzzle, rng(NONCE_LEN), places)) for _ in range(workers)}
    try:
        while searches:
            done, searches = await asyncio.wait(searches, return_when=asyncio.FIRST_COMPLETED)
            for search in done:
                try:
                    return search.result()
                except (OSError, ValueError, ProtocolError) as error:
                    log.warning("A search for a proof of work failed: %s", error)
    finally:
        for search in searches:
            search.cancel()
        await asyncio.gather(*searches, return_exceptions=True)
    return None


async def _search(puzzle: Puzzle, nonce: bytes, places: asyncio.Semaphore) -> ProofOfWork:
    """One process' search. ``OSError``, ``ValueError``, ``ProtocolError``: it ended without a proof."""
    async with places:
        return await _run(puzzle, nonce)


async def _run(puzzle: Puzzle, nonce: bytes) -> ProofOfWork:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # nothing is imported from the folder that we happen to be in
        "-m",
        "pelure.tor.client.pow_worker",
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        start_new_session=True,  # an interrupt from the terminal is for us; we end the search
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(order(puzzle, nonce))
        body = await process.stdout.read()
        await process.wait()
        return ProofOfWork.decode(bytes.fromhex(body.decode("ascii")))
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class Work:
    """Proofs for the introductions of one connection: begun early, each of them good for one introduction.

    ``puzzle`` is None for a service that asks for no work.
    """

    def __init__(
        self, puzzle: Puzzle | None, rng: Rng, emit: OnClientEvent, places: asyncio.Semaphore
    ) -> None:
        self._puzzle = puzzle
        self._rng = rng
        self._places = places
        self._emit = emit
        self._proving: asyncio.Task[ProofOfWork | None] | None = None

    def begin(self) -> None:
        """See to it that a proof is there or being searched for."""
        if self._puzzle is not None and self._proving is None:
            self._proving = asyncio.create_task(self._prove(self._puzzle))

    async def proof(self) -> ProofOfWork | None:
        """The proof for the next introduction, None if it has to do without."""
        return None if self._proving is None else await asyncio.shield(self._proving)

    def spent(self) -> None:
        """The proof was used."""
        self._proving = None

    async def close(self) -> None:
        """End a search that nobody needs any more."""
        if self._proving is not None:
            self._proving.cancel()
            await asyncio.gather(self._proving, return_exceptions=True)

    async def _prove(self, puzzle: Puzzle) -> ProofOfWork | None:
        began = time.monotonic()
        log.info("The onion service is busy: solving a puzzle of effort %d to be let in", puzzle.effort)
        self._emit(PuzzleBegun(puzzle.effort))
        proof = await prove(puzzle, self._rng, self._places)
        if proof is not None:
            self._emit(PuzzleSolved(puzzle.effort, time.monotonic() - began))
        return proof
