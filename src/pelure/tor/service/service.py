"""An onion service: introduction points, descriptors, rendezvous and streams under one roof (rend-spec-v3).

Several services can run in one process; they share nothing but the source of circuits and the directory.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pelure.errors import ConfigError, DirectoryError, OnionServiceError, ProtocolError
from pelure.tor.cell.extensions import DosParameters
from pelure.tor.cell.onion_messages import Introduce2
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.crypto.keys import Rng
from pelure.tor.directory.netdir import NetDir
from pelure.tor.directory.relay import Relay
from pelure.tor.net import dir_http
from pelure.tor.net.circuit_source import CircuitSource
from pelure.tor.net.links import raise_file_limit
from pelure.tor.net.netdir_source import NetDirSource, current_netdir
from pelure.tor.net.origin import Circuit
from pelure.tor.onion.descriptor import check_room
from pelure.tor.onion.intro_queue import PowLimits
from pelure.tor.onion.introduction import Introduction
from pelure.tor.onion.ring import RingParams
from pelure.tor.onion.second_layer import INTRO_POINTS_MAX, FlowControl, SecondLayer
from pelure.tor.onion.time_periods import PeriodSchedule
from pelure.tor.service.events import ConnectionEnded, IntroductionReceived, OnEvent, ServiceEvent
from pelure.tor.service.intro_points import IntroPoints, ServiceIntroPoint
from pelure.tor.service.keys import ServiceKeys, check_client
from pelure.tor.service.pow_defence import PowDefence
from pelure.tor.service.publisher import Publisher, UploadRefused
from pelure.tor.service.rendezvous import Rendezvous
from pelure.tor.service.streams import StreamAcceptor
from pelure.tor.service.targets import Target

INTRO_POINTS_DEFAULT = 3
FIRST_PUBLICATION_GRACE = 3.0
"""Seconds that the first descriptor waits for all introduction points once there is one."""
UPLOAD_SECONDS = 60.0
CONCURRENT_UPLOADS = 8
HSDIR_CIRCUIT_LENGTH = 3
FILES_SHARE = 4
"""The part of the process' file descriptors, one in so many, that a service's streams may take."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connection:
    """A joined circuit, for whoever lists connections. ``since``: seconds since the epoch."""

    id: int
    since: float
    path: tuple[str, ...]
    streams: int
    cells_read: int
    cells_written: int


