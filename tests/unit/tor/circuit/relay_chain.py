"""Relays in memory, for tests of circuits: a chain of hops that answers handshakes and relays by the run.

Nothing here is a shortcut of the protocol: every cell is encrypted, relayed and recognized as on a network.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pelure.tor.cell.commands import CellCommand, RelayCommand
from pelure.tor.cell.extensions import (
    cc_response,
    decode_extensions,
    encode_extensions,
    wants_congestion_control,
)
from pelure.tor.cell.framing import Cell, Run, encode
from pelure.tor.cell.messages import Create2, Created2, CreatedFast, Destroy
from pelure.tor.cell.relay_messages import Extend2, Extended2
from pelure.tor.circuit.events import Event, RelayMessageReceived
from pelure.tor.circuit.flowcontrol import CircuitWindow, FixedWindow, VegasWindow
from pelure.tor.circuit.hop_end import HopEnd
from pelure.tor.circuit.origin import OriginCircuit
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.circuit.relaycrypto import HopKeys, RelayCrypto
from pelure.tor.crypto import create_fast, ntor, ntor_v3
from pelure.tor.crypto.keys import x25519_generate
from pelure.tor.directory.protocols import Protocols
from pelure.tor.directory.relay import Relay

CIRC_ID = 0x80000001
NEW = Protocols.parse("FlowCtrl=1-2 Relay=2-4")
OLD = Protocols.parse("Relay=2")


def seeded_rng(seed: int) -> Callable[[int], bytes]:
    """Random bytes that are the same in every run."""
    state = hashlib.shake_256(seed.to_bytes(8))
    counter = 0

    def rng(count: int) -> bytes:
        nonlocal counter
        counter += 1
        draw = state.copy()
        draw.update(counter.to_bytes(8))
        return draw.digest(count)

    return rng


@dataclass
class ChainRelay:
    """One relay of the chain and its state on the one circuit there is."""

    relay: Relay
    secret: bytes
    crypto: RelayCrypto | None = None
    end: HopEnd | None = None
    kh: bytes = b""
    out: list[np.ndarray] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


class RelayChain:
    """``count`` relays; feed it what the origin sends, and give the origin what comes back."""

    def __init__(self, count: int, params: CircuitParams, *, old: bool = False, seed: int = 7) -> None:
        self.params = params
        self.rng = seeded_rng(seed)
        self.now = 0.0
        self.relays = [self._make(i, OLD if old else NEW) for i in range(count)]
        self.commands: list[int] = []
        """Cell commands as the first relay saw them."""
        self.beyond: Callable[[np.ndarray], None] | None = None
        """Takes the cells that the last relay does not recognize: a joined rendezvous."""

    def _make(self, index: int, protocols: Protocols) -> ChainRelay:
        secret, public = x25519_generate(self.rng)
        name = f"relay{index}"
        relay = Relay(
            name, self.rng(20), self.rng(32), public, (("127.0.0.1", 9000 + index),), protocols=protocols
        )
        return ChainRelay(relay, secret)

    def path(self) -> list[Relay]:
        return [relay.relay for relay in self.relays]

    def deliver(self, items: list[Cell | Run]) -> list[Cell | Run]:
        """What the origin sent arrives at the first relay; returns what comes back from it."""
        back: list[Cell | Run] = []
        for item in items:
            if isinstance(item, Cell) and item.command not in (CellCommand.RELAY, CellCommand.RELAY_EARLY):
                back += self._cell(item)
            else:
                cells = cells_of(item)
                self.commands += cells[:, 4].tolist()
                self._forward(0, cells)
        return back + self.collect()

    def collect(self) -> list[Cell | Run]:
        """What the relays have to say of themselves, after it passed the relays before them."""
        back: list[Cell | Run] = []
        for index, relay in enumerate(self.relays):
            for cells in relay.out:
                for before in reversed(self.relays[:index]):
                    assert before.crypto is not None
                    before.crypto.backward(cells)
                back.append(Run(CIRC_ID, cells))
            relay.out.clear()
        return back

    def _cell(self, cell: Cell) -> list[Cell | Run]:
        if cell.command == CellCommand.CREATE2:
            create = Create2.decode(cell.body)
            reply = self._handshake(0, create.handshake_type, create.handshake)
            return [Created2(reply).cell(CIRC_ID)]
        if cell.command == CellCommand.CREATE_FAST:
            y = self.rng(20)
            kh, material = create_fast.server(cell.body[:20], y, 72)
            self._open(0, material, None)
            return [CreatedFast(y, kh).cell(CIRC_ID)]
        assert Destroy.decode(cell.body) is not None
        return []

    def _handshake(self, index: int, kind: int, handshake: bytes) -> bytes:
        relay = self.relays[index]
        keys = {relay.relay.ntor_key: relay.secret}
        if kind == ntor.HANDSHAKE_TYPE:
            reply, material = ntor.server(handshake, relay.relay.rsa_id, keys, self.rng)
            self._open(index, material, None)
            return reply
        increment: int | None = None

        def respond(message: bytes) -> bytes:
            nonlocal increment
            if not wants_congestion_control(decode_extensions(message)):
                return encode_extensions([])
            increment = self.params.sendme_inc
            return encode_extensions([cc_response(increment)])

        reply, material = ntor_v3.server(handshake, relay.relay.ed_id, keys, respond, self.rng)
        self._open(index, material, increment)
        return reply

    def _open(self, index: int, material: bytes, increment: int | None) -> None:
        relay = self.relays[index]
        relay.kh = material[72:92]
        crypto = relay.crypto = RelayCrypto(HopKeys.tor1(material))
        window: CircuitWindow = FixedWindow(self.params)
        if increment is not None:
            window = VegasWindow(self.params, onion=False, increment=increment)

        def emit(bodies: np.ndarray | bytearray) -> list[bytes]:
            if isinstance(bodies, bytearray):
                bodies = np.frombuffer(bodies, np.uint8).reshape(1, -1)
            tags = crypto.originate(bodies)
            cells = np.empty((len(bodies), 514), np.uint8)
            cells[:, :5] = np.frombuffer(CIRC_ID.to_bytes(4) + b"\3", np.uint8)
            cells[:, 5:] = bodies
            relay.out.append(cells)
            return tags

        relay.end = HopEnd(index, window, emit, self.rng, initiator=False, xoff_limit=249000)

    def backward(self, cells: np.ndarray) -> Run:
        """Cells from beyond the last relay, as they come to the origin."""
        for relay in reversed(self.relays):
            assert relay.crypto is not None
            relay.crypto.backward(cells)
        return Run(CIRC_ID, cells)

    def _forward(self, index: int, cells: np.ndarray) -> None:
        if index == len(self.relays) and self.beyond is not None:
            self.beyond(cells)
            return
        relay = self.relays[index]
        assert relay.crypto is not None and relay.end is not None
        found = relay.crypto.forward(cells)
        if found is None:
            self._forward(index + 1, cells)
            return
        rest = np.delete(cells, found.rows, axis=0)
        for event in relay.end.receive(found.bodies, found.tags, self.now):
            if isinstance(event, RelayMessageReceived) and event.command == RelayCommand.EXTEND2:
                extend = Extend2.decode(event.data)
                reply = self._handshake(index + 1, extend.handshake_type, extend.handshake)
                relay.end.send(RelayCommand.EXTENDED2, 0, Extended2(reply).encode())
            else:
                relay.events.append(event)
        if len(rest):
            self._forward(index + 1, rest)


def cells_of(item: Cell | Run) -> np.ndarray:
    """A run's cells, or a lone cell as a run of one."""
    if isinstance(item, Run):
        return item.cells
    return np.frombuffer(bytearray(encode(item)), np.uint8).reshape(1, -1)


def exchange(origin: OriginCircuit, chain: RelayChain, *, room: int = 10_000) -> list[Event]:
    """Carry cells to and fro until both sides are silent; returns the origin's events."""
    events: list[Event] = []
    while True:
        chain.now += 0.001
        origin.pump(chain.now, room)
        for relay in chain.relays:
            if relay.end is not None:
                relay.end.pump(chain.now, room)
        outward = origin.take_output()
        back = chain.deliver(outward)
        if not outward and not back:
            return events
        for item in back:
            events += origin.receive(item, chain.now)


def built(
    count: int, params: CircuitParams | None = None, *, cc: bool = False, old: bool = False
) -> tuple[OriginCircuit, RelayChain]:
    """A circuit of ``count`` hops, built by the protocol; ``cc``: the last hop has congestion control."""
    params = params or CircuitParams()
    chain = RelayChain(count, params, old=old)
    origin = OriginCircuit(CIRC_ID, os.urandom, params)
    path = chain.path()
    for index, relay in enumerate(path):
        make = origin.extend if index else origin.create
        make(relay, congestion_control=cc and index == count - 1)
        exchange(origin, chain)
        assert len(origin.hops) == index + 1
    return origin, chain
