"""One stream to one peer: secret stream, channels and the replication of all cores of a store over them.

HYPER-FACTS sections 5, 6 and 8. One task reads and verifies, one serves requests and writes; serving goes
only as fast as the stream takes it, so a slow or greedy peer costs no memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine

from pelure.errors import AccessDenied, DriveError, PelureError, ProtocolError
from pelure.hyper.core.replication.local import LocalCore, LocalStore
from pelure.hyper.core.replication.peer import Peer
from pelure.hyper.core.replication.replicator import Replicator
from pelure.hyper.core.replication.uploads import Uploads
from pelure.hyper.encoding.compact import Reader
from pelure.hyper.wire import messages as m
from pelure.hyper.wire.noise import KeyPair, Rng
from pelure.hyper.wire.protomux import Mux, Name
from pelure.hyper.wire.secretstream import MAX_MESSAGE, SecretStream
from pelure.streams import ByteStream

log = logging.getLogger(__name__)

READ_SIZE = 512 * 1024
WRITE_SIZE = 256 * 1024
"""Bytes of answers that are prepared at once."""
KEEPALIVE_SECONDS = 5.0
DEAD_SECONDS = 30.0
"""A peer that owes answers and sends nothing for so long is given up."""
SILENT_SECONDS = 75.0
"""So is one that sends nothing at all for so long: both sides keep the stream alive."""
HANDSHAKE_SECONDS = 60.0
_LAST_WORDS_SECONDS = 1.0
_TICK_SECONDS = 1.0


class Crowded(DriveError):
    """One side serves as many streams of the other's key as it will."""


class _Word:
    """What handles a channel that nothing goes over: its name has said everything."""

    def on_open(self, handshake: Reader) -> None:
        pass

    def on_message(self, kind: int, body: Reader) -> None:
        pass

    def on_close(self) -> None:
        pass


