"""Stories that are played in a simulated network: ``python -P -m sim.story STORY SEED`` prints how it went.

Each returns what the tests want to know; :attr:`Network.story` of all that arrived is printed with it.
"""

from __future__ import annotations

import sys

from sim.clock import install

CLOCK = install(int(sys.argv[2]))

import asyncio  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
from collections.abc import Awaitable, Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from tempfile import TemporaryDirectory  # noqa: E402
from typing import Any  # noqa: E402

from pelure.errors import PelureError  # noqa: E402
from sim.loop import VirtualLoop  # noqa: E402
from sim.network import Network  # noqa: E402
from sim.world import BODY, World  # noqa: E402

Told = dict[str, Any]


async def rendezvous(world: World) -> Told:
    """A client fetches a page."""
    there, bob = await world.connect("bob")
    service = await world.serve(there, bob)
    here, alice = await world.connect("alice")
    began = CLOCK.now
    whole = await world.fetch(here, alice, service.address) == BODY
    return {"whole": whole, "seconds": CLOCK.now - began}


async def faults(world: World) -> Told:
    """Relays crash and fall silent, some of them in the middle of a transfer; each time the page comes again.

    ``seconds``: the longest that a client had to try until it had the page.
    """
    there, bob = await world.connect("bob")
    service = await world.serve(there, bob)
    here, alice = await world.connect("alice")
    longest, failures = 0.0, 0
    for number in range(12):
        began = CLOCK.now
        fetching = asyncio.ensure_future(world.fetch(here, alice, service.address, number))
        await asyncio.sleep(world.rng.uniform(0, 3))
        victims = world.rng.sample(world.relays, 3)
        for host in victims:
            world.rng.choice([world.network.crash, world.network.silence])(host)
        while True:
            try:
                assert await fetching == BODY
                break
            except (PelureError, TimeoutError):
                failures += 1
                await asyncio.sleep(5)
                fetching = asyncio.ensure_future(
                    world.fetch(here, alice, service.address, (number, failures))
                )
        longest = max(longest, CLOCK.now - began)
        await asyncio.sleep(world.rng.uniform(0, 300))
        for host in victims:
            world.network.restore(host)
        await asyncio.sleep(world.rng.uniform(0, 900))
    return {"seconds": longest, "failures": failures}


async def days(world: World) -> Told:
    """Three days pass, with their time periods; every five hours a client finds the service at once."""
    there, bob = await world.connect("bob")
    service = await world.serve(there, bob)
    here, alice = await world.connect("alice")
    failures = []
    for number in range(3 * 24 // 5):
        await asyncio.sleep(5 * 3600)
        try:
            assert await world.fetch(here, alice, service.address, number) == BODY
        except (PelureError, TimeoutError) as error:
            failures.append(f"{CLOCK.now / 3600:.1f} h: {error!r}")
    return {"failures": failures}


async def absence(world: World) -> Told:
    """A client's machine is cut off for four days, then it is back: what it knows is out of date."""
    there, bob = await world.connect("bob")
    service = await world.serve(there, bob)
    here, alice = await world.connect("alice")
    assert await world.fetch(here, alice, service.address) == BODY
    world.network.crash(here)
    await asyncio.sleep(4 * 86400)
    world.network.restore(here)
    began, failures = CLOCK.now, 0
    while True:
        try:
            assert await world.fetch(here, alice, service.address, failures) == BODY
            return {"seconds": CLOCK.now - began, "failures": failures}
        except (PelureError, TimeoutError):
            failures += 1
            await asyncio.sleep(5)


STORIES: dict[str, tuple[Callable[[World], Awaitable[Told]], int, int]] = {
    "rendezvous": (rendezvous, 1, 7),
    "faults": (faults, 3, 13),
    "days": (days, 1, 6),
    "absence": (absence, 1, 6),
}
"""Each with its numbers of authorities and other relays."""


async def play(story: str, seed: int, folder: Path, network: Network) -> Told:
    """Make the world and let ``story`` happen in it."""
    tell, authorities, relays = STORIES[story]
    world = World(folder, network, seed, authorities=authorities, relays=relays)
    try:
        await world.start()
        began = CLOCK.now
        told = await tell(world)
        return {**told, "days": (CLOCK.now - began) / 86400, "story": network.story}
    finally:
        await world.close()


def main() -> None:
    """Play one story."""
    story, seed = sys.argv[1], int(sys.argv[2])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    network = Network(seed)
    runner = asyncio.Runner(loop_factory=lambda: VirtualLoop(CLOCK, network))
    with TemporaryDirectory(prefix="pelure-sim-") as folder, runner:
        print(json.dumps(runner.run(play(story, seed, Path(folder), network))))


if __name__ == "__main__":
    main()
