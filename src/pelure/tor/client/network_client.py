"""Links, directory, circuits and streams, wired together: all that using a network takes."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from pelure.errors import DirectoryError
from pelure.tor.client.builder import CircuitBuilder
from pelure.tor.client.demand import Demand
from pelure.tor.client.dirclient import DirectoryClient
from pelure.tor.client.hs import OnionClient
from pelure.tor.client.hs_events import OnClientEvent
from pelure.tor.client.memory import watch_memory
from pelure.tor.client.onion_circuits import OnionCircuits
from pelure.tor.client.opener import StreamOpener
from pelure.tor.client.pool import CircuitPool
from pelure.tor.client.state import ClientState
from pelure.tor.directory.netdir import NetDir
from pelure.tor.directory.network import Network
from pelure.tor.directory.relay import Relay
from pelure.tor.net.links import LinkManager
from pelure.tor.net.lookout import fleet_of
from pelure.tor.net.origin import Circuit
from pelure.tor.net.supervision import Job, supervised
from pelure.tor.net.wallclock import watch_clock
from pelure.tor.path.guards import GuardManager
from pelure.tor.path.selection import PathSelector
from pelure.tor.path.timeouts import BuildTimeouts
from pelure.tor.path.vanguards import VanguardManager

log = logging.getLogger(__name__)

TIMEOUTS_FILE = "build_times.json"
VANGUARDS_FILE = "vanguards.json"
CLIENT_LENGTHS = (3,)
"""Onion clients need three hops: as they are to a rendezvous point, extended to anywhere else."""

Progress = Callable[[float, str], None]


class NetworkClient:
    """See the module; :meth:`start` bootstraps, :meth:`close` leaves nothing behind."""

    def __init__(
        self,
        network: Network,
        state: Path,
        role: str,
        *,
        full_vanguards: bool = False,
        on_event: OnClientEvent | None = None,
    ) -> None:
        """``state``: the folder of all networks' state. Raises ``ConfigError``."""
        self.network = network
        self._state = ClientState(state, network, role)
        self._folder = self._state.folder
        self.links = LinkManager()
        self.directory = DirectoryClient(network, self.links, self._folder)
        self.vanguards = VanguardManager(
            os.urandom, full=full_vanguards, state=self._folder.read_json(VANGUARDS_FILE)
        )
        self._full_vanguards = full_vanguards
        self._on_event = on_event
        self._paths: PathSelector | None = None
        self._jobs: list[asyncio.Task[None]] = []
        self._saving: asyncio.Task[bool] | None = None
        self.started = False

    async def start(self, progress: Progress | None = None) -> None:
        """Get the directory and begin to build circuits ahead; returns once a first one was built.

        Raises ``DirectoryError`` for what waiting can't mend (a wrong clock, too old software).
        """
        netdir = await self.directory.bootstrap(progress)
        self._use(netdir)
        self.directory.on_change.append(self._use)
        self.timeouts = BuildTimeouts(
            netdir.params, testing=self.network.testing, state=self._folder.read_json(TIMEOUTS_FILE)
        )
        builder = CircuitBuilder(self.links, _Record(self), self.timeouts, lambda: self.directory.params)
        demand = Demand(asyncio.get_running_loop().time(), lengths=CLIENT_LENGTHS)
        self.pool = CircuitPool(builder, self._current_paths, demand, extra_hops=self.vanguards.extra_hops)
        self.onion_client = OnionClient(self.pool, self.directory, on_event=self._on_event)
        self.onion_circuits = OnionCircuits(self.onion_client.connect)
        reject = self.network.flag("ClientRejectInternalAddresses", not self.network.testing)
        self.streams = StreamOpener(self.pool, self.onion_circuits, reject_internal=reject)
        jobs: dict[str, Job] = {
            "the renewal of the directory": self.directory.refresh_loop,
            "the watch on the clock": lambda: watch_clock(self._clock_jumped),
            "the watch on memory": lambda: watch_memory(self._circuits),
        }
        self._jobs = [asyncio.create_task(supervised(job, what)) for what, job in jobs.items()]
        self.started = True
        if progress is not None:
            progress(1.0, "building circuits")
        await self.pool.first_built.wait()

    @property
    def guards(self) -> GuardManager:
        """The entry guards. Raises ``DirectoryError`` before the network is known."""
        if self.directory.guards is None:
            raise DirectoryError("the network's directory is not known yet")
        return self.directory.guards

    def _use(self, netdir: NetDir) -> None:
        """Choose paths in a new directory from now on."""
        self.vanguards.update(netdir, time.time())
        if self._full_vanguards:  # now, for a program may end without warning: others would be chosen then
            saving = asyncio.to_thread(self._folder.write_json, VANGUARDS_FILE, self.vanguards.state())
            self._saving = asyncio.create_task(saving)
        self._paths = PathSelector(netdir, self.guards, self.vanguards, os.urandom, time.time)
        if self.started:
            self.timeouts.set_params(netdir.params)
            self.pool.network_changed()

    def _current_paths(self) -> PathSelector:
        if self._paths is None:
            raise DirectoryError("the network's directory is not known yet")
        if self._paths.outdated:
            self.directory.hurry()
        return self._paths

    def _circuits(self) -> list[Circuit]:
        """The circuits that are built and open."""
        return [entry.circuit for entry in self.pool.circuits() if entry.circuit is not None]

    def _clock_jumped(self, seconds: float) -> None:
        """The machine slept, as a rule: its connections may be gone without a word."""
        log.warning("The clock jumped by %+.0f seconds. Whether circuits still work is tested.", seconds)
        fleet_of(self.links).sound_all()
        self.pool.network_changed()

    async def close(self) -> None:
        """Close streams, circuits and links, save what was learned; idempotent."""
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        if self.started:
            self.started = False
            await self.onion_circuits.close()
            await self.pool.close()
            self.directory.save_guards()
            self._folder.write_json(TIMEOUTS_FILE, self.timeouts.state())
        await self.directory.guards_saved()
        if self._saving is not None:
            await self._saving
        await self.links.close()
        self._state.close()


class _Record:
    """What the builder learns of relays, told to guards and vanguards."""

    def __init__(self, client: NetworkClient) -> None:
        self._client = client
        self._good_guards: set[Relay] = set()

    def guard_succeeded(self, relay: Relay, now: float, end: Relay) -> bool:
        usable = self._client.guards.succeeded(relay, now, end)
        if relay not in self._good_guards:
            self._good_guards.add(relay)
            self._client.directory.save_guards()  # its first success may have confirmed it
        return usable

    def guard_failed(self, relay: Relay, now: float) -> None:
        self._client.guards.failed(relay, now)

    def hop_succeeded(self, relay: Relay) -> None:
        self._client.vanguards.succeeded(relay)

    def hop_failed(self, relay: Relay, now: float) -> None:
        self._client.vanguards.failed(relay, now)
