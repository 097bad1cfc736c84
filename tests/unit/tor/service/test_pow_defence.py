"""A service's defence by proofs of work: who is answered, in which order, and what the descriptor says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from pelure.tor.onion.intro_queue import PowLimits
from pelure.tor.onion.introduction import Introduction
from pelure.tor.onion.pow import ProofOfWork, Puzzle
from pelure.tor.service import pow_defence
from pelure.tor.service.events import EffortSuggested, ServiceEvent
from pelure.tor.service.pow_defence import PowDefence
from pelure.tor.service.rendezvous import CONCURRENT_BUILDS

SECONDS = 30.0
BLINDED = b"b" * 32


@dataclass
class Scene:
    """A defence whose rendezvous take until the test ends them."""

    defence: PowDefence = field(init=False)
    answered: list[Introduction] = field(default_factory=list)
    in_progress: int = 0
    changes: int = 0
    events: list[ServiceEvent] = field(default_factory=list)

    def launch(self, introduction: Introduction, where: str) -> None:
        assert where == "there"
        self.answered.append(introduction)
        self.in_progress += 1

    def changed(self) -> None:
        self.changes += 1

    def make(self, limits: PowLimits) -> None:
        self.defence = PowDefence(
            limits, self.launch, lambda: self.in_progress, self.changed, self.events.append, os.urandom
        )

    def submit(self, proof: ProofOfWork | bytes | None) -> Introduction:
        body = proof.extension().body if isinstance(proof, ProofOfWork) else proof
        introduction = object.__new__(Introduction)
        object.__setattr__(introduction, "proof_of_work", body)
        self.defence.submit(introduction, "there", BLINDED)
        return introduction

    def solve(self, effort: int) -> ProofOfWork:
        proof = Puzzle(BLINDED, self.defence.params.seed, effort).solve(os.urandom(16), lambda: True)
        assert proof is not None
        return proof

    async def checked(self) -> None:
        checking = self.defence._checking
        assert checking is not None
        await checking


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pow_defence, "RETRY_SECONDS", 0.001)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    scene.make(PowLimits())
    yield scene
    await scene.defence.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_without_a_queue_everybody_is_answered_at_once(scene: Scene) -> None:
    assert scene.defence.params.effort == 0
    introduction = scene.submit(None)
    assert scene.answered == [introduction]


async def test_a_right_proof_is_answered_once(scene: Scene) -> None:
    proof = scene.solve(3)
    introduction = scene.submit(proof)
    scene.submit(proof)
    await scene.checked()
    scene.submit(proof)
    await scene.checked()
    assert scene.answered == [introduction]


async def test_wrong_proofs_are_not_answered(scene: Scene) -> None:
    right = scene.solve(0)
    scene.submit(b"")
    scene.submit(b"\1" + bytes(40))
    scene.submit(ProofOfWork(right.nonce, 1, right.seed_head, right.solution))
    scene.submit(ProofOfWork(right.nonce, 0, b"seed", right.solution))
    forged = ProofOfWork(right.nonce, 0, right.seed_head, bytes(16))
    scene.submit(forged)
    await scene.checked()
    assert not scene.answered
    scene.submit(right)
    await scene.checked()
    assert len(scene.answered) == 1, "a wrong proof does not use up the nonce"


async def test_more_proofs_than_can_be_checked_are_dropped_those_of_least_effort_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pow_defence, "MAX_UNCHECKED", 4)
    scene = Scene()
    scene.make(PowLimits())
    proofs = [scene.solve(effort) for effort in (0, 2, 1, 3)]
    introductions = [scene.submit(proof) for proof in proofs]
    await scene.checked()
    assert scene.answered == [introductions[3], introductions[1]]
    await scene.defence.close()


async def test_beyond_the_rate_more_effort_comes_first(scene: Scene) -> None:
    await scene.defence.close()
    scene.make(PowLimits(rate=1, burst=1))
    scene.defence._bucket.rate = 0
    first = scene.submit(None)
    for effort in (0, 7, 3, 0):
        scene.defence._enqueue(object.__new__(Introduction), "there", effort)
    expected = [entry[3][0] for entry in sorted(scene.defence._queue._waiting)]
    assert scene.answered == [first]
    scene.defence._bucket.burst = scene.defence._bucket.tokens = 10
    await until(lambda: len(scene.answered) == 5)
    assert scene.answered[1:] == expected


async def test_little_effort_waits_while_many_are_served(scene: Scene) -> None:
    scene.defence._queue.suggested_effort = 5
    scene.in_progress = pow_defence.MAX_CHEAP_IN_PROGRESS
    poor = scene.submit(None)
    rich = scene.submit(scene.solve(5))
    await scene.checked()
    await until(lambda: scene.answered == [rich])
    scene.in_progress = 0
    await until(lambda: scene.answered == [rich, poor])


async def test_no_more_rendezvous_than_can_be_built_are_begun(scene: Scene) -> None:
    scene.in_progress = CONCURRENT_BUILDS
    introduction = scene.submit(None)
    await asyncio.sleep(0.01)
    assert not scene.answered
    scene.in_progress -= 1
    await until(lambda: scene.answered == [introduction])


@pytest.mark.parametrize(
    ("told", "effort", "published"),
    [(0, 0, False), (0, 1, True), (100, 114, False), (100, 116, True), (100, 86, False), (100, 84, True)],
)
async def test_the_descriptor_follows_great_changes_of_effort(
    scene: Scene, told: int, effort: int, published: bool
) -> None:
    scene.defence._queue.suggested_effort = told
    scene.defence._renew_params()
    scene.changes = 0
    scene.events.clear()
    scene.defence._queue.suggested_effort = effort
    scene.defence._renew_params()
    assert scene.changes == published
    assert scene.defence.params.effort == (effort if published else told)
    assert scene.events == ([EffortSuggested(effort, 0)] if published else [])


async def test_seed_and_effort_are_kept_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every five minutes the effort, every two hours or less the seed."""
    clock = [1_800_000_000.0]
    woken = asyncio.Event()

    async def sleep_until(due: float) -> None:
        if clock[0] >= 1_800_000_000.0 + 7200:
            woken.set()
            await asyncio.Event().wait()
        clock[0] = due

    monkeypatch.setattr("time.time", lambda: clock[0])
    monkeypatch.setattr(pow_defence, "sleep_until", sleep_until)
    scene = Scene()
    scene.make(PowLimits())
    seed = scene.defence.params.seed
    scene.defence._queue.suggested_effort = 100
    scene.defence.start()
    async with asyncio.timeout(SECONDS):
        await woken.wait()
    assert scene.defence.params.seed != seed
    assert scene.defence.params.expires > 1_800_000_000.0 + 2 * 6300
    assert [event.effort for event in scene.events if isinstance(event, EffortSuggested)] == [
        66, 44, 29, 19, 12, 8, 5, 3, 2, 1, 0
    ]  # fmt: skip
    assert scene.changes == len(scene.events) + 1
    await scene.defence.close()
