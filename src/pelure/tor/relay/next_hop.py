"""The part of a relay's circuit that leads to the next relay (tor-spec 5.3, 5.4, 5.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pelure.errors import ProtocolError
from pelure.tor.cell.commands import CellCommand, DestroyReason
from pelure.tor.cell.framing import Cell, Run
from pelure.tor.cell.messages import Created2
from pelure.tor.net.link import Link

if TYPE_CHECKING:
    from pelure.tor.relay.circuit import RelayCircuit

LONE = frozenset({CellCommand.RELAY, CellCommand.RELAY_EARLY})
"""Commands of the cells that come alone, and not in runs."""


class NextHop:
    """The circuit's id on the link to the next relay, and what comes from there."""

    __slots__ = ("circ_id", "circuit", "created", "link")

    def __init__(self, circuit: RelayCircuit, link: Link) -> None:
        """Take an id on ``link``. Raises ``LinkError``."""
        self.circuit = circuit
        self.link = link
        self.created = False
        self.circ_id = link.attach(self)

    def handle(self, item: Cell | Run) -> None:
        """Cells towards the origin (a link's ``CircuitHandler``)."""
        if self.circuit.closed:
            return
        if isinstance(item, Run) or item.command in LONE:
            if not self.created:
                raise ProtocolError("a relay cell came before the circuit was created")
            if item.has_early:
                raise ProtocolError("a RELAY_EARLY cell came towards the circuit's origin")
            self.circuit.backward(item)
        elif item.command == CellCommand.DESTROY:
            self.link.detach(self.circ_id)
            self.circuit.next_lost()
        elif item.command == CellCommand.CREATED2 and not self.created:
            self.created = True
            self.circuit.extended(Created2.decode(item.body).handshake)
        else:
            raise ProtocolError(f"a cell of command {item.command} came out of turn on a circuit")

    def send(self, item: Cell | Run) -> None:
        """Pass cells on to the next relay."""
        if isinstance(item, Run):
            item.set_circ_id(self.circ_id)
            self.circuit.host.relayed_cells += len(item)
        else:
            item = Cell(self.circ_id, item.command, item.body)
            self.circuit.host.relayed_cells += 1
        self.link.send(item)

    def link_closed(self, reason: str) -> None:
        """The link is gone, or this side of the circuit broke the protocol."""
        self.circuit.next = None
        self.circuit.close(DestroyReason.CHANNEL_CLOSED)

    def writable(self) -> None:
        """Nothing of this relay's own goes this way."""

    def destroy(self, reason: int) -> None:
        """Tell the next relay that the circuit is over."""
        self.link.destroy(self.circ_id, reason)
