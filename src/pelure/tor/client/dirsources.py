"""Which directory to ask, and whom to ask next when it fails or dawdles (dir-spec 5.1, guard-spec 4.6)."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from pelure.errors import CircuitError, DirectoryError, LinkError, PathError, PelureError
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.client.dirfetch import DirectorySource
from pelure.tor.directory.consensus_verify import ClockError
from pelure.tor.directory.network import Network
from pelure.tor.directory.relay import Relay
from pelure.tor.net.links import LinkManager
from pelure.tor.path.guards import GuardManager
from pelure.tor.path.weights import random_below

HEDGE_SECONDS = 5.0
MAX_SOURCES = 8
GUARDS_TO_ASK = 3

T = TypeVar("T")
log = logging.getLogger(__name__)
Ask = Callable[[DirectorySource], Awaitable[T]]


class FatalDirectoryError(DirectoryError):
    """What no other directory and no second attempt can mend."""


class Directories:
    """The directories of a network: its entry guards once there are any, else fallbacks and authorities."""

    def __init__(
        self,
        network: Network,
        links: LinkManager,
        params: Callable[[], CircuitParams],
        guards: Callable[[], GuardManager | None],
    ) -> None:
        self._network = network
        self._links = links
        self._params = params
        self._guards = guards

    async def ask_any(self, ask: Ask[T]) -> T:
        """The first answer that any directory gives; a slow one gets a rival after some seconds.

        Raises the last error if all fail, a fatal one at once. That the clock is wrong is believed if most
        say so: a single directory may have old documents.
        """
        waiting = self._in_order()
        running: set[asyncio.Task[T]] = set()
        failures: list[PelureError] = []
        try:
            while waiting or running:
                if waiting:
                    running.add(asyncio.create_task(self._ask(waiting.pop(0), ask)))
                patience = HEDGE_SECONDS if waiting else None
                done, running = await asyncio.wait(
                    running, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    error = task.exception()
                    if error is None:
                        return task.result()
                    if isinstance(error, FatalDirectoryError) or not isinstance(error, PelureError):
                        raise error
                    failures.append(error)
            raise _verdict(failures)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _in_order(self) -> list[Relay]:
        """Whom to ask, first to last: guards, then an authority after every two fallbacks."""
        authorities = _shuffled([one.relay() for one in self._network.authorities if one.orport])
        mixed = _shuffled([one.relay() for one in self._network.fallbacks])
        for index, authority in enumerate(authorities):
            mixed.insert(min(3 * index + 2, len(mixed)), authority)
        return (self._some_guards() + mixed)[:MAX_SOURCES]

    def _some_guards(self) -> list[Relay]:
        guards, chosen = self._guards(), list[Relay]()
        while guards is not None and len(chosen) < GUARDS_TO_ASK:
            try:
                relay = guards.select(time.time(), accept=lambda relay: relay not in chosen, directory=True)
            except PathError:
                break  # there are fewer guards than that
            chosen.append(relay)
        return chosen

    async def _ask(self, relay: Relay, ask: Ask[T]) -> T:
        source = DirectorySource(self._links, relay, self._params())
        guards = self._guards()
        try:
            await source.open()
        except (LinkError, CircuitError) as error:
            log.info("%s can't be asked for the directory: %s", relay.nickname, error)
            if guards is not None:
                guards.failed(relay, time.time())
            raise
        try:
            if guards is not None:
                guards.succeeded(relay, time.time())
            return await ask(source)
        finally:
            source.close()


def _verdict(failures: Sequence[PelureError]) -> PelureError:
    """Which failure to report when every directory failed."""
    if not failures:
        return DirectoryError("the network has no directory that could be asked")
    clock = [error for error in failures if isinstance(error, ClockError)]
    others = [error for error in failures if not isinstance(error, ClockError)]
    return clock[-1] if len(clock) > len(others) else others[-1]


def _shuffled(relays: Sequence[Relay]) -> list[Relay]:
    rest, order = list(relays), []
    while rest:
        order.append(rest.pop(random_below(len(rest), os.urandom)))
    return order
