"""Which onion service a link belongs to, and what becomes of that when the link expires or is revoked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive.drive import Drive
from pelure.share import rendezvous_groups
from pelure.share.contents import Contents
from pelure.share.fairness import FairUpload
from pelure.share.link import PrivateLink
from pelure.share.linkbook import Entry
from pelure.share.rendezvous_groups import GROUP_SIZE, RendezvousGroups, wipe_service
from pelure.tor.service.keys import NOBODY, ServiceKeys


class FakeService:
    """An onion service without a network."""

    def __init__(self, keys: ServiceKeys) -> None:
        self.keys = keys
        self.rotations = 0
        self.closed = False
        self.circuits: dict[int, int] = {}
        """The streams on each."""

    async def add_clients(self, clients: dict[str, bytes]) -> None:
        for name, key in clients.items():
            self.keys.add_client(name, key)

    async def remove_clients(self, names: list[str]) -> None:
        for name in names:
            self.keys.remove_client(name, lambda size: b"\1" * size)

    async def rotate_intro_points(self) -> None:
        self.rotations += 1

    def connections(self) -> list[Any]:
        return [SimpleNamespace(id=number, streams=streams) for number, streams in self.circuits.items()]

    def close_circuit(self, number: int) -> bool:
        return self.circuits.pop(number, None) is not None

    async def close(self) -> None:
        self.closed = True


class World:
    """The groups of a share, and the services that they started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "services"
        self.store = Corestore(folder / "store")
        self.services: list[FakeService] = []
        contents = Contents(Drive(self.store))
        self.groups = RendezvousGroups(
            self.folder, cast(Any, self), contents, self.page, FairUpload(), lambda event, **fields: None
        )

    async def serve_onion(self, ports: Any, *, keys: ServiceKeys, **_: Any) -> FakeService:
        self.services.append(FakeService(keys))
        return self.services[-1]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what a job in the background does."""
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def page(self) -> Path:
        return Path("/nowhere")

    def mint(self, number: int, service: str) -> Entry:
        """The entry of a new link at ``service``."""
        key = self.groups.keys_for(service).identity.public
        link = PrivateLink(key, b"d" * 32, b"c" * 32, number.to_bytes(16))
        browser = service.startswith("browser-")
        return Entry(number, "share", f"link {number}", link.encode(), browser, service, time.time())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for idle circuits all the time."""
    monkeypatch.setattr(rendezvous_groups, "SWEEP_SECONDS", 0.01)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.groups.close()
    made.store.close()


async def test_groups_are_filled_one_after_the_other(world: World) -> None:
    full = [world.mint(number, "group-1") for number in range(GROUP_SIZE)]
    assert world.groups.place(full[:-1], browser=False) == "group-1"
    assert world.groups.place(full, browser=False) == "group-2"
    assert world.groups.place(full, browser=True) == "browser-1"
    world.groups.keys_for("browser-1")
    assert world.groups.place([], browser=True) == "browser-2"


async def test_idle_circuits_are_closed_after_a_while_and_the_oldest_of_many(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous_groups, "MAX_IDLE", 3)
    await world.groups.open([world.mint(1, "group-1")])
    (service,) = world.services
    service.circuits = {1: 0, 2: 1, 3: 0, 4: 0, 5: 0, 6: 4}
    await world.until(lambda: list(service.circuits) == [2, 3, 4, 5, 6])
    service.circuits[5] = 1
    monkeypatch.setattr(rendezvous_groups, "IDLE_SECONDS", 0.01)
    await world.until(lambda: list(service.circuits) == [2, 5, 6])


async def test_a_revoked_link_is_out_and_the_others_stay(world: World) -> None:
    alice, bob = world.mint(1, "group-1"), world.mint(2, "group-1")
    await world.groups.open([alice, bob])
    (service,) = world.services
    assert len(service.keys.clients) == 2
    await world.groups.close_links([1])
    assert len(service.keys.clients) == 1 and NOBODY not in service.keys.clients
    assert service.rotations == 1 and not service.closed
    (group,) = world.groups.groups()
    assert list(group.links) == [2]


async def test_a_browser_link_that_expired_has_its_address_again_when_it_is_renewed(world: World) -> None:
    carol = world.mint(3, world.groups.place([], browser=True))
    await world.groups.open([carol])
    await world.groups.close_links([3], renewable=[3])
    assert world.services[0].closed and not world.groups.groups()
    await world.groups.open([carol])
    assert world.services[1].keys.address == carol.private_link().address


async def test_a_revoked_browser_link_leaves_no_keys(world: World) -> None:
    carol = world.mint(3, "browser-1")
    await world.groups.open([carol])
    assert (world.folder / "browser-1").exists()
    await world.groups.close_links([3])
    assert not (world.folder / "browser-1").exists()


def test_keys_are_wiped_of_links_that_had_a_service_to_themselves_only(tmp_path: Path) -> None:
    for name in ("browser-1", "group-1"):
        (tmp_path / name).mkdir()
        wipe_service(tmp_path, name)
    assert [path.name for path in tmp_path.iterdir()] == ["group-1"]
