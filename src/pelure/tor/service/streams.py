"""Streams that clients open on joined circuits, connected to the service's targets (tor-spec 6.2)."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping

from pelure.errors import ProtocolError
from pelure.tor.cell.commands import EndReason, RelayCommand
from pelure.tor.cell.relay_messages import Begin
from pelure.tor.circuit.events import Incoming
from pelure.tor.net.circuit_stream import CircuitStream
from pelure.tor.net.spliced_socket import SplicedSocket
from pelure.tor.service.events import OnEvent, StreamBegun
from pelure.tor.service.targets import Accept, Dial, IncomingInfo, Target, TcpTarget, UnixTarget

log = logging.getLogger(__name__)


class StreamAcceptor:
    """Accepts streams to the virtual ``ports``, at most ``max_streams`` at once on a circuit (0: any).

    ``max_open``: so many on all circuits; each takes a file descriptor, of which a process has only so many.
    """

    def __init__(
        self, ports: Mapping[int, Target], max_streams: int, emit: OnEvent, *, max_open: int = 1 << 16
    ) -> None:
        self.ports = dict(ports)
        self.max_streams = max_streams
        self._max_open = max_open
        self._emit = emit
        self._tasks: set[asyncio.Task[None]] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._sockets: set[SplicedSocket] = set()
        self._unreached: set[Target] = set()

    def incoming(self, stream: CircuitStream, request: Incoming) -> None:
        """Accept or refuse a stream that a client opened; never raises."""
        if request.command != RelayCommand.BEGIN:
            stream.refuse(EndReason.NOTDIRECTORY)
            return
        try:
            port = Begin.decode(request.data).port
        except ProtocolError:
            stream.refuse(EndReason.TORPROTOCOL)
            return
        target = self.ports.get(port)
        if target is None:
            log.info("A client asked for port %d, which the onion service doesn't have", port)
            stream.refuse(EndReason.CONNECTREFUSED)
        elif self.max_streams and len(stream.circuit.streams) > self.max_streams:
            log.info("A client opened more than %d streams at once", self.max_streams)
            stream.refuse(EndReason.RESOURCELIMIT)
        elif len(self._tasks) + len(self._sockets) >= self._max_open:
            log.info("Clients have %d streams open, as many as may be; one is refused", self._max_open)
            stream.refuse(EndReason.RESOURCELIMIT)
        elif isinstance(target, TcpTarget | UnixTarget):
            self._forward(stream, target)
            self._emit(StreamBegun(stream.circuit.id, port))
        else:
            task = asyncio.create_task(self._serve(stream, target, IncomingInfo(port, stream.circuit.id)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End every stream."""
        tasks = [*self._tasks, *self._connecting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for spliced in list(self._sockets):
            spliced.close()

    async def _serve(self, stream: CircuitStream, target: Accept, info: IncomingInfo) -> None:
        self._emit(StreamBegun(info.circuit, info.port))
        try:
            stream.accept()
            await target(stream, info)
        except Exception:
            log.exception("Serving a stream to port %d failed", info.port)
        finally:
            await stream.close()

    # ---- sockets ----

    def _forward(self, stream: CircuitStream, target: TcpTarget | UnixTarget) -> None:
        """Connect to ``target``; the client hears at once where a near one has answered already."""
        try:
            dial = target.dial()
        except OSError as error:
            self._refuse(stream, target, error)
            return
        if dial.connected:
            stream.accept()
            self._unreached.discard(target)
        spliced = SplicedSocket(stream, self._sockets)
        task = asyncio.create_task(self._connect(stream, target, dial, spliced))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(
        self, stream: CircuitStream, target: TcpTarget | UnixTarget, dial: Dial, spliced: SplicedSocket
    ) -> None:
        try:
            if not dial.connected:
                await dial.connect()
                stream.accept()
                self._unreached.discard(target)
            await dial.hand_over(spliced)
        except OSError as error:
            self._refuse(stream, target, error)
            spliced.close()
        except BaseException:
            spliced.close()
            raise
        finally:
            dial.close()

    def _refuse(self, stream: CircuitStream, target: TcpTarget | UnixTarget, error: OSError) -> None:
        """Refuse ``stream``; that ``target`` is not reached is told once: any client can ask for it often."""
        if target not in self._unreached:
            self._unreached.add(target)
            reason = os.strerror(error.errno) if error.errno else str(error) or "no answer in time"
            log.warning("The onion service can't connect to %s: %s", target, reason)
        stream.refuse(EndReason.CONNECTREFUSED)
