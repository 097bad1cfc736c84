"""When descriptors are sent anew."""

from __future__ import annotations

import asyncio
import os

import pytest

from pelure.tor.directory.relay import Relay
from pelure.tor.onion.ring import RingParams
from pelure.tor.onion.second_layer import SecondLayer
from pelure.tor.onion.time_periods import PeriodSchedule
from pelure.tor.service import publisher
from pelure.tor.service.keys import ServiceKeys
from pelure.tor.service.publisher import Publisher
from unit.tor.service.fake_network import FakeNetwork

SECONDS = 30.0


async def test_consensuses_do_not_put_off_the_next_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "REPUBLISH_SECONDS_MIN", 0.3)
    monkeypatch.setattr(publisher, "REPUBLISH_SECONDS_MAX", 0.3)
    netdir = FakeNetwork().netdir
    sent: asyncio.Queue[bytes] = asyncio.Queue()

    async def upload(relay: Relay, document: bytes) -> None:
        sent.put_nowait(document)

    one = Publisher(ServiceKeys.generate(os.urandom), upload, lambda event: None, os.urandom)
    slots = PeriodSchedule.from_consensus(netdir, testing=True).publish_slots()

    async def consensuses() -> None:
        while True:
            one.set_network(slots, netdir.hsdirs, RingParams())
            await asyncio.sleep(0.03)

    one.set_network(slots, netdir.hsdirs, RingParams())
    one.set_content(SecondLayer(()))
    tasks = [asyncio.create_task(one.run()), asyncio.create_task(consensuses())]
    try:
        async with asyncio.timeout(SECONDS):
            first = {await sent.get() for _ in netdir.hsdirs}
            while await sent.get() in first:
                pass
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
