"""The onion services of a share and which links each of them serves.

A descriptor has room for a limited number of readers, so links are spread over services of at most
:data:`GROUP_SIZE` links. A link for a browser gets a service to itself: a browser has no identity by which
the gate could tell it from others, so cutting it off means ending its service.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from pelure.errors import PelureError
from pelure.hyper.wire.noise import KeyPair
from pelure.share.contents import Contents
from pelure.share.fairness import FairUpload
from pelure.share.gate import Gate, OnEvent
from pelure.share.link import DEFAULT_PORT, PrivateLink
from pelure.share.linkbook import Entry
from pelure.tor.api import Tor
from pelure.tor.cell.extensions import DosParameters
from pelure.tor.net.supervision import supervised
from pelure.tor.service.events import Published, ServiceEvent
from pelure.tor.service.keys import ServiceKeys
from pelure.tor.service.service import OnionService
from pelure.tor.service.targets import Target, UnixTarget

SERVICES_NAME = "services"
"""The folder, in that of a share, with a folder of keys for each of its services."""
GROUP_SIZE = 100
BROWSER_PORT = 80
BROWSER_PREFIX = "browser-"
ROTATION_SECONDS = 120.0
INTRO_DOS = DosParameters(rate=25, burst=200)
"""What each introduction point passes on a second, and at once: all readers of a full service, who come on
four circuits each, get through together; a flood is kept off. C tor's defaults too."""
IDLE_SECONDS = 60.0
"""A circuit without streams is closed after so long."""
MAX_IDLE = 256
"""So many circuits without streams are kept; of more, the oldest are closed."""
SWEEP_SECONDS = 5.0

log = logging.getLogger(__name__)


def client_name(link: PrivateLink) -> str:
    """The file name, without ``.auth``, of a link's discovery key."""
    return base64.b32encode(link.discovery_key[:15]).decode().lower()


def wipe_service(services: Path, name: str) -> None:
    """Delete the keys of a browser link's service; those of a group serve its other links."""
    if name.startswith(BROWSER_PREFIX):
        shutil.rmtree(services / name, ignore_errors=True)


@dataclass
class Group:
    """One onion service and its gate; ``links`` maps link ids to the names of their client files."""

    name: str
    service: OnionService
    gate: Gate
    links: dict[int, str]

    @property
    def is_browser(self) -> bool:
        """Whether this service is for one browser link."""
        return self.name.startswith(BROWSER_PREFIX)