class OnionService:
    """See the module. :meth:`start` it, wait for ``published``, :meth:`close` it in the end."""

    def __init__(
        self,
        source: CircuitSource,
        directory: NetDirSource,
        keys: ServiceKeys,
        ports: Mapping[int, Target],
        *,
        intro_points: int = INTRO_POINTS_DEFAULT,
        max_streams: int = 0,
        intro_dos: DosParameters | None = None,
        pow_limits: PowLimits | None = None,
        on_event: OnEvent | None = None,
        rng: Rng = os.urandom,
    ) -> None:
        """``ports``: virtual port to target. ``max_streams``: most streams open on a circuit (0: any number).

        ``intro_dos``: limits that introduction points shall keep to (proposal 305), None for the network's.
        ``pow_limits``: beyond these, clients are asked for proofs of work (proposal 327); None: never.
        Raises :class:`ConfigError` if no descriptor can name that many introduction points.
        """
        if not 1 <= intro_points <= INTRO_POINTS_MAX:
            raise ConfigError(f"an onion service has 1 to {INTRO_POINTS_MAX} introduction points")
        self.keys = keys
        self._source = source
        self._directory = directory
        self._on_event = on_event
        self._rng = rng
        self._connections: dict[int, tuple[Circuit, float]] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self._uploading = asyncio.Semaphore(CONCURRENT_UPLOADS)
        self._publishing: asyncio.Task[None] | None = None
        self._described = False
        self._grace: asyncio.TimerHandle | None = None
        self._publisher = Publisher(keys, self._upload, self._emit, rng)
        self._intro = IntroPoints(
            source,
            intro_points,
            self._introduced,
            self._points_changed,
            self._back_again,
            self._emit,
            rng,
            intro_dos,
        )
        self._rendezvous = Rendezvous(source, self._joined, self._emit, rng)
        self._pow: PowDefence | None = None
        if pow_limits is not None:
            self._pow = PowDefence(
                pow_limits,
                self._rendezvous.answer,
                lambda: self._rendezvous.in_progress,
                self._pow_changed,
                self._emit,
                rng,
            )
        self._streams = StreamAcceptor(
            ports, max_streams, self._emit, max_open=raise_file_limit() // FILES_SHARE
        )

    @property
    def address(self) -> str:
        """The ``….onion`` address."""
        return self.keys.address

    @property
    def published(self) -> asyncio.Event:
        """Set once both descriptors are on their directories."""
        return self._publisher.published

    async def start(self) -> None:
        """Begin to establish introduction points and to publish.

        Raises :class:`DirectoryError`, and :class:`ConfigError` if there are too many clients.
        """
        await self._check_room(len(self.keys.clients))
        self._use_netdir(current_netdir(self._directory))
        self._directory.on_change.append(self._network_changed)
        self._publishing = asyncio.create_task(self._publisher.run())
        self._intro.start()
        if self._pow is not None:
            self._pow.start()

    async def close(self) -> None:
        """End everything; the descriptor stays valid: the service can be found as soon as it is back."""
        if self._network_changed in self._directory.on_change:
            self._directory.on_change.remove(self._network_changed)
        if self._grace is not None:
            self._grace.cancel()
        if self._publishing is not None:
            self._publishing.cancel()
            await asyncio.gather(self._publishing, return_exceptions=True)
        await self._intro.close()
        if self._pow is not None:
            await self._pow.close()
        await self._rendezvous.close()
        await self._streams.close()
        for circuit, _ in list(self._connections.values()):
            circuit.close()
        await asyncio.gather(*self._watches)

    # ---- who may connect ----

    async def add_clients(self, clients: Mapping[str, bytes]) -> None:
        """Authorize clients (name to X25519 public key, 32 bytes); returns once that is published.

        Raises :class:`ConfigError`, with nothing changed, for a bad name or key or if too many don't fit.
        """
        for name, public in clients.items():
            check_client(name, public)
        await self._check_room(len({*self.keys.clients, *clients}))
        for name, public in clients.items():
            self.keys.add_client(name, public)
        await self.republish()

    async def remove_clients(self, names: Iterable[str]) -> None:
        """Withdraw clients' authorizations; returns once that is published. Raises :class:`ConfigError`.

        What a client has open stays open (:meth:`close_circuit`), and a descriptor that it fetched before
        goes on telling it the introduction points (:meth:`rotate_intro_points`).
        """
        for name in names:
            self.keys.remove_client(name, self._rng)
        await self.republish()

    async def reload_clients(self) -> bool:
        """Take up changes made in the folder ``authorized_clients``; return whether there were any.

        Where somebody lost access, by a key's removal or because the service was open to all before, the
        introduction points are replaced, so that a descriptor at hand is of no use either. Returns when it is
        all published. Raises :class:`ConfigError`.
        """
        before = set(self.keys.clients.values())
        if not self.keys.reload_clients():
            return False
        if before and before <= set(self.keys.clients.values()):
            await self.republish()
        else:
            await self.rotate_intro_points()
        return True

    async def rotate_intro_points(self) -> None:
        """Move to new introduction points; returns when the old ones are gone and the new ones published."""
        await self._intro.rotate()

    async def republish(self) -> None:
        """Publish new revisions of both descriptors; returns when each directory was tried once."""
        self._publisher.renew()
        await self._publisher.settled()

    # ---- who is connected ----

    def connections(self) -> list[Connection]:
        """The joined circuits."""
        return [
            Connection(
                number,
                since,
                tuple(relay.nickname for relay in circuit.path),
                len(circuit.streams),
                circuit.cells_read,
                circuit.cells_written,
            )
            for number, (circuit, since) in self._connections.items()
        ]

    def close_circuit(self, number: int) -> bool:
        """Close a joined circuit with everything on it; return whether there was one."""
        entry = self._connections.get(number)
        if entry is not None:
            entry[0].close()
        return entry is not None

    # ---- inside ----

    async def _check_room(self, clients: int) -> None:
        await asyncio.to_thread(check_room, clients, self._intro.count, time.time(), self._rng)

    def _emit(self, event: ServiceEvent) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:  # whoever listens must not disturb circuits or uploads
            log.exception("bug: telling %s of the onion service failed", event.name)

    def _network_changed(self, netdir: NetDir) -> None:
        try:
            self._use_netdir(netdir)
        except DirectoryError as error:
            log.warning("The onion service keeps to the consensus before: %s", error)

    def _use_netdir(self, netdir: NetDir) -> None:
        schedule = PeriodSchedule.from_consensus(netdir, testing=netdir.network.testing)
        params = RingParams.from_params(netdir.params)
        directories = [relay for relay in netdir.hsdirs if relay.protocols.supports("HSDir", 2)]
        self._publisher.set_network(schedule.publish_slots(), directories, params)
        if self._described:
            self._describe()

    def _describe(self) -> None:
        """Let the descriptors name what there is now."""
        self._described = True
        params = CircuitParams.from_consensus(current_netdir(self._directory).params)
        increment = params.sendme_inc if params.congestion_control else None
        self._rendezvous.congestion_control = increment
        self._publisher.set_content(
            SecondLayer(
                tuple(point.describe() for point in self._intro.listed),
                flow_control=None if increment is None else FlowControl("1-2", increment),
                pow_params=None if self._pow is None else self._pow.params,
            )
        )

    def _pow_changed(self) -> None:
        if self._described:
            self._describe()

    async def _points_changed(self) -> None:
        """Publish the introduction points, the first time when all are there or after a moment of grace."""
        if not self._described and len(self._intro.listed) < self._intro.count:
            if self._grace is None:
                loop = asyncio.get_running_loop()
                self._grace = loop.call_later(FIRST_PUBLICATION_GRACE, self._describe)
            return
        self._describe()
        await self._publisher.settled()

    def _back_again(self) -> None:
        """All introduction points were out of reach: if the network was restarted, no directory knows us."""
        log.info("The introduction points are there again; the descriptors are published anew")
        self._publisher.renew()

    async def _upload(self, relay: Relay, document: bytes) -> None:
        try:
            async with self._uploading, asyncio.timeout(UPLOAD_SECONDS):
                circuit = await self._source.internal_circuit(
                    relay, length=HSDIR_CIRCUIT_LENGTH, purpose="hsdir"
                )
                try:
                    stream = circuit.open_dir()
                    answer = await dir_http.post(stream, "/tor/hs/3/publish", document)
                finally:
                    circuit.close()
        except TimeoutError:
            raise OnionServiceError(f"{relay.nickname} did not take the descriptor in time") from None
        if answer.status == 400:
            raise UploadRefused(f"{relay.nickname} refused the descriptor")
        if answer.status != 200:
            raise OnionServiceError(f"{relay.nickname} answered with status {answer.status}")

    def _introduced(self, point: ServiceIntroPoint, message: Introduce2) -> None:
        subcredentials = self._publisher.subcredentials
        try:
            introduction = Introduction.open(message, point.keys, subcredentials)
        except ProtocolError as error:
            log.info("An introduction through %s can't be opened: %s", point.relay.nickname, error)
            return
        relay = introduction.rendezvous_point
        where = current_netdir(self._directory).by_rsa.get(relay.rsa_id, relay).nickname
        self._emit(IntroductionReceived(point.relay.nickname, where))
        if self._pow is None:
            self._rendezvous.answer(introduction, where)
        else:
            self._pow.submit(introduction, where, subcredentials[introduction.subcredential])

    def _joined(self, circuit: Circuit) -> None:
        self._connections[circuit.id] = circuit, time.time()
        circuit.on_incoming = self._streams.incoming
        watch = asyncio.create_task(self._watch(circuit))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)

    async def _watch(self, circuit: Circuit) -> None:
        await circuit.closed.wait()
        del self._connections[circuit.id]
        self._emit(ConnectionEnded(circuit.id))
