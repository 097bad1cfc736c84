"""Clients and onion services of either program, as processes: C tor at its best setting, pelure as it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.support.fetching import Via, first_byte
from benchmarks.support.harness import Command, CTorNetwork, free_port

SETTLE_SECONDS = 3.0
"""A bootstrapped client gets these to build the circuits that it builds in advance."""
# On loopback C tor learns to give up a circuit after some 25 ms. Of fifty that are built at once most take
# longer; a service then leaves a rendezvous out after two retries, and its client waits in vain.
CTOR_ANY = "LearnCircuitBuildTimeout 0"
# As many rendezvous at a time as anybody asks for; the default is 32.
CTOR_CLIENT = f"{CTOR_ANY}\nMaxClientCircuitsPending 1024"

CTOR, PELURE = "C tor", "pelure"
KINDS = (CTOR, PELURE)


@dataclass(frozen=True)
class Place:
    """A network: ``ctor`` makes C tor processes in it, ``file`` is for ``pelure --network``."""

    ctor: CTorNetwork
    file: Path


@dataclass(frozen=True)
class Endpoint:
    """A running client (``socks``: its port) or service (``address``: its onion address)."""

    kind: str
    pid: int
    socks: int = 0
    address: str = ""


@contextmanager
def client(kind: str, place: Place) -> Iterator[Endpoint]:
    """A bootstrapped client with a state folder of its own."""
    if kind == CTOR:
        running = place.ctor.client(extra=CTOR_CLIENT)
        try:
            yield Endpoint(kind, running.node.pid, socks=running.socks)
        finally:
            running.stop()
        return
    port = free_port()
    with _in_place(place, "proxy", "--socks", f"127.0.0.1:{port}") as command:
        command.wait("bootstrapped")
        yield Endpoint(kind, command.process.pid, socks=port)


@contextmanager
def service(kind: str, place: Place, port: int) -> Iterator[Endpoint]:
    """A published onion service whose port 80 is TCP ``port`` of this machine."""
    if kind == CTOR:
        running = place.ctor.service({80: port}, extra=CTOR_ANY)
        try:
            yield Endpoint(kind, running.node.pid, address=running.address)
        finally:
            running.stop()
        return
    with _in_place(place, "onion", "serve", "--port", f"80:127.0.0.1:{port}") as command:
        address = str(command.wait("published")["address"])
        yield Endpoint(kind, command.process.pid, address=address)


@contextmanager
def _in_place(place: Place, *arguments: str) -> Iterator[Command]:
    with TemporaryDirectory(prefix="pelure-bench-") as folder:
        base = ("--network", str(place.file), "--state", f"{folder}/state")
        with pelure(*base, *arguments, log=Path(folder, "log")) as command:
            yield command


@contextmanager
def pelure(*arguments: str, log: Path) -> Iterator[Command]:
    """A running command; asked to stop also after an error, so that its own processes end before it does."""
    with Command(*arguments, log=log) as command:
        try:
            yield command
        finally:
            command.stop()


def cold(kind: str, place: Place, services: list[Endpoint]) -> list[float]:
    """What a fresh client's first request to each of ``services`` takes to the first byte, in seconds.

    The client has bootstrapped and settled; it fetches the descriptor, introduces itself, meets the service.
    """
    with client(kind, place) as fresh:
        time.sleep(SETTLE_SECONDS)
        return [first_byte(Via(fresh.socks), one.address) for one in services]
