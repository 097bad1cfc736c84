"""A link to a :class:`RelayChain`, for tests of the asyncio side of circuits without sockets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pelure.errors import LinkError
from pelure.tor.cell.commands import RelayCommand
from pelure.tor.cell.framing import Cell, Run
from pelure.tor.cell.relay_messages import Answer, Resolve, Resolved
from pelure.tor.circuit import events as ev
from pelure.tor.circuit.stream import StreamEndpoint
from pelure.tor.net.lookout import LITERAL
from unit.tor.circuit.relay_chain import CIRC_ID, RelayChain

if TYPE_CHECKING:
    from pelure.tor.directory.relay import Relay
    from pelure.tor.net.circuit_table import CircuitHandler


class ChainLink:
    """What circuits use of a ``Link``; cells cross with the next turn of the event loop.

    The last relay accepts every stream and echoes what comes, unless ``echo`` is off.
    """

    def __init__(self, chain: RelayChain) -> None:
        self.chain = chain
        self.echo = True
        self.closed = False
        self.silent = False
        self.sent: list[Cell | Run] = []
        self.congested = False
        self.waiting = 0
        self.bytes_read = 0
        self.deaf: set[int] = set()
        """Relays (by hop) that do not answer soundings."""
        self._handler: CircuitHandler | None = None
        self._scheduled = False
        self._loop = asyncio.get_running_loop()

    def attach(self, handler: CircuitHandler) -> int:
        if self.closed:
            raise LinkError("closed")
        self._handler = handler
        return CIRC_ID

    def detach(self, circ_id: int) -> None:
        self._handler = None

    def queued(self, circ_id: int) -> int:
        return self.waiting

    def send(self, item: Cell | Run) -> bool:
        self.sent.append(item)
        self._schedule()
        return not self.congested

    def lose(self) -> None:
        """The connection breaks."""
        self.closed = True
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.link_closed("cut")

    def step(self) -> None:
        """Carry what was sent, let the relays answer."""
        self._scheduled = False
        if self.silent:
            return
        sent, self.sent = self.sent, []
        back = self.chain.deliver(sent)
        for hop, relay in enumerate(self.chain.relays):
            if relay.end is not None:
                relay.events = [event for event in relay.events if not self._is_sounding(hop, event)]
                if self.echo:
                    for event in relay.events:
                        self._echo(event)
                    relay.events.clear()
                relay.end.pump(self._loop.time(), 10_000)
        back += self.chain.collect()
        for item in back:
            self.bytes_read += 514
            if self._handler is not None:
                self._handler.handle(item)
        if back:
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.step)

    def close(self, reason: str) -> None:
        """The process closes the link itself."""
        self.lose()

    def _is_sounding(self, hop: int, event: ev.Event) -> bool:
        """Answer a sounding, as any relay does."""
        if not isinstance(event, ev.Incoming) or event.command != RelayCommand.RESOLVE:
            return False
        if Resolve.decode(event.data).name != LITERAL:
            return False
        end = self.chain.relays[hop].end
        if hop not in self.deaf and end is not None:
            answer = Resolved((Answer.address(LITERAL, 60),))
            end.send(RelayCommand.RESOLVED, event.stream.id, answer.encode())
        return True

    def _echo(self, event: ev.Event) -> None:
        if isinstance(event, ev.Incoming) and event.command != RelayCommand.RESOLVE:
            event.stream.accept(b"")
        elif isinstance(event, ev.StreamData):
            self._return(event.stream)

    def _return(self, stream: StreamEndpoint) -> None:
        while data := stream.read(1 << 16):
            stream.write(data)


class ChainLinks:
    """What ``Circuit.build`` uses of a ``LinkManager``: one link, to the chain."""

    def __init__(self, link: ChainLink) -> None:
        self.link = link

    async def get(self, relay: Relay) -> ChainLink:
        return self.link
