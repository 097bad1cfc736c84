"""Answering CREATE2 and CREATE_FAST: the relay's side of circuit handshakes (tor-spec 5.1)."""

from __future__ import annotations

import logging
from typing import Protocol

from pelure.errors import ProtocolError
from pelure.tor.cell.commands import CellCommand, DestroyReason
from pelure.tor.cell.extensions import (
    CircuitExtension,
    Extension,
    cc_response,
    decode_extensions,
    encode_extensions,
    find_extension,
    wants_congestion_control,
)
from pelure.tor.cell.framing import Cell, Run
from pelure.tor.cell.messages import Create2, Created2, CreatedFast, CreateFast, Destroy
from pelure.tor.circuit.handshakes import HopSecrets
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.circuit.relaycrypto import HopKeys
from pelure.tor.crypto import create_fast, ntor, ntor_v3
from pelure.tor.crypto.keys import Rng
from pelure.tor.net.link import Link
from pelure.tor.relay.keys import RelayKeys
from pelure.tor.relay.onionskins import OnionskinQueue

log = logging.getLogger(__name__)

KH = slice(72, 92)


class Circuits(Protocol):
    """Who has the relay's circuits and keys."""

    keys: RelayKeys
    params: CircuitParams
    rng: Rng

    def has_room(self, link: Link) -> bool:
        """False if no more circuits are to be taken (on this link)."""

    def add(self, link: Link, circ_id: int, secrets: HopSecrets) -> None:
        """A handshake is done: the circuit exists."""


class _Pending:
    """Holds a circuit id while its handshake waits for its turn (a link's ``CircuitHandler``)."""

    __slots__ = ("circ_id", "given_up", "link")

    def __init__(self, link: Link, circ_id: int) -> None:
        self.link = link
        self.circ_id = circ_id
        self.given_up = False
        link.adopt(circ_id, self)

    def handle(self, item: Cell | Run) -> None:
        """Only DESTROY makes sense before CREATED2."""
        if isinstance(item, Run) or item.command != CellCommand.DESTROY:
            self.given_up = True
            raise ProtocolError("a cell came on a circuit that is not created yet")
        Destroy.decode(item.body)
        self.given_up = True
        self.link.detach(self.circ_id)

    def link_closed(self, reason: str) -> None:
        """The link is gone."""
        self.given_up = True

    def writable(self) -> None:
        """Nothing is sent yet."""


class CircuitCreator:
    """Takes CREATE2 and CREATE_FAST cells from links."""

    def __init__(self, circuits: Circuits) -> None:
        self._circuits = circuits
        self.queue = OnionskinQueue()

    def create_requested(self, link: Link, cell: Cell) -> None:
        """Answer soon, or refuse with DESTROY; nothing that a peer sends raises."""
        if not self._circuits.has_room(link):
            link.destroy(cell.circ_id, DestroyReason.RESOURCELIMIT)
            return
        try:
            if cell.command == CellCommand.CREATE2:
                self._queue(link, cell.circ_id, Create2.decode(cell.body))
            elif cell.command == CellCommand.CREATE_FAST:
                self._answer_fast(link, cell.circ_id, CreateFast.decode(cell.body))
            else:
                raise ProtocolError("CREATE with the TAP handshake, which is not supported")
        except ProtocolError as error:
            log.info("a circuit from %s was refused: %s", link.address[0], error)
            link.destroy(cell.circ_id, DestroyReason.PROTOCOL)

    def _queue(self, link: Link, circ_id: int, message: Create2) -> None:
        pending = _Pending(link, circ_id)
        if not self.queue.submit(link, lambda: self._answer(pending, message)):
            link.destroy(circ_id, DestroyReason.RESOURCELIMIT)

    def _answer(self, pending: _Pending, message: Create2) -> None:
        if pending.given_up:
            return
        link, circ_id = pending.link, pending.circ_id
        try:
            reply, secrets = self._handshake(message)
        except ProtocolError as error:
            log.info("a circuit from %s was refused: %s", link.address[0], error)
            link.destroy(circ_id, DestroyReason.PROTOCOL)
            return
        self._circuits.add(link, circ_id, secrets)
        link.send(Created2(reply).cell(circ_id))

    def _handshake(self, message: Create2) -> tuple[bytes, HopSecrets]:
        keys, rng = self._circuits.keys, self._circuits.rng
        increment: int | None = None
        if message.handshake_type == ntor_v3.HANDSHAKE_TYPE:
            wishes: list[Extension] = []

            def respond(request: bytes) -> bytes:
                nonlocal increment
                wishes.extend(decode_extensions(request))
                increment = self._agreed_increment(wishes)
                return encode_extensions([] if increment is None else [cc_response(increment)])

            reply, material = ntor_v3.server(
                message.handshake, keys.identity.public, keys.accepted_onion_keys, respond, rng
            )
        elif message.handshake_type == ntor.HANDSHAKE_TYPE:
            identity = keys.rsa.public.identity
            reply, material = ntor.server(message.handshake, identity, keys.accepted_onion_keys, rng)
        else:
            raise ProtocolError(f"handshake type {message.handshake_type} is not supported")
        return reply, HopSecrets(HopKeys.tor1(material), material[KH], increment)

    def _agreed_increment(self, wishes: list[Extension]) -> int | None:
        """Cells per SENDME if congestion control was asked for and the network uses it."""
        if find_extension(wishes, CircuitExtension.SUBPROTOCOL_REQUEST) is not None:
            raise ProtocolError("the client asks for subprotocols that this relay does not advertise")
        params = self._circuits.params
        if wants_congestion_control(wishes) and params.congestion_control:
            return params.sendme_inc
        return None

    def _answer_fast(self, link: Link, circ_id: int, message: CreateFast) -> None:
        y = self._circuits.rng(create_fast.KEY_LEN)
        proof, material = create_fast.server(message.x, y, 72)
        self._circuits.add(link, circ_id, HopSecrets(HopKeys.tor1(material), proof))
        link.send(CreatedFast(y, proof).cell(circ_id))
