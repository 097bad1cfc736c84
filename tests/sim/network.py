"""The network of a simulation: hosts, connections with delay and bandwidth, and what goes wrong with them.

Whoever runs in the context of a host (:data:`HERE`) connects from there and listens there. A host can crash,
which breaks its connections, or fall silent: what is sent to and from it then waits, as TCP would have it,
until it is heard of again.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any

MIN_DELAY, MAX_DELAY = 0.005, 0.06
"""Seconds that bytes take from one host to another, each pair its own."""
RATE = 5e6
"""Bytes a second that one connection carries in a direction."""
HIGH_WATER = 64 * 1024
TCP_SECONDS = 900.0
"""A connection breaks that has heard nothing of what it sent for so long (tcp_retries2 of Linux, tcp(7))."""
Place = tuple[str, int]
Factory = Callable[[], asyncio.BaseProtocol]


@dataclass(eq=False)
class Host:
    """A machine at ``ip``; ``up``: it answers; ``heard``: what is sent gets there and away."""

    name: str
    ip: str
    up: bool = True
    heard: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    transports: list[Transport] = field(default_factory=list, repr=False)


HERE: ContextVar[Host] = ContextVar("HERE")


class Listener:
    """In the place of ``asyncio.Server``; :attr:`sockets` is itself."""

    def __init__(self, network: Network, place: Place, factory: Factory) -> None:
        self.place = place
        self.factory = factory
        self.context = copy_context()
        self.sockets = [self]
        self._network = network

    def getsockname(self) -> Place:
        """Where it listens."""
        return self.place

    def close(self) -> None:
        """Listen no longer."""
        self._network.listeners.pop(self.place, None)

    async def wait_closed(self) -> None:
        """Nothing is left to wait for."""


class Network:
    """All hosts and who listens where; ``seed`` decides about delays."""

    def __init__(self, seed: int) -> None:
        self.hosts: dict[str, Host] = {}
        self.listeners: dict[Place, Listener] = {}
        self._random = random.Random(f"network {seed}")
        self._delays: dict[tuple[str, str], float] = {}
        self._ports = 40_000
        self._story = hashlib.sha256()

    def host(self, name: str) -> Host:
        """A new host; each is in a /16 of its own."""
        host = Host(name, f"{20 + len(self.hosts)}.{len(self.hosts)}.0.1")
        host.heard.set()
        self.hosts[host.ip] = host
        return host

    @property
    def story(self) -> str:
        """A digest over everything that ever arrived, and when."""
        return self._story.hexdigest()

    def tell(self, what: str) -> None:
        """Add something to the story."""
        self._story.update(f"{asyncio.get_running_loop().time():.6f} {what}\n".encode())

    def delay(self, one: Host, other: Host) -> float:
        """Seconds from ``one`` to ``other``."""
        pair = (one.ip, other.ip) if one.ip < other.ip else (other.ip, one.ip)
        if pair not in self._delays:
            self._delays[pair] = self._random.uniform(MIN_DELAY, MAX_DELAY)
        return self._delays[pair]

    # ---- what the event loop calls ----

    def listen(self, factory: Factory, host: str, port: int) -> Listener:
        """Listen at a place of this host's."""
        place = (HERE.get().ip, port)
        if place in self.listeners:
            raise OSError(98, "Address already in use")
        listener = self.listeners[place] = Listener(self, place, factory)
        return listener

    async def connect(self, factory: Factory, host: str, port: int) -> tuple[Transport, asyncio.BaseProtocol]:
        """Connect from this host."""
        here, there = HERE.get(), self.hosts.get(host)
        if there is None:
            raise OSError(113, "No route to host")
        await asyncio.sleep(2 * self.delay(here, there))
        await here.heard.wait()
        await there.heard.wait()
        listener = self.listeners.get((host, port))
        if not there.up or not here.up or listener is None:
            raise ConnectionRefusedError(111, "Connection refused")
        self._ports += 1
        self.tell(f"connect {here.name} {there.name}")
        mine = Transport(self, here, there, (here.ip, self._ports), (host, port), copy_context())
        theirs = Transport(self, there, here, (host, port), (here.ip, self._ports), listener.context)
        mine.peer, theirs.peer = theirs, mine
        theirs.begin(listener.context.run(listener.factory))
        protocol = factory()
        mine.begin(protocol)
        return mine, protocol

    # ---- what goes wrong ----

    def crash(self, host: Host) -> None:
        """Break all connections of ``host``; nobody can connect until :meth:`restore`."""
        host.up = False
        self.tell(f"crash {host.name}")
        for transport in list(host.transports):
            transport.reset()

    def silence(self, host: Host) -> None:
        """From now on nothing is heard of ``host``, until :meth:`restore`."""
        host.heard.clear()
        self.tell(f"silence {host.name}")

    def restore(self, host: Host) -> None:
        """Let ``host`` be well again."""
        host.up = True
        host.heard.set()
        self.tell(f"restore {host.name}")
        for transport in list(host.transports):
            transport.carry_on()


