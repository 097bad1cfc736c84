"""A socket of this machine spliced to a stream of a circuit (tor-spec 6.2, 6.3), for asyncio.

Bytes that come on either side are written to the other in the same call: no task waits in between, which is
what an answer of a few cells would wait for most of all. The socket takes what it can at once; what it does
not take waits in the stream, where the other side of the circuit gets to feel it, and reading pauses while
much waits to leave.
"""

from __future__ import annotations

import asyncio
from typing import cast

from pelure.tor.net.circuit_stream import PENDING_HIGH, CircuitStream

WRITE_SIZE = 128 * 1024
"""At most so many bytes are handed to the socket at a time, and wait there if it takes none."""
LINGER_SECONDS = 30.0
"""Once the stream is over, the socket may take nothing and say nothing for so long."""


class SplicedSocket(asyncio.Protocol):
    """The protocol of a connection that belongs to ``stream``; one of ``all_of_them`` until it is lost.

    Tor's END closes both directions: what came before it still reaches the socket, whose own side is closed
    then; it is given up when it says more.
    """

    def __init__(self, stream: CircuitStream, all_of_them: set[SplicedSocket]) -> None:
        self._stream = stream
        self._all = all_of_them
        self._transport: asyncio.Transport | None = None
        self._reading = True
        self._writing = True
        self._read_all = False
        self._ending = False
        self._left = 0
        self._linger: asyncio.TimerHandle | None = None
        all_of_them.add(self)
        stream.user = self

    def close(self) -> None:
        """Drop the connection and end the stream. Idempotent."""
        if self._transport is not None:
            self._transport.abort()
        self.connection_lost(None)

    # ---- what the stream calls ----

    def readable(self) -> None:
        """Bytes came for the socket, or the stream is over."""
        transport, stream = self._transport, self._stream
        if transport is None or self._ending:
            return
        while self._writing and stream.endpoint.buffered:
            transport.write(stream.take(WRITE_SIZE))
        if stream.is_over and not stream.endpoint.buffered:
            self._end(transport)

    def writable(self) -> None:
        """Some of what the socket said has left."""
        if not self._reading and self._transport is not None and not self._ending:
            self._reading = True
            self._transport.resume_reading()

    # ---- asyncio protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._transport.set_write_buffer_limits(high=0)  # also what makes uvloop write at once
        self.readable()

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        if self._ending:
            transport.close()
            return
        self._stream.send(data)
        if self._stream.endpoint.pending > PENDING_HIGH and self._reading:
            self._reading = False
            transport.pause_reading()

    def eof_received(self) -> bool:
        self._read_all = True
        self._stream.finish()
        return not self._ending

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._all.discard(self)
        if self._linger is not None:
            self._linger.cancel()
        if self._stream.user is self:
            self._stream.user = None
            self._stream.close_soon()

    def pause_writing(self) -> None:
        self._writing = False

    def resume_writing(self) -> None:
        self._writing = True
        self.readable()

    # ---- the end ----

    def _end(self, transport: asyncio.Transport) -> None:
        """The stream is over and the socket has, or is about to have, all that came on it."""
        self._ending = True
        self._left = transport.get_write_buffer_size()
        if self._read_all or self._stream.failed:
            transport.close()
        else:
            transport.write_eof()
        self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._give_up)

    def _give_up(self) -> None:
        """Unless the socket takes what is left for it, however slowly, it has had its time."""
        if self._transport is None:
            return
        left = self._transport.get_write_buffer_size()
        if left < self._left:
            self._left = left
            self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._give_up)
        else:
            self._transport.abort()
