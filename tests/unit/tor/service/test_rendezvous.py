"""Which introductions a service answers (rend-spec-v3 3.3)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pelure.errors import CircuitError, CryptoError
from pelure.tor.onion.introduction import Introduction
from pelure.tor.service import rendezvous as module
from pelure.tor.service.events import RendezvousFailed, ServiceEvent
from pelure.tor.service.rendezvous import ATTEMPTS, Rendezvous


class Nowhere:
    """A source of circuits that has none."""

    def __init__(self) -> None:
        self.asked = 0

    async def internal_circuit(self, *_: Any, **__: Any) -> Any:
        self.asked += 1
        raise CircuitError("no way")


@pytest.fixture
def source() -> Nowhere:
    return Nowhere()


@pytest.fixture
async def rendezvous(source: Nowhere) -> AsyncIterator[Rendezvous]:
    def emit(event: ServiceEvent) -> None:
        pass

    made = Rendezvous(cast(Any, source), lambda circuit: None, emit, lambda size: bytes(size))
    yield made
    await made.close()


def introduction(cookie: bytes) -> Introduction:
    def answer(rng: object) -> tuple[bytes, bytes]:
        raise CryptoError("a key of low order")

    return cast(Introduction, SimpleNamespace(cookie=cookie, rendezvous_point=None, answer=answer))


async def answered(rendezvous: Rendezvous, *cookies: bytes) -> int:
    """How many of these introductions the service begins to answer."""
    before = rendezvous.in_progress
    for cookie in cookies:
        rendezvous.answer(introduction(cookie), "a relay")
    return rendezvous.in_progress - before


async def test_a_cookie_is_answered_once(rendezvous: Rendezvous) -> None:
    """However many introduction points it comes through: each answer is a circuit, which the client chose."""
    assert await answered(rendezvous, b"one", b"one", b"two", b"one", b"two") == 2


async def test_cookies_are_forgotten_after_a_while(
    rendezvous: Rendezvous, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    assert await answered(rendezvous, b"one") == 1
    monkeypatch.setattr(time, "monotonic", lambda: now + module.COOKIE_SECONDS + 1)
    assert await answered(rendezvous, b"two") == 1
    assert list(rendezvous._met) == [b"two"]


async def test_a_flood_of_cookies_takes_bounded_memory(
    rendezvous: Rendezvous, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_COOKIES", 3)
    assert await answered(rendezvous, *(bytes([number]) for number in range(10))) == 10
    assert list(rendezvous._met) == [b"\x07", b"\x08", b"\x09"]


async def test_a_rendezvous_point_out_of_reach_is_tried_a_few_times(
    rendezvous: Rendezvous, source: Nowhere
) -> None:
    await answered(rendezvous, b"one")
    for task in list(rendezvous._tasks):
        await task
    assert source.asked == ATTEMPTS


async def test_an_introduction_that_cannot_be_answered_leaves_no_circuit() -> None:
    """The client's key may be no good, which shows when our answer is worked out."""
    closed: list[str] = []
    events: list[ServiceEvent] = []
    circuit = SimpleNamespace(close=lambda: closed.append("closed"))

    async def internal_circuit(*_: Any, **__: Any) -> Any:
        return circuit

    source = SimpleNamespace(internal_circuit=internal_circuit)
    rendezvous = Rendezvous(cast(Any, source), lambda circuit: None, events.append, lambda size: bytes(size))
    assert await answered(rendezvous, b"one") == 1
    for task in list(rendezvous._tasks):
        await task
    assert closed == ["closed"] and events == [RendezvousFailed("a relay", "a key of low order")]
