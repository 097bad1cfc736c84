"""A network without cells: circuits that carry rendezvous messages and directory requests in memory.

It plays every relay: HSDirs that keep descriptors, introduction points, rendezvous points. Service and client
under test run unchanged on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import SimpleNamespace

from pelure.errors import CircuitError, PathError, PelureError, ProtocolError
from pelure.streams import MemoryStream, memory_pipe
from pelure.tor.cell.commands import RelayCommand
from pelure.tor.cell.extensions import DosParameters
from pelure.tor.cell.onion_messages import (
    EstablishIntro,
    EstablishRendezvous,
    Introduce1,
    IntroduceAck,
    IntroduceStatus,
    Rendezvous1,
)
from pelure.tor.circuit.events import RelayMessageReceived
from pelure.tor.circuit.relaycrypto import HopKeys
from pelure.tor.directory.protocols import Protocols
from pelure.tor.directory.relay import Relay
from pelure.tor.relay.hsdir import DescriptorStore

PROTOCOLS = Protocols.parse("HSDir=2 HSIntro=4-5 HSRend=2 FlowCtrl=1-2 Relay=2-4")
VALID_AFTER = 1_800_000_000.0
NOW = VALID_AFTER + 5


def make_relay(number: int) -> Relay:
    rsa_id, ed_id, ntor_key = (bytes([kind, number]) * size for kind, size in ((1, 10), (2, 16), (9, 16)))
    return Relay(
        f"relay{number}",
        rsa_id,
        ed_id,
        ntor_key,
        ((f"10.0.{number}.1", 9001),),
        flags=frozenset({"HSDir"}),
        protocols=PROTOCOLS,
    )


@dataclass(eq=False)
class FakeNetDir:
    """What services and clients read of a ``NetDir``."""

    relays: list[Relay]
    valid_after: float = VALID_AFTER
    params: dict[str, int] = field(default_factory=dict)
    shared_rand_current: bytes | None = b"c" * 32
    shared_rand_previous: bytes | None = b"p" * 32

    def __post_init__(self) -> None:
        self.network = SimpleNamespace(testing=True)
        self.by_rsa = {relay.rsa_id: relay for relay in self.relays}

    @property
    def hsdirs(self) -> list[Relay]:
        return self.relays

    @property
    def fresh_until(self) -> float:
        return self.valid_after + 10


class FakeCircuit:
    """One circuit; messages to its end are answered at once by the network."""

    numbers = 0

    def __init__(self, network: FakeNetwork, path: list[Relay], purpose: str) -> None:
        FakeCircuit.numbers += 1
        self.id = FakeCircuit.numbers
        self.network = network
        self.path = path
        self.purpose = purpose
        self.closed = asyncio.Event()
        self.error: CircuitError | None = None
        self.on_message: Callable[[RelayMessageReceived], None] | None = None
        self.on_incoming: object = None
        self.streams: list[object] = []
        self.cells_read = self.cells_written = 0
        self.hs_keys: HopKeys | None = None
        self.sendme_inc: int | None = None
        self._inbox: list[RelayMessageReceived] = []
        self._arrived = asyncio.Event()

    @property
    def end(self) -> Relay:
        return self.path[-1]

    def kh(self, hop: int = -1) -> bytes:
        return b"k" * 20

    def send(self, command: int, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.network.receive(self, command, data)

    def deliver(self, command: int, data: bytes = b"") -> None:
        message = RelayMessageReceived(len(self.path) - 1, command, 0, data)
        if self.on_message is not None and command == RelayCommand.INTRODUCE2:
            self.on_message(message)
        else:
            self._inbox.append(message)
            self._arrived.set()

    def reserve(self, command: int) -> None:
        """Everything is kept here."""

    async def expect(self, *commands: int, timeout: float) -> RelayMessageReceived:
        while True:
            for message in self._inbox:
                if message.command in commands:
                    self._inbox.remove(message)
                    return message
            if self.error is not None:
                raise self.error
            self._arrived.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._arrived.wait()
            except TimeoutError:
                raise CircuitError("no answer came") from None

    def add_hs_hop(self, keys: HopKeys, *, service: bool, sendme_inc: int | None) -> None:
        self.hs_keys = keys
        self.sendme_inc = sendme_inc

    def open_dir(self) -> MemoryStream:
        ours, theirs = memory_pipe()
        self.network.keep(asyncio.create_task(self.network.serve_directory(self.end, theirs)))
        return ours

    def close(self, reason: str = "the circuit was closed") -> None:
        if not self.closed.is_set():
            self.error = CircuitError(reason)
            self.closed.set()
            self._arrived.set()
            self.network.circuits.discard(self)


class FakeNetwork:
    """The relays' side, a ``CircuitSource`` and a ``NetDirSource`` in one; ``dead`` relays don't answer."""

    def __init__(self, relays: int = 12) -> None:
        self.relays = [make_relay(number) for number in range(1, relays + 1)]
        self.netdir: FakeNetDir | None = FakeNetDir(self.relays)
        self.on_change: list[Callable[[FakeNetDir], None]] = []
        self.dead: set[Relay] = set()
        self.circuits: set[FakeCircuit] = set()
        self.stores = {relay: DescriptorStore() for relay in self.relays}
        self.intro: dict[tuple[Relay, bytes], FakeCircuit] = {}
        self.waiting: dict[tuple[Relay, bytes], FakeCircuit] = {}
        self.introductions: list[bytes] = []
        self.limits: list[DosParameters] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = 0

    def keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def change(self, netdir: FakeNetDir) -> None:
        """A new consensus arrives."""
        self.netdir = netdir
        for callback in list(self.on_change):
            callback(netdir)

    def kill(self, relay: Relay) -> None:
        """A relay dies with all circuits through it."""
        self.dead.add(relay)
        for circuit in [one for one in self.circuits if relay in one.path]:
            circuit.close("a relay died")

    async def internal_circuit(
        self, last: Relay | None, *, length: int, purpose: str, exclude: Collection[Relay] = ()
    ) -> FakeCircuit:
        await asyncio.sleep(0)
        if last is None:
            usable = [relay for relay in self.relays if relay not in exclude and relay not in self.dead]
            if not usable:
                raise PathError("no relay is left")
            self._turn += 1
            last = usable[self._turn % len(usable)]
        if last in self.dead:
            raise CircuitError("the relay is dead")
        known = next((relay for relay in self.relays if relay == last), last)
        circuit = FakeCircuit(self, [known], purpose)
        self.circuits.add(circuit)
        return circuit

    def receive(self, circuit: FakeCircuit, command: int, data: bytes) -> None:
        """A message came to the end of ``circuit``."""
        where = circuit.end
        if command == RelayCommand.ESTABLISH_INTRO:
            request = EstablishIntro.decode(data)
            request.verify(circuit.kh())
            self.intro[where, request.auth_key] = circuit
            self.limits += [DosParameters.decode(one.body) for one in request.extensions]
            circuit.deliver(RelayCommand.INTRO_ESTABLISHED)
        elif command == RelayCommand.ESTABLISH_RENDEZVOUS:
            self.waiting[where, EstablishRendezvous.decode(data).cookie] = circuit
            circuit.deliver(RelayCommand.RENDEZVOUS_ESTABLISHED)
        elif command == RelayCommand.INTRODUCE1:
            self._introduce(circuit, data)
        elif command == RelayCommand.RENDEZVOUS1:
            answer = Rendezvous1.decode(data)
            client = self.waiting.pop((where, answer.cookie), None)
            if client is None or client.closed.is_set():
                circuit.close("nobody waits here")
            else:
                client.deliver(RelayCommand.RENDEZVOUS2, answer.handshake_info)
        else:
            raise ProtocolError(f"unexpected message {command}")

    def _introduce(self, circuit: FakeCircuit, data: bytes) -> None:
        service = self.intro.get((circuit.end, Introduce1.decode(data).auth_key))
        if service is None or service.closed.is_set():
            status = IntroduceStatus.UNKNOWN_ID
        else:
            status = IntroduceStatus.SUCCESS
            self.introductions.append(data)
            service.deliver(RelayCommand.INTRODUCE2, data)
        circuit.deliver(RelayCommand.INTRODUCE_ACK, IntroduceAck(status).encode())

    async def serve_directory(self, relay: Relay, stream: MemoryStream) -> None:
        """Answer one directory request."""
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.read()
        head, _, body = request.partition(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
        status, answer = 200, b""
        if method == "POST":
            length = next(
                int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")
            )
            while len(body) < length:
                body += await stream.read()
            try:
                self.stores[relay].store(body, NOW)
            except PelureError:
                status = 400
        else:
            found = self.stores[relay].fetch(path.removeprefix("/tor/hs/3/"), NOW)
            status, answer = (404, b"") if found is None else (200, found)
        await stream.write(b"HTTP/1.0 %d x\r\nContent-Length: %d\r\n\r\n" % (status, len(answer)) + answer)
        await stream.write_eof()
