"""A stream on a circuit as a byte stream of asyncio (tor-spec §6.2, §6.3)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from pelure.errors import PelureError, StreamError
from pelure.streams import READ_SIZE
from pelure.tor.cell.commands import EndReason, end_words
from pelure.tor.circuit.stream import State, StreamEndpoint

if TYPE_CHECKING:
    from pelure.tor.net.origin import Circuit

PENDING_HIGH = 256 * 1024
"""Bytes written and not yet sent at which ``write`` waits."""
LINGER_SECONDS = 5.0
"""A stream that was opened here and half closed is ended when nothing came for so long."""


class StreamUser(Protocol):
    """Who is called with what happens on a stream, in place of tasks that wait in ``read`` and ``write``."""

    def readable(self) -> None:
        """Something came that can be taken, or the stream is over."""

    def writable(self) -> None:
        """Little is left to be sent."""


class CircuitStream:
    """A ``pelure.streams.ByteStream``. Tor's END closes both directions, so a half can't be closed alone.

    The side that accepted the stream says END when it has written everything. The side that opened it
    keeps reading after ``write_eof`` for as long as data comes, and ends the stream then.
    """

    def __init__(self, circuit: Circuit, endpoint: StreamEndpoint, *, accepted: bool) -> None:
        self.circuit = circuit
        self.endpoint = endpoint
        self.target = ""
        """What it was opened to, for ``netstat``; empty for accepted ones."""
        self.bytes_read = 0
        self.bytes_written = 0
        self.user: StreamUser | None = None
        self._accepted = accepted
        self._error: PelureError | None = None
        self._connected: asyncio.Future[bytes] | None = None
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._discarding = False
        self._finished = False
        self._linger: asyncio.TimerHandle | None = None
        self._heard = 0

    def __repr__(self) -> str:
        return f"<{self.endpoint!r} of {self.circuit!r}>"

    # ---- ByteStream ----

    async def read(self, limit: int = READ_SIZE) -> bytes:
        """1 to ``limit`` bytes, ``b""`` after a clean END. Raises ``StreamError``, ``CircuitError``."""
        while not self.endpoint.buffered:
            if self.endpoint.state is State.ENDED:
                if self._error is not None:
                    raise self._error
                return b""
            self._readable = self._readable or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._readable)
        return self.take(limit)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``; returns when most of it has left. Raises ``StreamError``, ``CircuitError``.

        What is written after the other side's clean END goes nowhere; that is an error only once what it
        sent before has been read, so that two-way copying loses nothing of an answer.
        """
        if self._finished:
            raise StreamError("the stream is written to after its end")
        if self.endpoint.state is State.ENDED:
            if self.endpoint.buffered and self._error is None:
                return
            raise self._error or StreamError("the other side ended the stream", EndReason.DONE)
        self.endpoint.write(data if isinstance(data, bytes) else bytes(data))
        self.bytes_written += len(data)
        self.circuit.pump_soon()
        await self._drain(PENDING_HIGH)

    async def drain(self) -> None:
        """Wait until all that was written has left, under flow control. Raises as :meth:`write` does."""
        await self._drain(0)

    async def write_eof(self) -> None:
        """:meth:`finish`."""
        self.finish()

    async def close(self) -> None:
        """End the stream; what was written still goes out, what comes is dropped. Idempotent."""
        self.close_soon()

    # ---- more, for callers that can't wait ----

    def take(self, limit: int) -> bytes:
        """Up to ``limit`` bytes of what has come, perhaps none."""
        data = self.endpoint.read(limit)
        self.bytes_read += len(data)
        self.circuit.flush()
        return data

    def send(self, data: bytes) -> None:
        """Send ``data`` as soon as windows allow, nowhere after the end; :attr:`user` hears when it left."""
        self.endpoint.write(data)
        self.bytes_written += len(data)
        self.circuit.pump()

    def finish(self) -> None:
        """No more will be written. See the class for when the other side hears of it. Idempotent."""
        if self.endpoint.state is State.ENDED or self._finished:
            return
        self._finished = True
        if self._accepted:
            self.endpoint.finish()
            self._after_end()
        else:
            self._linger_on()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, by whichever side: nothing comes any more."""
        return self.endpoint.state is State.ENDED

    @property
    def failed(self) -> bool:
        """Whether it broke."""
        return self._error is not None

    def close_soon(self, reason: EndReason = EndReason.DONE) -> None:
        """:meth:`close`, with another END reason if need be."""
        if self._linger is not None:
            self._linger.cancel()
        self._discarding = self._finished = True
        self.endpoint.read(self.endpoint.buffered)
        self.endpoint.finish(reason)
        self._after_end()

    def accept(self, connected: bytes = b"") -> None:
        """Answer a stream that came in, unless it is over, with CONNECTED (``connected``: its body)."""
        if not self.is_over:
            self.endpoint.accept(connected)
            self.circuit.flush()

    def refuse(self, reason: EndReason) -> None:
        """Answer a stream that came in with END."""
        self.endpoint.end(reason)
        self._after_end()

    async def connected(self, timeout: float | None = None) -> bytes:
        """Wait until the other side accepted; returns the body of CONNECTED (or RESOLVED).

        Raises ``StreamError`` with the END reason, ``CircuitError``, or ``TimeoutError``.
        """
        if self._connected is None:
            raise StreamError("the stream was not opened from here")
        async with asyncio.timeout(timeout):
            return await asyncio.shield(self._connected)

    async def _drain(self, high: int) -> None:
        while self.endpoint.pending > high:
            self._writable = self._writable or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._writable)
        if self._error is not None:
            raise self._error

    def _linger_on(self) -> None:
        """End the stream if nothing came since the last look and everything written has left."""
        quiet = self._linger is not None and self._heard == self.bytes_read + self.endpoint.buffered
        if quiet and not self.endpoint.pending:
            self.endpoint.end(EndReason.DONE)
            self._after_end()
            return
        self._heard = self.bytes_read + self.endpoint.buffered
        self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._linger_on)

    def _after_end(self) -> None:
        """It was ended from here, or will be once what waits has left."""
        self.circuit.flush()
        if self.endpoint.state is State.ENDED:
            self.circuit.forget(self)
            self.wake()

    # ---- what the circuit calls ----

    def expect_connected(self) -> None:
        """It was opened from here: CONNECTED or END will come."""
        self._connected = asyncio.get_running_loop().create_future()
        self._connected.add_done_callback(_retrieved)

    def on_connected(self, data: bytes) -> None:
        """CONNECTED or RESOLVED came."""
        if self._connected is not None and not self._connected.done():
            self._connected.set_result(data)

    def on_data(self) -> None:
        """There is something to read."""
        if self._discarding:
            self.endpoint.read(self.endpoint.buffered)
        elif self.user is not None:
            self.user.readable()
        else:
            self._wake_reader()

    def on_room(self) -> None:
        """Data left: a writer may go on, or an END has left behind it."""
        if self.endpoint.state is State.ENDED:
            self._after_end()
        elif self.endpoint.pending <= PENDING_HIGH // 2:
            if self.user is not None:
                self.user.writable()
            else:
                self._wake_writer()

    def on_end(self, reason: int) -> None:
        """END came."""
        refused = self._connected is not None and not self._connected.done()
        if reason != EndReason.DONE or refused:
            self.fail(StreamError(f"the other side ended the stream: {end_words(reason)}", reason))
        else:
            self.wake()

    def fail(self, error: PelureError) -> None:
        """It broke: whoever waits, or reads to the end, gets ``error``."""
        if self._error is None:
            self._error = error
        self.endpoint.closed()
        if self._connected is not None and not self._connected.done():
            self._connected.set_exception(self._error)
        self.wake()

    def wake(self) -> None:
        """Let everybody who waits look again."""
        if self.endpoint.state is State.ENDED and self._linger is not None:
            self._linger.cancel()
        if self.user is not None:
            self.user.readable()
        self._wake_reader()
        self._wake_writer()

    def _wake_reader(self) -> None:
        readable, self._readable = self._readable, None
        if readable is not None and not readable.done():
            readable.set_result(None)

    def _wake_writer(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)


def _retrieved(future: asyncio.Future[bytes]) -> None:
    """Nobody may have waited for a stream that failed; its error is not to be reported as forgotten."""
    if not future.cancelled():
        future.exception()
