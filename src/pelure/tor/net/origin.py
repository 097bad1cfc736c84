"""Circuits of this process over links, for asyncio: the I/O around ``pelure.tor.circuit.origin``.

Cells are handled when the link brings them, in one call for a run and with no task of their own; a reader
or writer of a stream is woken once a run. Sending goes as far as the windows and the link's queue allow and
is taken up again when a SENDME comes or the link has drained. Round trips are timed with ``monotonic``: the
event loop's own clock (uvloop's) counts whole milliseconds.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from time import monotonic

from pelure.errors import CircuitError, ProtocolError, StreamError
from pelure.tor.cell.commands import DestroyReason, EndReason
from pelure.tor.cell.framing import Cell, Run
from pelure.tor.cell.relay_messages import Answer, Resolved
from pelure.tor.circuit import events as ev
from pelure.tor.circuit.origin import OriginCircuit
from pelure.tor.circuit.params import CircuitParams
from pelure.tor.circuit.relaycrypto import HopKeys
from pelure.tor.circuit.stream import StreamEndpoint
from pelure.tor.directory.relay import Relay
from pelure.tor.net.circuit_stream import CircuitStream
from pelure.tor.net.link import Link
from pelure.tor.net.links import LinkManager
from pelure.tor.net.lookout import BROKEN_LINK, Fleet, Lookout, fleet_of
from pelure.tor.net.mailbox import Mailbox

log = logging.getLogger(__name__)

BUILD_SECONDS = 60.0
STREAM_SECONDS = 60.0
LINK_QUEUE = 512
"""Cells of one circuit that may wait in front of its link."""

_numbers = itertools.count(1)
IncomingHandler = Callable[[CircuitStream, ev.Incoming], None]
MessageHandler = Callable[[ev.RelayMessageReceived], None]


class Circuit:
    """One circuit. ``path`` is its relays; the virtual hop of a joined rendezvous comes after them."""

    def __init__(self, link: Link, params: CircuitParams, fleet: Fleet) -> None:
        """Begin a circuit on ``link``; :meth:`build` is what callers want. Raises ``LinkError``."""
        self.id = next(_numbers)
        self.link = link
        self.core = OriginCircuit(link.attach(self), os.urandom, params)
        self.closed = asyncio.Event()
        self.error: CircuitError | None = None
        """Why it was closed, once it is."""
        self.on_incoming: IncomingHandler | None = None
        """Called for each stream that the other side opens (services); it accepts or refuses it."""
        self.on_message: MessageHandler | None = None
        """Called for each message that no :meth:`expect` waits for (INTRODUCE2 at a service)."""
        self.on_closed: Callable[[Circuit], None] | None = None
        self.created_at = asyncio.get_running_loop().time()
        self.build_seconds = 0.0
        """How long :meth:`build` took, without making the link."""
        self.cells_read = 0
        self.cells_written = 0
        self._loop = asyncio.get_running_loop()
        self._streams: dict[StreamEndpoint, CircuitStream] = {}
        self._congested = False
        self._pump_pending = False
        self._hop_added: asyncio.Future[int] | None = None
        self._mailbox = Mailbox()
        self._target: Relay | None = None
        self._fleet = fleet
        self.lookout = Lookout(self)
        fleet.add(self)

    def __repr__(self) -> str:
        return f"<circuit {self.id}>"

    # ---- building ----

    @classmethod
    async def build(
        cls,
        links: LinkManager,
        path: Sequence[Relay],
        *,
        params: CircuitParams,
        timeout: float = BUILD_SECONDS,
        congestion_control: bool = True,
        fast: bool = False,
    ) -> Circuit:
        """Build a circuit through ``path`` (nearest relay first).

        ``congestion_control``: negotiate it with the last hop where the consensus and that relay support it.
        ``fast``: make the first hop by CREATE_FAST (one-hop directory circuits to relays whose onion key is
        unknown). Raises ``CircuitError``, ``LinkError``; within ``timeout`` seconds.
        """
        circuit: Circuit | None = None
        try:
            async with asyncio.timeout(timeout):
                circuit = cls(await links.get(path[0]), params, fleet_of(links))
                for index, relay in enumerate(path):
                    wanted = congestion_control and index == len(path) - 1
                    await circuit._add_hop(relay, wanted, fast and index == 0)
        except TimeoutError:
            if circuit is not None:
                circuit.close()
            raise CircuitError(f"no circuit could be built within {timeout:g} seconds") from None
        except BaseException:
            if circuit is not None:
                circuit.close()
            raise
        circuit.build_seconds = circuit._loop.time() - circuit.created_at
        return circuit

    async def extend(
        self, relay: Relay, *, timeout: float = BUILD_SECONDS, congestion_control: bool = True
    ) -> None:
        """Make the circuit one hop longer; a failure closes it. Raises ``CircuitError``."""
        try:
            async with asyncio.timeout(timeout):
                await self._add_hop(relay, congestion_control, False)
        except TimeoutError:
            self.close()
            raise CircuitError(f"the circuit was not extended within {timeout:g} seconds") from None

    async def _add_hop(self, relay: Relay, congestion_control: bool, fast: bool) -> None:
        self._check_open()
        if self.core.hops:
            self.core.extend(relay, congestion_control=congestion_control)
        else:
            self.core.create(relay, fast=fast, congestion_control=congestion_control)
        added = self._hop_added = self._loop.create_future()
        self._target = relay
        self.flush()
        self.lookout.expect()
        await added
        self._target = None

    def add_hs_hop(self, keys: HopKeys, *, service: bool, sendme_inc: int | None) -> None:
        """Add the virtual hop of a joined rendezvous; see ``OriginCircuit.add_hs_hop``."""
        self._check_open()
        self.core.add_hs_hop(keys, service=service, sendme_inc=sendme_inc)

    @property
    def path(self) -> list[Relay]:
        """The relays, nearest first."""
        return [hop.relay for hop in self.core.hops if hop.relay is not None]

    @property
    def streams(self) -> list[CircuitStream]:
        """The streams that are open."""
        return list(self._streams.values())

    def kh(self, hop: int = -1) -> bytes:
        """The 20 bytes of ``hop``'s handshake that ESTABLISH_INTRO is bound to."""
        return self.core.hops[hop].kh

    # ---- streams ----

    def open(self, host: str, port: int, *, flags: int = 0) -> CircuitStream:
        """Open a stream without waiting: data may be written and goes along (optimistic data).

        ``host`` is empty for an onion service. ``connected()`` and ``read()`` of the stream tell a refusal.
        """
        self._check_open()
        return self._opened(self.core.open_stream(host, port, flags=flags), f"{host}:{port}")

    async def begin(
        self, host: str, port: int, *, flags: int = 0, timeout: float = STREAM_SECONDS
    ) -> CircuitStream:
        """Open a stream and wait until it is accepted. Raises ``StreamError``, ``CircuitError``."""
        stream = self.open(host, port, flags=flags)
        try:
            await stream.connected(timeout)
        except TimeoutError:
            stream.close_soon()
            raise StreamError(
                "the other end of the circuit did not answer in time", EndReason.TIMEOUT
            ) from None
        except asyncio.CancelledError:
            stream.close_soon()
            raise
        return stream

    def open_dir(self) -> CircuitStream:
        """Open a stream to the directory cache that the last hop is, without waiting: as :meth:`open`."""
        self._check_open()
        return self._opened(self.core.begin_dir(), "directory")

    async def resolve(self, name: str, *, timeout: float = STREAM_SECONDS) -> tuple[Answer, ...]:
        """Let the exit look up ``name``. Raises ``StreamError``, ``CircuitError``, ``ProtocolError``."""
        self._check_open()
        stream = self._opened(self.core.resolve(name), name)
        try:
            data = await stream.connected(timeout)
        except TimeoutError:
            stream.close_soon()
            raise StreamError("the exit did not answer a RESOLVE in time", EndReason.TIMEOUT) from None
        except asyncio.CancelledError:
            stream.close_soon()
            raise
        return Resolved.decode(data).answers

    def _opened(self, endpoint: StreamEndpoint, target: str) -> CircuitStream:
        stream = self._streams[endpoint] = CircuitStream(self, endpoint, accepted=False)
        stream.target = target
        stream.expect_connected()
        self.pump_soon()  # what is written at once leaves together with BEGIN
        self.lookout.expect()
        return stream

    # ---- messages ----

    def send(self, command: int, data: bytes, *, hop: int = -1) -> None:
        """Send one message to ``hop``. Raises ``CircuitError``."""
        self._check_open()
        self.core.send_message(hop, command, data)
        self.flush()

    def reserve(self, command: int) -> None:
        """One message of ``command`` may come before :meth:`expect` is called for it.

        Anything else that nobody waits for closes the circuit.
        """
        self._mailbox.reserve(command)

    async def expect(self, *commands: int, timeout: float) -> ev.RelayMessageReceived:
        """Wait for the next message of one of ``commands``, or take it if it came already.

        Raises ``CircuitError``, also after ``timeout`` seconds.
        """
        message = self._mailbox.take(commands)
        if message is not None:
            return message
        self._check_open()
        self.lookout.expect()
        try:
            async with asyncio.timeout(timeout):
                return await self._mailbox.next(commands)
        except TimeoutError:
            raise CircuitError(f"no answer came on a circuit within {timeout:g} seconds") from None

    # ---- what the link calls ----

    def handle(self, item: Cell | Run) -> None:
        """Take in cells."""
        if self.closed.is_set():
            return
        self.cells_read += len(item) if isinstance(item, Run) else 1
        try:
            for event in self.core.receive(item, monotonic()):
                self._dispatch(event)
        except ProtocolError as error:
            log.info("circuit %d is closed, for its other side breaks the protocol: %s", self.id, error)
            self._close(CircuitError(str(error), DestroyReason.PROTOCOL))
        self.pump()

    def link_closed(self, reason: str) -> None:
        """The link is lost."""
        self.core.closed = True
        self._close(
            CircuitError(f"the link to the first relay was lost: {reason}", DestroyReason.CHANNEL_CLOSED)
        )

    def writable(self) -> None:
        """The link has drained."""
        self._congested = False
        self.core.set_blocked(False)
        self.pump()

    # ---- what streams call ----

    def pump_soon(self) -> None:
        """:meth:`pump` at the end of this turn of the event loop: small writes share cells that way."""
        if not self._pump_pending:
            self._pump_pending = True
            self._loop.call_soon(self.pump)

    def pump(self) -> None:
        """Send stream data as far as windows and the link's queue allow, and whatever else waits."""
        self._pump_pending = False
        if self.closed.is_set():
            return
        room = LINK_QUEUE - self.link.queued(self.core.circ_id)
        if room > 0 and self.core.pump(monotonic(), room):
            for stream in list(self._streams.values()):
                stream.on_room()
        self.flush()

    def flush(self) -> None:
        """Hand the link what the circuit has to say."""
        for item in self.core.take_output():
            self.cells_written += len(item) if isinstance(item, Run) else 1
            if not self.link.send(item) and not self._congested:
                self._congested = True
                self.core.set_blocked(True)

    # ---- events ----

    def _dispatch(self, event: ev.Event) -> None:
        match event:
            case ev.StreamData(endpoint):
                if (stream := self._streams.get(endpoint)) is not None:
                    stream.on_data()
            case ev.StreamResumed():
                pass  # every handled run ends with a pump
            case ev.StreamOpened(endpoint, data):
                if (stream := self._streams.get(endpoint)) is not None:
                    stream.on_connected(data)
            case ev.StreamEnded(endpoint) | ev.Resolved(endpoint) if self.lookout.answered(endpoint):
                pass
            case ev.StreamEnded(endpoint):
                if (stream := self._streams.pop(endpoint, None)) is not None:
                    stream.on_end(event.reason)
            case ev.Resolved(endpoint, data):
                if (stream := self._streams.pop(endpoint, None)) is not None:
                    stream.on_connected(data)
            case ev.HopAdded(hop):
                if self._hop_added is not None and not self._hop_added.done():
                    self._hop_added.set_result(hop)
            case ev.CircuitClosed():
                self._close(CircuitError(event.explanation, event.reason))
                self._report_loss(event.reason)
            case ev.Incoming(endpoint):
                self._incoming(endpoint, event)
            case ev.RelayMessageReceived():
                self._message(event)

    def _report_loss(self, reason: int) -> None:
        """Other circuits may have been lost in the same way."""
        joined = any(hop.relay is None for hop in self.core.hops)
        unexpected = (
            reason == DestroyReason.DESTROYED and not joined
        )  # a rendezvous' other side may just leave
        suspects = self.path[1:] if self._target is None else [self._target]
        self._fleet.suspect(suspects, reason=unexpected or reason in BROKEN_LINK)

    def _incoming(self, endpoint: StreamEndpoint, event: ev.Incoming) -> None:
        if self.on_incoming is None:
            endpoint.end(EndReason.NOTDIRECTORY)
            return
        stream = self._streams[endpoint] = CircuitStream(self, endpoint, accepted=True)
        self.lookout.expect()
        self.on_incoming(stream, event)

    def _message(self, message: ev.RelayMessageReceived) -> None:
        if self._mailbox.deliver(message):
            return
        if self.on_message is not None:
            self.on_message(message)
        else:
            self._mailbox.keep(message)

    def forget(self, stream: CircuitStream) -> None:
        """``stream`` was ended from here."""
        self._streams.pop(stream.endpoint, None)

    # ---- the end ----

    def close(self) -> None:
        """Close the circuit and everything on it. Idempotent."""
        self._close(CircuitError("the circuit was closed"))

    def give_up(self, error: CircuitError) -> None:
        """Close the circuit because it is no good any more."""
        log.info("circuit %d is given up: %s", self.id, error)
        self._close(error)

    @property
    def rtt(self) -> float:
        """The last round-trip time that was measured to the far end, in seconds; 0 if none was yet."""
        return self.core.hops[-1].end.window.rtt if self.core.hops else 0.0

    @property
    def expecting(self) -> bool:
        """Whether something may come: an answer, stream data, or what :attr:`on_message` is there for."""
        return bool(self._streams or self._mailbox.awaited or self._target or self.on_message)

    def _check_open(self) -> None:
        if self.error is not None:
            raise CircuitError(str(self.error), self.error.reason)

    def _close(self, error: CircuitError) -> None:
        if self.closed.is_set():
            return
        self.core.destroy()
        self.flush()
        self.error = error
        self.closed.set()
        self.lookout.stop()
        self.link.detach(self.core.circ_id)
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(error)
        self._mailbox.fail(error)
        if self._hop_added is not None and not self._hop_added.done():
            self._hop_added.set_exception(CircuitError(str(error), error.reason))
        if self.on_closed is not None:
            self.on_closed(self)