class Transport(asyncio.Transport):
    """One end of a connection."""

    peer: Transport

    def __init__(
        self, network: Network, here: Host, there: Host, sockname: Place, peername: Place, context: Context
    ) -> None:
        super().__init__({"sockname": sockname, "peername": peername})
        self._network, self._here, self._there = network, here, there
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._delay = network.delay(here, there)
        self._wire: deque[tuple[float, bytes | None]] = deque()
        """What is on its way to the other side, and when it arrives; None: the end."""
        self._waiting_size = 0
        self._free_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._inbox: deque[bytes | None] = deque()
        self._reading = True
        self._high = HIGH_WATER
        self._paused = self._closing = self._lost = self._said_all = False
        here.transports.append(self)

    def begin(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the connection to ``protocol``."""
        self._protocol: Any = protocol
        self._context.run(protocol.connection_made, self)

    # ---- asyncio.Transport ----

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._said_all or not len(data):
            return
        self._send(bytes(data))
        self._waiting_size += len(data)
        if self._waiting_size > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _send(self, data: bytes | None) -> None:
        now = self._loop.time()
        self._free_at = max(now, self._free_at) + (len(data) if data else 40) / RATE
        self._wire.append((self._free_at + self._delay, data))
        self._deliver_later()
        if not self._heard:
            self._loop.call_later(TCP_SECONDS, self._give_up, data, context=self._context)

    def _deliver_later(self) -> None:
        if self._timer is None and self._wire and self._heard:
            self._timer = self._loop.call_at(self._wire[0][0], self._deliver, context=self._context)

    def _deliver(self) -> None:
        self._timer = None
        if not self._heard or not self._wire:
            return
        _, data = self._wire.popleft()
        self._network.tell(f"{self._here.name} {self._there.name} {-1 if data is None else len(data)}")
        self.peer._context.run(self.peer._arrived, data)
        self._waiting_size -= len(data or b"")
        if self._paused and self._waiting_size <= self._high // 4 and not self._lost:
            self._paused = False
            self._protocol.resume_writing()
        if self._closing and not self._wire:
            self._lose(None)
        self._deliver_later()

    def _give_up(self, data: bytes | None) -> None:
        if any(one is data for _, one in self._wire):
            self._break()

    @property
    def _heard(self) -> bool:
        return self._here.heard.is_set() and self._there.heard.is_set()

    def carry_on(self) -> None:
        """A host is heard of again: deliver what waited, both ways."""
        self._deliver_later()
        self.peer._deliver_later()

    def write_eof(self) -> None:
        if not self._said_all and not self._closing:
            self._said_all = True
            self._send(None)

    def close(self) -> None:
        if not self._closing:
            self.write_eof()
            self._closing = True
            self._reading = False
            if not self._wire:
                self._loop.call_soon(self._lose, None, context=self._context)

    def abort(self) -> None:
        self._closing = True
        self._wire.clear()
        self._loop.call_soon(self._lose, None, context=self._context)
        self._loop.call_later(self._delay, self.peer.reset, context=self.peer._context)

    def is_closing(self) -> bool:
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH_WATER if high is None else high

    def get_write_buffer_size(self) -> int:
        return self._waiting_size

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._closing:
            self._reading = True
            self._loop.call_soon(self._read, context=self._context)

    # ---- receiving ----

    def _arrived(self, data: bytes | None) -> None:
        self._inbox.append(data)
        self._read()

    def _read(self) -> None:
        while self._inbox and self._reading and not self._lost:
            data = self._inbox.popleft()
            if data is None:
                if not self._protocol.eof_received():
                    self.close()
            elif isinstance(self._protocol, asyncio.BufferedProtocol):
                self._fill(data)
            else:
                self._protocol.data_received(data)

    def _fill(self, data: bytes) -> None:
        buffer = self._protocol.get_buffer(-1)
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        if size < len(data):
            self._inbox.appendleft(data[size:])
        self._protocol.buffer_updated(size)

    # ---- the end ----

    def reset(self) -> None:
        """The connection breaks, on both sides."""
        self._break()
        self.peer._break()

    def _break(self) -> None:
        if not self._lost:
            self._closing = True
            self._wire.clear()
            error = ConnectionResetError(104, "Connection reset by peer")
            self._loop.call_soon(self._lose, error, context=self._context)

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._here.transports.remove(self)
        self._protocol.connection_lost(error)
