"""A client's proofs of work: processes that find one, end when nobody wants it, or can't be run."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from pelure.tor.client import pow as client_pow
from pelure.tor.client.hs_events import ClientEvent, PuzzleBegun, PuzzleSolved
from pelure.tor.client.pow import Work, prove
from pelure.tor.client.pow_worker import order
from pelure.tor.onion.pow import ProofOfWork, Puzzle

SECONDS = 60.0
EASY = Puzzle(b"b" * 32, b"s" * 32, 2)
HOPELESS = Puzzle(b"b" * 32, b"s" * 32, 0xFFFFFFFF)


def places(n: int = 2) -> asyncio.Semaphore:
    return asyncio.Semaphore(n)


async def test_several_processes_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(client_pow, "EFFORT_PER_WORKER", 1)
    async with asyncio.timeout(SECONDS):
        proof = await prove(EASY, os.urandom, places())
    assert proof is not None
    EASY.check(proof)


async def test_nothing_is_imported_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be one of downloads."""
    (tmp_path / "json.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    async with asyncio.timeout(SECONDS):
        assert await prove(EASY, os.urandom, places()) is not None


async def test_puzzles_share_the_places_for_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are to be solved at once; and each of them is."""
    monkeypatch.setattr(client_pow, "EFFORT_PER_WORKER", 1)
    running, most, shared = 0, 0, places(2)

    async def run(puzzle: Puzzle, nonce: bytes) -> ProofOfWork:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return ProofOfWork(nonce, puzzle.effort, bytes(4), bytes(16))

    monkeypatch.setattr(client_pow, "_run", run)
    proofs = await asyncio.gather(*(prove(EASY, os.urandom, shared) for _ in range(10)))
    assert None not in proofs
    assert most == 2


async def test_a_search_that_is_cancelled_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    processes: list[asyncio.subprocess.Process] = []
    started = asyncio.Event()
    create = asyncio.create_subprocess_exec

    async def spy(*args: str, **options: object) -> asyncio.subprocess.Process:
        processes.append(await create(*args, **options))  # type: ignore[arg-type]
        started.set()
        return processes[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spy)
    search = asyncio.create_task(prove(HOPELESS, os.urandom, places()))
    async with asyncio.timeout(SECONDS):
        await started.wait()
        search.cancel()
        await asyncio.gather(search, return_exceptions=True)
    assert search.cancelled()
    assert processes
    assert all(process.returncode is not None for process in processes)


async def test_a_process_ends_with_whoever_started_it() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pelure.tor.client.pow_worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        out, _ = await process.communicate(order(HOPELESS, bytes(16)))
    assert out == b""
    assert process.returncode == 0


async def test_without_processes_there_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("/bin/false", "/nowhere/python"):
        monkeypatch.setattr(sys, "executable", program)
        async with asyncio.timeout(SECONDS):
            assert await prove(EASY, os.urandom, places()) is None


async def test_work_is_begun_once_and_each_proof_used_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[Puzzle] = []

    proofs = [ProofOfWork(bytes([n]) * 16, 2, bytes(4), bytes(16)) for n in range(2)]

    async def find(puzzle: Puzzle, rng: object, places: object) -> ProofOfWork:
        searches.append(puzzle)
        return proofs[len(searches) - 1]

    monkeypatch.setattr(client_pow, "prove", find)
    events: list[ClientEvent] = []
    work = Work(EASY, os.urandom, events.append, places())
    for proof in proofs:
        for _ in range(2):
            work.begin()
            assert await work.proof() == proof
        work.spent()
    await work.close()
    assert searches == [EASY, EASY]
    assert [type(event) for event in events] == [PuzzleBegun, PuzzleSolved] * 2
    assert events[0] == PuzzleBegun(2)


async def test_no_puzzle_no_work() -> None:
    events: list[ClientEvent] = []
    work = Work(None, os.urandom, events.append, places())
    work.begin()
    assert await work.proof() is None
    await work.close()
    assert not events