class Replication:
    """Replicates the cores of ``store`` over ``stream`` until either side ends it.

    ``keypair`` is this side's identity on the stream; ``allow`` is asked whether the other side's public
    key may connect, before anything about any core is said. Use :meth:`start` and :meth:`close`, or
    ``async with``; :meth:`wait_closed` returns the error that ended it, if one did.
    """

    def __init__(
        self,
        stream: ByteStream,
        initiator: bool,
        store: LocalStore,
        keypair: KeyPair,
        allow: Callable[[bytes], bool] | None = None,
        rng: Rng = os.urandom,
        max_message: int = MAX_MESSAGE,
        crowded: Callable[[bytes], bool] | None = None,
    ) -> None:
        """``max_message``: bytes of the longest message taken from the other side.

        ``crowded`` is asked about a key that is let in; the other side is told if it says yes, and nothing
        is replicated.
        """
        self.initiator = initiator
        self.mux = Mux(self._pair, dict.fromkeys(m.ALIASES, m.PROTOCOL))
        self.error: Exception | None = None
        self.peers: dict[bytes, Peer] = {}
        """The other side at each core, by the core's key, as it was last: also when the stream has ended."""
        self.bytes_read = 0
        self.bytes_written = 0
        self._stream = stream
        self._store = store
        self._crowded = crowded
        self._secret = SecretStream(initiator, keypair, rng, allow, max_message)
        self._cores: dict[bytes, LocalCore] = {}
        self._unsubscribe: Callable[[], None] | None = None
        self._opened = asyncio.Event()
        self._accepted = asyncio.Event()
        self._wake = asyncio.Event()
        self._uploads = Uploads()
        self._dirty: dict[Peer, None] = {}
        self._answered: dict[Peer, None] = {}
        self._writing = False
        """Part of what was sealed last may have been sent: if that is broken off, nothing can follow it."""
        self._heard = self._written = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._ending: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[None] | None = None

    # -- life --

    def start(self) -> None:
        """Begin the handshake and all that follows, in tasks of the running loop."""
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        self._unsubscribe = self._store.on_open(self._add_core)
        for core in self._store.open_cores():
            self._add_core(core)
        parts = (self._read, self._write, self._watch)
        self._tasks = [loop.create_task(self._run(part)) for part in parts]
        self._wake.set()

    async def opened(self) -> None:
        """Wait for the handshake. Raises what ended the stream if it does not come to that."""
        await self._wait_for(self._opened)
        if not self._opened.is_set():
            raise self.error or DriveError("the replication stream ended before it was set up")

    async def accepted(self) -> None:
        """Wait for the other side's first message after the handshake: it lets this side's key in.

        Raises :class:`Crowded` if that is all it has to say, :class:`~pelure.errors.AccessDenied` if it ends
        the stream instead, or what broke the stream.
        """
        await self._wait_for(self._accepted)
        if not self._accepted.is_set():
            if self.error is not None:
                raise self.error
            raise AccessDenied("the other side does not let this key in")

    async def _wait_for(self, event: asyncio.Event) -> None:
        """Wait for ``event`` or the end of the stream."""
        waiting = asyncio.get_running_loop().create_task(event.wait())
        try:
            await asyncio.wait((waiting, self._end_future), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    async def wait_closed(self) -> Exception | None:
        """Wait for the end; return the error that was its cause, ``None`` if a side just ended it."""
        await asyncio.shield(self._end_future)
        return self.error

    async def close(self) -> None:
        """End the stream, and wait until it has ended."""
        self._end(None)
        await asyncio.shield(self._end_future)

    async def __aenter__(self) -> Replication:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def _end_future(self) -> asyncio.Future[None]:
        if self._ended is None:
            raise RuntimeError("the replication was not started")
        return self._ended

    async def _run(self, part: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run one task of the stream; whatever ends it ends the stream."""
        try:
            await part()
        except (PelureError, OSError, EOFError) as error:
            self._end(error)
        except Exception as error:
            log.exception("replication failed")
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        """Begin the end of the stream, once."""
        if self._ending is None and self._ended is not None:
            self.error = error
            self._ending = asyncio.get_running_loop().create_task(self._finish())

    async def _finish(self) -> None:
        """Leave the cores, stop the tasks, close the stream.

        That the end has come is told whatever happens: this task is cancelled, too, when its loop ends.
        """
        for task in self._tasks:
            task.cancel()
        try:
            self._leave_cores()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self.error is None and not self._writing:
                await self._send_last_words()
        finally:
            self._uploads.clear()
            try:
                await self._stream.close()
            finally:
                if not self._end_future.done():
                    self._end_future.set_result(None)

    async def _send_last_words(self) -> None:
        """Send what is still queued: the ends of channels, perhaps the proof of a conflict."""
        try:
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                if output := self._next_output():
                    await self._stream.write(output)
        except (PelureError, OSError) as error:  # a TimeoutError is an OSError
            log.debug("The last words of a stream were not taken: %s", error)

    def _leave_cores(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._flush_peers()  # the other side may wait to hear that this one has all of it
        for core in self._cores.values():
            if core.replicator is not None:
                core.replicator.detach(self)
        self.mux.end()
        for core in self._cores.values():
            _forget_replicator(core)

    # -- cores --

    def _add_core(self, core: LocalCore) -> None:
        """Replicate one more core, from now on or once the handshake is complete."""
        if self._ending is not None or core.conflict is not None:
            return
        self._cores[core.discovery_key] = core
        if core.replicator is None:
            core.replicator = Replicator(core)
        if self._opened.is_set():
            core.replicator.attach(self)
        else:
            core.replicator.connecting.add(self)

    def _pair(self, name: Name) -> None:
        """The other side opened a channel that is not open here: open it too if the core is known."""
        protocol, discovery_key = name
        if protocol == m.CROWDED:
            raise Crowded("the other side serves as many streams for this key as it will")
        if protocol != m.PROTOCOL or discovery_key is None:
            return
        core = self._store.find(discovery_key)
        if core is not None:
            self._add_core(core)

    # -- what peers need of the stream (peer.Link) --

    @property
    def handshake_hash(self) -> bytes:
        """The 64-byte hash that both sides of the handshake share."""
        return self._secret.handshake_hash

    @property
    def remote_public(self) -> bytes:
        """The other side's 32-byte public key, once :meth:`opened`."""
        if self._secret.remote_public is None:
            raise RuntimeError("the handshake is not complete")
        return self._secret.remote_public

    def wake(self) -> None:
        self._wake.set()

    def flush_later(self, peer: Peer) -> None:
        self._dirty[peer] = None
        self._wake.set()

    def upload(self, peer: Peer, request: m.Request) -> None:
        self._uploads.add(peer, request)
        self._wake.set()

    def answered(self, peer: Peer) -> None:
        self._answered[peer] = None

    def fail(self, error: Exception) -> None:
        self._end(error)

    # -- reading --

    async def _read(self) -> None:
        while data := await self._stream.read(READ_SIZE):
            self._heard = time.monotonic()
            self.bytes_read += len(data)
            messages = self._secret.receive(data)
            if self._secret.ready and not self._opened.is_set():
                if self._crowded is not None and self._crowded(self.remote_public):
                    await self._turn_away()
                self._open_cores()
            for message in messages:
                self.mux.receive(message)
                self._accepted.set()
            answered, self._answered = self._answered, {}
            for peer in answered:
                peer.replicator.apply(peer)
            self._wake.set()
            if self._ending is not None:
                return
            await self._uploads.make_room()

    async def _turn_away(self) -> None:
        """Say why nothing follows, and end the stream."""
        self.mux.open((m.CROWDED, None), b"", _Word())
        await self._stream.write(self._secret.take_output() + self._secret.seal(self.mux.take_output()))
        raise Crowded("as many streams of this key are served as may be")

    def _open_cores(self) -> None:
        self._opened.set()
        for core in list(self._cores.values()):
            if core.replicator is not None:
                core.replicator.attach(self)

    # -- writing --

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (output := self._next_output()) or self._uploads:
                if output:
                    self.bytes_written += len(output)
                    self._writing = True
                    await self._stream.write(output)
                    self._writing = False
                    self._written = time.monotonic()
                await asyncio.sleep(0)

    def _next_output(self) -> bytes | bytearray:
        """What is to be sent next: at most about WRITE_SIZE bytes, unless one answer is longer."""
        handshake = self._secret.take_output()
        if handshake or not self._secret.ready:
            return handshake
        self._flush_peers()
        self._uploads.serve(lambda: self.mux.queued_bytes >= WRITE_SIZE)
        return self._secret.seal(self.mux.take_output())

    def _flush_peers(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for peer in dirty:
            if peer.channel.opened:
                peer.flush()

    # -- time --

    async def _watch(self) -> None:
        """Keep the stream alive, and end it when the other side seems dead."""
        started = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            if not self._secret.opened:
                if now - started > HANDSHAKE_SECONDS:
                    raise ProtocolError("the other side did not complete the handshake")
                continue
            if now - self._written > KEEPALIVE_SECONDS:
                self._written = now
                self.mux.keep_alive()
                self._wake.set()
            owed = any(peer.in_flight for peer in self.peers.values() if not peer.channel.closed)
            silent = now - self._heard
            if silent > (DEAD_SECONDS if owed else SILENT_SECONDS):
                raise ProtocolError(f"the other side sent nothing for {silent:.0f} seconds")
            for core in list(self._cores.values()):
                if core.replicator is not None:
                    core.replicator.tick(_TICK_SECONDS)


def _forget_replicator(core: LocalCore) -> None:
    """Take the replicator away from a core that has no streams left."""
    replicator = core.replicator
    if replicator is not None and not replicator.links and not replicator.connecting:
        core.replicator = None
        replicator.close()