class RendezvousGroups:
    """See the module. ``folder`` keeps the services' keys, each in C tor's ``HiddenServiceDir`` layout."""

    def __init__(
        self,
        folder: Path,
        tor: Tor,
        contents: Contents,
        page_socket: Callable[[], Awaitable[Path]],
        upload: FairUpload,
        on_event: OnEvent,
    ) -> None:
        """``page_socket`` gives the Unix socket of the drive's web page, for browser links."""
        self._folder = folder
        self._tor = tor
        self._contents = contents
        self._page_socket = page_socket
        self._upload = upload
        self._on_event = on_event
        self._keypair = KeyPair.generate(os.urandom)
        self._groups: dict[str, Group] = {}
        self._keys: dict[str, ServiceKeys] = {}
        self._starting = asyncio.Lock()
        self._sweeping = asyncio.ensure_future(supervised(self._sweep, "closing idle circuits"))

    def keys_for(self, name: str) -> ServiceKeys:
        """The keys of the service ``name``, made if there are none yet."""
        if name not in self._keys:
            self._keys[name] = ServiceKeys.open(self._folder / name, os.urandom)
        return self._keys[name]

    def place(self, existing: Iterable[Entry], browser: bool) -> str:
        """The name of the service that a new link belongs to, given the live links there are."""
        taken: dict[str, int] = {}
        for entry in existing:
            taken[entry.service] = taken.get(entry.service, 0) + 1
        if browser:
            number = 1
            while (self._folder / f"{BROWSER_PREFIX}{number}").exists():
                number += 1
            return f"{BROWSER_PREFIX}{number}"
        number = 1
        while taken.get(f"group-{number}", 0) >= GROUP_SIZE:
            number += 1
        return f"group-{number}"

    async def open(self, entries: Iterable[Entry]) -> None:
        """Give ``entries`` access: start services that are missing, republish those that have new links."""
        by_service: dict[str, list[Entry]] = {}
        for entry in entries:
            by_service.setdefault(entry.service, []).append(entry)
        await asyncio.gather(*(self._open(name, group) for name, group in by_service.items()))

    async def _open(self, name: str, entries: list[Entry]) -> None:
        links = {entry.id: entry.private_link() for entry in entries}
        clients = {client_name(link): link.discovery_key for link in links.values()}
        group = await self._need_group(name, clients)
        if not clients.items() <= group.service.keys.clients.items():
            await group.service.add_clients(clients)
        for entry in entries:
            group.links[entry.id] = client_name(links[entry.id])
            group.gate.admit(entry.id, entry.name, links[entry.id].identity.public)

    async def _need_group(self, name: str, clients: dict[str, bytes]) -> Group:
        """The group ``name``; if it does not run, it is started for ``clients`` alone."""
        async with self._starting:  # a second service with the same keys would be in no list
            if name in self._groups:
                return self._groups[name]
            keys = self.keys_for(name)
            for stale in set(keys.clients) - set(clients):
                keys.remove_client(stale, os.urandom)
            for client, key in clients.items():
                keys.add_client(client, key)
            return await self._start(name, keys)

    async def _start(self, name: str, keys: ServiceKeys) -> Group:
        gate = Gate(self._contents, self._keypair, self._upload, self._on_event)
        ports: dict[int, Target] = {DEFAULT_PORT: gate.accept}
        if name.startswith(BROWSER_PREFIX):
            ports[BROWSER_PORT] = UnixTarget(await self._page_socket())
        service = await self._tor.serve_onion(
            ports, keys=keys, on_event=self._tell, wait=False, intro_dos=INTRO_DOS
        )
        gate.hang_up = service.close_circuit
        group = Group(name, service, gate, {})
        self._groups[name] = group
        return group

    def _tell(self, event: ServiceEvent) -> None:
        if not isinstance(event, Published):  # told once for all services of the share
            self._on_event(event.name, **event.fields())

    async def published(self) -> list[str]:
        """Wait until every service is on its directories; return the addresses."""
        await asyncio.gather(*(group.service.published.wait() for group in self._groups.values()))
        return [group.service.address for group in self._groups.values()]

    def cut(self, link_id: int) -> int:
        """Bar a link and cut what it has open, at once; return how many circuits were cut."""
        circuits = 0
        for group in self._groups.values():
            if link_id in group.links:
                for circuit in group.gate.bar(link_id):
                    circuits += group.service.close_circuit(circuit)
                if group.is_browser:
                    for connection in group.service.connections():
                        circuits += group.service.close_circuit(connection.id)
        return circuits

    def open_links(self) -> list[int]:
        """The ids of the links that have access."""
        return [link_id for group in self._groups.values() for link_id in group.links]

    async def close_links(self, link_ids: Iterable[int], renewable: Container[int] = ()) -> None:
        """Take all access from links, at once; returns when that is published.

        Their descriptor keys are withdrawn and the introduction points that an older descriptor names are
        replaced, so that a reader who kept that descriptor finds nobody. The keys of a service that was for
        one link alone are deleted, unless it is ``renewable``: then it keeps its address.
        """
        leaving: dict[str, list[str]] = {}
        ending: list[tuple[Group, bool]] = []
        for link_id in link_ids:
            self.cut(link_id)
            for group in [group for group in self._groups.values() if link_id in group.links]:
                client = group.links.pop(link_id)
                if group.is_browser:
                    ending.append((self._groups.pop(group.name), link_id not in renewable))
                else:
                    leaving.setdefault(group.name, []).append(client)
        await asyncio.gather(
            *(self._end(group, wipe) for group, wipe in ending),
            *(self._withdraw(self._groups[name], clients) for name, clients in leaving.items()),
        )

    async def _end(self, group: Group, wipe: bool) -> None:
        """End the service of a browser link."""
        await group.gate.close()
        await group.service.close()
        if wipe:
            self.wipe(group.name)

    def wipe(self, name: str) -> None:
        """Delete the keys of the service ``name`` if it is for one browser link, whether it runs or not."""
        if name.startswith(BROWSER_PREFIX):
            self._keys.pop(name, None)
            wipe_service(self._folder, name)

    async def _withdraw(self, group: Group, clients: list[str]) -> None:
        """Publish that ``clients`` of a service are none any more, and leave what they know."""
        try:
            async with asyncio.timeout(ROTATION_SECONDS):
                await group.service.remove_clients(clients)
                await group.service.rotate_intro_points()
        except (PelureError, TimeoutError) as error:
            log.warning("A revoked link's descriptor could not be replaced yet: %s", error)

    async def _sweep(self) -> None:
        """Close circuits on which nobody has had a stream for a while: a reader needs no circuit without."""
        since: dict[int, float] = {}
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            idle = {
                connection.id: group.service
                for group in self._groups.values()
                for connection in group.service.connections()
                if not connection.streams
            }
            since = {number: since.get(number, now) for number in idle}
            surplus = len(idle) - MAX_IDLE
            for place, number in enumerate(sorted(idle, key=lambda number: (since[number], number))):
                if place < surplus or now - since[number] >= IDLE_SECONDS:
                    idle[number].close_circuit(number)

    def groups(self) -> list[Group]:
        """The services that run, for listings."""
        return list(self._groups.values())

    async def close(self) -> None:
        """End all services; their descriptors stay valid."""
        self._sweeping.cancel()
        groups, self._groups = list(self._groups.values()), {}
        await asyncio.gather(*(group.gate.close() for group in groups))
        await asyncio.gather(*(group.service.close() for group in groups))
