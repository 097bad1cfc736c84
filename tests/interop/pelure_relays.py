"""Pelure relays for the interop tests: several in one thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from pelure.tor.directory.exit_policy import ExitPolicy
from pelure.tor.directory.network import parse_network
from pelure.tor.relay.config import RelayConfig
from pelure.tor.relay.server import RelayServer

T = TypeVar("T")


class PelureRelays:
    """``count`` relays of the network that ``torrc`` describes; use as a context manager."""

    def __init__(self, torrc: str, folder: Path, count: int, prefix: str = "pelure", **settings: Any) -> None:
        """``settings``: of :class:`RelayConfig`."""
        self.servers: list[RelayServer] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._network = parse_network(torrc)
        self._folder = folder
        self._settings = settings
        self._names = [f"{prefix}{index}" for index in range(count)]
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pelure relays", daemon=True)

    def __enter__(self) -> PelureRelays:
        self._thread.start()
        for name in self._names:
            self.run(self._start(name))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for server in self.servers:
                self.run(server.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(30)
            self._loop.close()

    async def _start(self, name: str) -> None:
        def on_event(event: str, **fields: Any) -> None:
            self.events.append((event, {"relay": name, **fields}))

        config = RelayConfig(
            self._network,
            self._folder / name,
            nickname=name,
            bind="127.0.0.1",
            orport=0,
            exit_policy=ExitPolicy.parse(["accept *:*"]),
            allow_private_addresses=True,
            assume_reachable=True,
        )
        config = replace(config, **self._settings)
        server = RelayServer(config, on_event=on_event)
        await server.start()
        self.servers.append(server)

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 60.0) -> T:
        """Run ``work`` in the relays' loop and return what it does."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def look(self, question: Callable[[RelayServer], T]) -> list[T]:
        """Ask every relay something, in its own thread."""

        async def ask() -> list[T]:
            return [question(server) for server in self.servers]

        return self.run(ask())

    @property
    def fingerprints(self) -> list[str]:
        """Of each relay, 40 hexadecimal digits."""
        return [server.fingerprint for server in self.servers]

    def total(self, name: str) -> int:
        """A statistic summed over the relays."""
        return sum(self.look(lambda server: server.statistics()[name]))
