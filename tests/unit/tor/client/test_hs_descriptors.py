"""Fetching descriptors: bad, slow and outdated directories, caching, sharing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pelure.errors import OnionServiceError
from pelure.tor.client import hs_descriptors
from pelure.tor.client.hs_descriptors import DescriptorClient, ServiceDescriptor
from pelure.tor.crypto.keys import Ed25519KeyPair
from pelure.tor.directory.relay import Relay
from pelure.tor.net.dir_http import DirResponse
from pelure.tor.onion.descriptor import MissingClientAuth
from pelure.tor.onion.pow import PowParams
from pelure.tor.onion.second_layer import SecondLayer
from pelure.tor.onion.time_periods import PeriodSchedule
from pelure.tor.service.publisher import Descriptor
from unit.tor.service.fake_network import NOW, FakeNetwork

SECONDS = 30.0
IDENTITY = Ed25519KeyPair.generate(os.urandom)
Answer = Callable[[Relay, bytes], Awaitable[DirResponse]]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: NOW)


class Scene:
    """A client whose directories answer as ``answer`` says; ``asked`` are those that were asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.network: Any = FakeNetwork()
        self.client = DescriptorClient(self.network, os.urandom)
        self.asked: list[Relay] = []
        self.answer: Answer = self.good
        slot = PeriodSchedule.from_consensus(self.network.netdir, testing=True).fetch_slot()
        self.descriptor = Descriptor(IDENTITY, slot, os.urandom)
        self.document = self.build()
        monkeypatch.setattr(self.client, "_request", self._request)

    def build(self) -> bytes:
        return self.descriptor.build(SecondLayer(()), [], NOW, os.urandom)

    async def _request(self, relay: Relay, blinded_key: bytes) -> DirResponse:
        self.asked.append(relay)
        return await self.answer(relay, blinded_key)

    async def good(self, relay: Relay, blinded_key: bytes) -> DirResponse:
        return DirResponse(200, {}, self.document)

    async def get(self, newer_than: int = -1) -> ServiceDescriptor:
        async with asyncio.timeout(SECONDS):
            return await self.client.get(self.network.netdir, IDENTITY.public, [], newer_than=newer_than)

    async def fails(self) -> int:
        with pytest.raises(OnionServiceError) as error:
            await self.get()
        return error.value.code


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


async def test_a_descriptor_is_fetched_once_and_kept(scene: Scene) -> None:
    one, other = await asyncio.gather(scene.get(), scene.get())
    assert one == other == await scene.get()
    assert len(scene.asked) == 1
    scene.client.forget()
    await scene.get()
    assert len(scene.asked) == 2


@pytest.mark.parametrize(("expires", "fetches"), [(60, 1), (-60, 2)])
async def test_a_seed_that_expired_makes_it_fetch_a_new_one(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, expires: float, fetches: int
) -> None:
    content = SecondLayer((), pow_params=PowParams(bytes(32), 7, NOW + expires))
    monkeypatch.setattr(hs_descriptors, "open_descriptor", lambda *_: content)
    assert (await scene.get()).content == (await scene.get()).content == content
    assert len(scene.asked) == fetches


async def test_it_expires(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await scene.get()
    monkeypatch.setattr("time.time", lambda: NOW + 181 * 60)
    await scene.get()
    assert len(scene.asked) == 2


async def test_every_directory_is_asked_before_it_is_called_missing(scene: Scene) -> None:
    async def nothing(relay: Relay, blinded_key: bytes) -> DirResponse:
        return DirResponse(404, {}, b"")

    scene.answer = nothing
    assert await scene.fails() == hs_descriptors.NOT_FOUND
    assert len(set(scene.asked)) == len(scene.asked) == 6


@pytest.mark.parametrize(("old", "new"), [(b"hs-descriptor", b"x"), (b"lifetime 180", b"lifetime 170")])
async def test_invalid_descriptors_are_told_from_missing_ones(scene: Scene, old: bytes, new: bytes) -> None:
    scene.document = scene.document.replace(old, new, 1)
    assert await scene.fails() == hs_descriptors.INVALID
    assert len(scene.asked) == 6


async def test_the_descriptor_of_another_service_is_refused(scene: Scene) -> None:
    other = Descriptor(Ed25519KeyPair.generate(os.urandom), scene.descriptor.slot, os.urandom)
    scene.document = other.build(SecondLayer(()), [], NOW, os.urandom)
    assert await scene.fails() == hs_descriptors.INVALID


async def test_one_good_directory_is_enough(scene: Scene) -> None:
    async def last_is_good(relay: Relay, blinded_key: bytes) -> DirResponse:
        if len(scene.asked) < 6:
            return DirResponse(200, {}, b"garbage")
        return await scene.good(relay, blinded_key)

    scene.answer = last_is_good
    await scene.get()


async def test_a_silent_directory_gets_a_rival(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hs_descriptors, "HEDGE_SECONDS", 0.01)

    async def first_is_silent(relay: Relay, blinded_key: bytes) -> DirResponse:
        if len(scene.asked) == 1:
            await asyncio.Event().wait()
        return await scene.good(relay, blinded_key)

    scene.answer = first_is_silent
    await scene.get()
    assert len(scene.asked) == 2


async def test_a_newer_revision_is_looked_for_everywhere(scene: Scene) -> None:
    old = await scene.get()
    outdated, fresh = scene.document, scene.build()
    scene.asked.clear()

    async def last_is_fresh(relay: Relay, blinded_key: bytes) -> DirResponse:
        return DirResponse(200, {}, fresh if len(scene.asked) == 6 else outdated)

    scene.answer = last_is_fresh
    assert (await scene.get(old.revision_counter)).revision_counter > old.revision_counter
    assert len(scene.asked) == 6
    scene.answer = scene.good
    again = await scene.get(1 << 64)
    assert again.revision_counter == old.revision_counter  # nobody has a later one


async def test_a_service_that_is_open_to_all_again_is_found_at_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restricted(*_: object) -> SecondLayer:
        raise MissingClientAuth("it needs a key")

    monkeypatch.setattr(hs_descriptors, "open_descriptor", restricted)
    assert await scene.fails() == hs_descriptors.MISSING_AUTH
    monkeypatch.setattr(hs_descriptors, "open_descriptor", lambda *_: SecondLayer(()))
    await scene.get()
    assert len(scene.asked) == 2
