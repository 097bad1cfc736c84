"""A relay: everything in this package put together and kept running (``pelure relay``).

:class:`RelayServer` listens for links, answers circuit handshakes, and lets circuits extend, exit, ask for
documents, introduce and meet; it renews its keys, keeps its directory cache current, publishes its descriptor
and bounds its memory.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pelure.errors import ProtocolError
from pelure.tor.cell.commands import DestroyReason, EndReason, RelayCommand
from pelure.tor.cell.framing import Cell
from pelure.tor.circuit import events as ev
from pelure.tor.circuit.handshakes import HopSecrets
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.directory.cache import DirectoryCache
from pelure.tor.directory.consensus import Consensus
from pelure.tor.directory.relay import Relay
from pelure.tor.net.link import Link
from pelure.tor.net.links import LinkManager, raise_file_limit
from pelure.tor.net.statefile import StateFolder, write_private
from pelure.tor.net.supervision import Job, supervised
from pelure.tor.net.throttle import Throttle
from pelure.tor.relay import memory
from pelure.tor.relay.bandwidth import BandwidthMeter
from pelure.tor.relay.circuit import RelayCircuit
from pelure.tor.relay.config import UNLIMITED, RelayConfig
from pelure.tor.relay.creation import CircuitCreator
from pelure.tor.relay.dirserver import Directory, DirStream, WriteDocument
from pelure.tor.relay.dirupdate import CacheUpdater
from pelure.tor.relay.dos import ClientLimits
from pelure.tor.relay.exit import Exits
from pelure.tor.relay.host import Stream
from pelure.tor.relay.hsdir import DescriptorStore
from pelure.tor.relay.introduction import IntroductionPoints
from pelure.tor.relay.keys import RelayKeys
from pelure.tor.relay.known_relays import KnownRelays
from pelure.tor.relay.publish import Publisher, build_documents
from pelure.tor.relay.reachability import HINT, ReachabilityTest
from pelure.tor.relay.rendezvous import RendezvousPoints
from pelure.tor.relay.resolver import Resolver

log = logging.getLogger(__name__)

MEMORY_CHECK_SECONDS = 0.2
MEMORY_CHECK_PAUSE = 20  # the checks shall take no more than a twentieth of the time
HOUSEKEEPING_SECONDS = 1.0
KEYS_CHECK_SECONDS = 3600.0
LINK_KEYS_MARGIN_SECONDS = 6 * 3600.0
BYTES_PER_CIRCUIT = 16 * 1024  # what a circuit is reckoned with when their number is bounded
STATE_FILE = "pelure-bandwidth.json"

OnEvent = Callable[..., None]


class RelayServer:
    """See the module. :meth:`start` it in a running event loop, :meth:`close` it at the end."""

    def __init__(
        self,
        config: RelayConfig,
        *,
        on_event: OnEvent | None = None,
        authority: WriteDocument | None = None,
        cache: DirectoryCache | None = None,
    ) -> None:
        """``on_event(name, **fields)`` hears what happens (docs/relay.md lists it).

        ``authority``, ``cache``: given by a directory authority, whose relay half answers for it; the cache
        is then the authority's to fill. Raises ``ConfigError`` for unusable keys or a folder in use.
        """
        self.config = config
        self.rng = os.urandom
        self.params = CircuitParams()
        self.relayed_cells = 0
        self._on_event = on_event or _ignore
        self._folder = StateFolder(config.data_directory)
        self.keys = RelayKeys.load(config.data_directory, self.rng, time.time())
        fingerprint = f"{config.nickname} {self.keys.rsa.public.identity.hex().upper()}\n"
        write_private(config.data_directory / "fingerprint", fingerprint.encode())
        self.circuits: set[RelayCircuit] = set()
        self.max_circuits = config.memory_limit // BYTES_PER_CIRCUIT
        self.introductions = IntroductionPoints()
        self.rendezvous = RendezvousPoints()
        self.descriptors = DescriptorStore(capacity=config.memory_limit // 4)
        self.cache = cache if cache is not None else DirectoryCache()
        self.directory = Directory(self.cache, self.descriptors, authority)
        self.known = KnownRelays(self.cache, config.network.authorities)
        self.clients = ClientLimits()
        self.bandwidth = BandwidthMeter()
        self.bandwidth.restore(self._folder.read_json(STATE_FILE), time.time())
        self.orport = config.orport
        self.orport6 = config.orport6
        self._fills_cache = cache is None
        self._past_bytes = [0, 0]
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def fingerprint(self) -> str:
        """The RSA identity in 40 upper-case hexadecimal digits."""
        return self.keys.rsa.public.identity.hex().upper()

    # ---- life ----

    async def start(self) -> None:
        """Listen, and begin to publish and to keep up with the network. Raises ``ConfigError``."""
        config = self.config
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._creator = CircuitCreator(self)
        self.exits = Exits(
            config.exit_policy,
            Resolver(),
            ipv6=config.ipv6_exit,
            is_reentry=self.known.is_reentry,
            # On a testing network relays come and are used before others have heard of them.
            is_stranger=lambda rsa_id: not config.network.testing and self.known.is_stranger(rsa_id),
            max_connections=raise_file_limit() // 2,
        )
        self._identity = await asyncio.to_thread(self._make_link_identity)
        limited = config.bandwidth_rate < UNLIMITED
        self.links = LinkManager(
            self._identity,
            on_create=self._create_requested,
            on_link=self._link_opened,
            on_lost=self._link_lost,
            admits=lambda address: self.clients.may_connect(address, self._loop.time()),
            throttle=Throttle(config.bandwidth_rate, config.bandwidth_burst) if limited else None,
        )
        host, self.orport = await self.links.listen(config.bind, config.orport)
        self._event("listening", address=host, port=self.orport, fingerprint=self.fingerprint)
        if config.address6:
            host, self.orport6 = await self.links.listen(config.bind6, config.orport6 or self.orport)
            self._event("listening", address=host, port=self.orport6, fingerprint=self.fingerprint)
        self._tells_ipv6 = bool(config.address6) and config.assume_reachable
        self._reachability = ReachabilityTest(self.links, self.cache, self.params, self._reached)
        self._build_documents()
        self._publisher = Publisher(config.network, self._build_documents, self._accepted)
        work: list[Job] = [self._watch_memory, self._keep_house, self._renew_keys]
        if config.publish:
            work.append(self._publish)
        if self._fills_cache:
            work.append(CacheUpdater(config.network, self.cache, self.consensus_changed).run)
        self._tasks = [
            asyncio.ensure_future(supervised(one, "a background job of the relay")) for one in work
        ]

    async def close(self) -> None:
        """Close circuits and links, stop all work, keep what is to be kept; idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if hasattr(self, "links"):
            await self.links.close()
            await self.exits.close()
            self._folder.write_json(STATE_FILE, self.bandwidth.state())
        self._folder.close()

    def _make_link_identity(self) -> Any:
        addresses = tuple(one for one in (self.config.address, self.config.address6) if one)
        return self.keys.link_identity(addresses, self.rng, time.time())

    # ---- publishing ----

    async def _publish(self) -> None:
        """Publish once others reach the relay; an IPv6 address is told only once it, too, is reached."""
        config = self.config
        if config.assume_reachable:
            await self._publisher.run()
        keys = self.keys
        me = Relay(
            config.nickname,
            keys.rsa.public.identity,
            keys.identity.public,
            keys.onion.public,
            ((config.address, self.orport),),
        )
        work = [self._publish_when_reached(me)]
        if config.address6:
            work.append(self._tell_ipv6(replace(me, addresses=((config.address6, self.orport6),))))
        await asyncio.gather(*work)

    async def _publish_when_reached(self, me: Relay) -> None:
        await self._reachability.reach(me)
        await self._publisher.run()

    async def _tell_ipv6(self, me: Relay) -> None:
        await self._reachability.reach(me)
        self._tells_ipv6 = True
        self._publisher.publish()

    def _reached(self, version: int, reachable: bool) -> None:
        config = self.config
        address, port = (config.address, self.orport) if version == 4 else (config.address6, self.orport6)
        if reachable:
            self._event("reachable", address=address, port=port)
        else:
            log.warning("nobody reaches this relay at %s, port %d: %s", address, port, HINT)
            self._event("unreachable", address=address, port=port, hint=HINT)

    # ---- links and circuits ----

    def _create_requested(self, link: Link, cell: Cell) -> None:
        if not self.config.assume_reachable and self._may_connect(link.address[0].partition("%")[0]):
            self._reachability.create_came(link)
        if link.peer.rsa_id is None and not self.clients.may_create(link.address[0], self._loop.time()):
            link.destroy(cell.circ_id, DestroyReason.RESOURCELIMIT)
            return
        self._creator.create_requested(link, cell)

    def has_room(self, link: Link) -> bool:
        """False if no more circuits are to be taken on any link, or on this client's."""
        limit = self.max_circuits if link.peer.rsa_id is not None else self.max_circuits // 2
        return len(self.circuits) < self.max_circuits and link.circuits < limit

    def add(self, link: Link, circ_id: int, secrets: HopSecrets) -> None:
        """A handshake is done: the circuit exists."""
        circuit = RelayCircuit(self, link, circ_id, secrets, self._loop.time())
        self.circuits.add(circuit)
        link.adopt(circ_id, circuit)

    def circuit_closed(self, circuit: RelayCircuit) -> None:
        """Forget the circuit."""
        self.circuits.discard(circuit)
        self.introductions.forget(circuit)
        self.rendezvous.forget(circuit)
        self.exits.limits.forget(circuit)

    def _link_opened(self, link: Link) -> None:
        if link.peer.rsa_id is None:
            self.clients.connected(link.address[0], self._loop.time())

    def _link_lost(self, link: Link) -> None:
        if link.peer.rsa_id is None:
            self.clients.disconnected(link.address[0], self._loop.time())
        self._creator.queue.forget(link)
        self._past_bytes[0] += link.bytes_read
        self._past_bytes[1] += link.bytes_written

    def check_extend(self, relay: Relay) -> Relay:
        """The relay to extend to, with the addresses that may be used. Raises ``ProtocolError`` to refuse.

        An Ed25519 identity that is not named but known is enforced all the same (tor-spec 5.1.2).
        """
        if relay.rsa_id == self.keys.rsa.public.identity or relay.ed_id == self.keys.identity.public:
            raise ProtocolError("EXTEND2 asks to extend to this relay itself")
        if not any(relay.rsa_id):
            raise ProtocolError("EXTEND2 asks to extend to a relay without an identity")
        usable: dict[int, tuple[str, int]] = {}
        for ip, port in relay.addresses:
            if port and self._may_connect(ip):
                usable.setdefault(ipaddress.ip_address(ip).version, (ip, port))
        if not usable:
            raise ProtocolError("EXTEND2 names no address that may be used")
        # One of each family: a cell must not make this relay try a list of hosts.
        addresses = tuple(usable[version] for version in sorted(usable))
        return replace(relay, ed_id=relay.ed_id or self.known.ed_id(relay.rsa_id), addresses=addresses)

    def _may_connect(self, ip: str) -> bool:
        return self.config.allow_private_addresses or ipaddress.ip_address(ip).is_global

    # ---- what circuits ask for ----

    def incoming(self, circuit: RelayCircuit, event: ev.Incoming) -> Stream | None:
        """BEGIN, BEGIN_DIR or RESOLVE."""
        if event.command == RelayCommand.BEGIN:
            return self.exits.begin(circuit, event)
        if event.command == RelayCommand.RESOLVE:
            self.exits.resolve(circuit, event)
            return None
        if not self.config.directory_cache:
            event.stream.end(EndReason.NOTDIRECTORY)
            return None
        return DirStream(circuit, event.stream, self.directory)

    def message(self, circuit: RelayCircuit, command: int, data: bytes) -> None:
        """A message of introduction or rendezvous. Raises ``ProtocolError``."""
        now = self._loop.time()
        if command == RelayCommand.ESTABLISH_INTRO:
            self.introductions.establish(circuit, data, now)
        elif command == RelayCommand.INTRODUCE1:
            self.introductions.introduce(circuit, data, now)
        elif command == RelayCommand.ESTABLISH_RENDEZVOUS:
            self.rendezvous.establish(circuit, data, now)
        else:
            self.rendezvous.join(circuit, data)

    # ---- background work ----

    def consensus_changed(self, consensus: Consensus) -> None:
        """Take over the network's parameters; publish again if the network does not know this relay."""
        self.params = CircuitParams.from_consensus(consensus.params)
        self.known.update(consensus)
        self.introductions.params = self.rendezvous.params = consensus.params
        self.clients.params = self.exits.limits.params = consensus.params
        self.descriptors.max_descriptor = consensus.param("HSV3MaxDescriptorSize", 50_000, 1)
        identity = self.keys.rsa.public.identity
        listed = next((router for router in consensus.routers if router.rsa_id == identity), None)
        self._event(
            "consensus",
            valid_after=consensus.valid_after,
            relays=len(consensus.routers),
            flags=sorted(listed.flags) if listed else None,
        )
        margin = 2 * (consensus.fresh_until - consensus.valid_after)
        published_at = self._publisher.published_at
        if listed is None and published_at and time.time() > published_at + margin:
            log.info("this relay is not in the consensus: publishing its descriptor again")
            self._publisher.publish()

    def _build_documents(self) -> bytes:
        uptime = self._loop.time() - self._started
        descriptor, extra_info = build_documents(
            self.config,
            self.keys,
            self.orport,
            (self.config.address6, self.orport6) if self._tells_ipv6 else None,
            self.bandwidth.observed,
            uptime,
            time.time(),
        )
        self.cache.own_descriptor, self.cache.own_extra_info = descriptor, extra_info
        return descriptor + extra_info

    def _accepted(self, authority: str) -> None:
        self._event("published", authority=authority)

    async def _watch_memory(self) -> None:
        while True:
            started = self._loop.time()
            limit = self.config.memory_limit
            memory.relieve(self.links.links, self.circuits, self.descriptors, limit, time.time())
            taken = self._loop.time() - started  # it grows with the number of streams
            await asyncio.sleep(max(MEMORY_CHECK_SECONDS, MEMORY_CHECK_PAUSE * taken))

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            read, written = self.traffic
            self.bandwidth.note(time.time(), read, written)
            self.rendezvous.expire(self._loop.time())
            self.clients.expire(self._loop.time())
            self.descriptors.expire(time.time())

    async def _renew_keys(self) -> None:
        while True:
            await asyncio.sleep(KEYS_CHECK_SECONDS)
            now = time.time()
            keys = await asyncio.to_thread(self.keys.renewed, self.rng, now)
            if keys is not self.keys or now > self._identity.expires - LINK_KEYS_MARGIN_SECONDS:
                onion_changed = keys.onion != self.keys.onion or keys.signing != self.keys.signing
                self.keys = keys
                self._identity = await asyncio.to_thread(self._make_link_identity)
                self.links.set_identity(self._identity)
                if onion_changed:
                    self._publisher.publish()

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes read and written on links since the start."""
        read, written = self._past_bytes
        for link in self.links.links:
            read += link.bytes_read
            written += link.bytes_written
        return read, written

    def statistics(self) -> dict[str, int]:
        """What the relay has and did, for events and tests."""
        read, written = self.traffic
        return {
            "links": len(self.links.links),
            "half_open": self.links.half_open,
            "circuits": len(self.circuits),
            "introduction_points": len(self.introductions),
            "rendezvous_waiting": len(self.rendezvous),
            "descriptors": len(self.descriptors),
            "relayed_cells": self.relayed_cells,
            "introductions": self.introductions.relayed,
            "rendezvous": self.rendezvous.joined,
            "exit_streams": self.exits.opened,
            "directory_requests": self.directory.requests,
            "descriptors_stored": self.descriptors.stored,
            "descriptors_fetched": self.descriptors.fetched,
            "handshakes": self._creator.queue.done,
            "handshakes_shed": self._creator.queue.shed,
            "bytes_read": read,
            "bytes_written": written,
        }

    def _event(self, name: str, **fields: Any) -> None:
        self._on_event(name, **fields)


def _ignore(name: str, **fields: Any) -> None:
    """Nobody listens."""
