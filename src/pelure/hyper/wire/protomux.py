"""Protomux: many channels over one message stream (npm ``protomux`` 3), without I/O.

A message is ``channel, type, body``. Channel 0 is for control: open, reject, close, and batch, which packs
several messages into one. Each side numbers its own channels from 1 and names them by (protocol, id);
a channel is usable once both sides have opened one of the same name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from pelure.errors import ProtocolError
from pelure.hyper.encoding.compact import Reader, Writer, encode_uint

_BATCH, _OPEN, _REJECT, _CLOSE = range(4)
BATCH_BYTES = 320 * 1024
"""A batch is closed once it holds this many bytes; a single longer message is sent as it is.

There is room for four blocks of 64 KiB, which take half as long again to be sealed one by one.
"""
MAX_ANSWERS = 16384
MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""What may wait to be sent, in messages and bytes, when another message comes: one who asks has to read."""
MAX_NAME = 256
"""Bytes of the longest protocol name or channel id taken from the other side."""

MAX_CHANNELS = 65536
"""The highest number that the other side may give a channel: numbers of closed ones are used again."""

Name = tuple[str, bytes | None]
_Queued = tuple[int, bytes, Sequence[bytes], int]
"""A message to be sent: own channel number, type, body in pieces, bytes of the body."""


class ChannelHandler(Protocol):
    """What a channel's owner does about events on it. ``ProtocolError`` from any of these ends the stream."""

    def on_open(self, handshake: Reader) -> None:
        """Both sides have opened; ``handshake`` is what came with the other side's open."""

    def on_message(self, kind: int, body: Reader) -> None:
        """A message came."""

    def on_close(self) -> None:
        """The other side closed or rejected the channel, or the stream ended; not called for ``close()``."""


class Channel:
    """One channel, made by :meth:`Mux.open`."""

    def __init__(self, mux: Mux, name: Name, local: int, handler: ChannelHandler) -> None:
        self.name = name
        self.local = local
        self.remote = 0
        self.closed = False
        self.handler = handler
        self._mux = mux
        self._prefix = encode_uint(local)

    @property
    def opened(self) -> bool:
        """Whether both sides have opened it and neither has closed it."""
        return self.remote != 0 and not self.closed

    def send(self, kind: int, *body: bytes, weight: int = 0) -> None:
        """Queue a message, given in pieces; it leaves with :meth:`Mux.take_output`. Ignored once closed.

        ``weight`` is the size that counts for batches, if larger than the body's own: since npm answers a
        batch with a batch, requests weigh as much as their answers.
        """
        if not self.closed:
            self._mux.queue(self.local, kind, body, weight)

    def close(self) -> None:
        """Close this side; what the other side still sends on it is ignored."""
        if not self.closed:
            self._mux.queue(0, _CLOSE, (self._prefix,))
            self._mux.detach(self)


class Mux:
    """The channels of one stream.

    ``pair`` is asked when the other side opens a name for which no own channel waits: it may call
    :meth:`open` for that very name; if it doesn't, the open is rejected. ``aliases`` maps other
    spellings of protocol names to the one used here.
    """

    def __init__(self, pair: Callable[[Name], None], aliases: dict[str, str]) -> None:
        self._pair = pair
        self._aliases = aliases
        self._local: dict[int, Channel] = {}
        self._free: list[int] = []
        self._next = 1
        self._remote: list[Channel | None] = []
        self._waiting: dict[Name, deque[Channel]] = {}
        self._open: dict[Name, Channel] = {}
        self._pairing: tuple[Name, int] | None = None
        self._output: list[tuple[_Queued, int]] = []
        self._keep_alive = False
        self.queued_bytes = 0

    def find(self, name: Name) -> Channel | None:
        """Return the channel with this name that is open or waits for the other side, if any."""
        return self._open.get(name) or next(
            (channel for channel in self._waiting.get(name, ()) if not channel.closed), None
        )

    def open(self, name: Name, handshake: bytes, handler: ChannelHandler) -> Channel:
        """Open a channel; ``handshake`` travels with the open. ``ValueError`` if the name is in use."""
        if self.find(name) is not None:
            raise ValueError(f"channel {name[0]} is already open")
        if self._free:
            local = self._free.pop()
        else:
            local = self._next
            self._next += 1
        channel = Channel(self, name, local, handler)
        self._local[local] = channel
        w = Writer()
        w.uint(local)
        w.string(name[0])
        w.buffer(name[1])
        w.raw(handshake)
        self.queue(0, _OPEN, (w.bytes(),))
        if self._pairing is not None and self._pairing[0] == name:
            self._join(channel, self._pairing[1])
            self._pairing = None
        else:
            self._waiting.setdefault(name, deque()).append(channel)
        return channel

    def queue(self, local: int, kind: int, body: Sequence[bytes], weight: int = 0) -> None:
        """Queue message ``kind`` for the other side on own channel ``local``, 0 for control."""
        size = sum(map(len, body))
        self._output.append(((local, encode_uint(kind), body, size), max(weight, size)))
        self.queued_bytes += size

    def keep_alive(self) -> None:
        """Queue an empty message."""
        self._keep_alive = True

    def take_output(self) -> list[list[bytes]]:
        """Return the queued messages, packed into batches, each of them in pieces, and forget them."""
        output, self._output = self._output, []
        self.queued_bytes = 0
        packed: list[list[bytes]] = []
        batch: list[_Queued] = []
        size = 0
        for queued, weight in output:
            if batch and size + weight > BATCH_BYTES:
                packed.append(_pack(batch))
                batch, size = [], 0
            batch.append(queued)
            size += weight
        if batch:
            packed.append(_pack(batch))
        elif self._keep_alive:
            packed.append([])
        self._keep_alive = False
        return packed

    def receive(self, message: bytes) -> None:
        """Take one message of the stream. Raises ``ProtocolError`` when it breaks the protocol."""
        r = Reader(message)
        channel, kind = r.uint(), r.uint()
        if channel == 0 and kind == _BATCH:
            self._batch(r)
        else:
            self._dispatch(channel, kind, r)

    def end(self) -> None:
        """The stream is over: close every channel."""
        channels = list(self._local.values())
        self._local.clear()
        self._waiting.clear()
        self._open.clear()
        self._remote.clear()
        for channel in channels:
            if not channel.closed:
                channel.closed = True
                channel.handler.on_close()

    def detach(self, channel: Channel) -> None:
        """Forget a channel that is being closed by this side (used by :meth:`Channel.close`)."""
        channel.closed = True
        self._local.pop(channel.local, None)
        if channel.remote:
            self._remote[channel.remote - 1] = None
            self._open.pop(channel.name, None)
            self._free.append(channel.local)
        # An unpaired channel stays among the waiting ones: its number is free once the answer came.

    def _batch(self, r: Reader) -> None:
        end = r.end
        channel = r.uint()
        while r.pos < end:
            size = r.uint()
            if size == 0:
                channel = r.uint()
                continue
            stop = min(r.pos + size, end)
            r.end = stop
            kind = r.uint()
            if channel == 0 and kind == _BATCH:
                raise ProtocolError("batch inside a batch")
            self._dispatch(channel, kind, r)
            r.pos, r.end = stop, end

    def _dispatch(self, remote: int, kind: int, r: Reader) -> None:
        if len(self._output) > MAX_ANSWERS or self.queued_bytes > MAX_ANSWER_BYTES:
            raise ProtocolError("the other side asks for more than it reads")
        if remote == 0:
            if kind == _OPEN:
                self._on_open(r)
            elif kind == _REJECT:
                self._on_reject(r.uint())
            elif kind == _CLOSE:
                self._on_close(r.uint())
            return
        channel = self._remote[remote - 1] if remote <= len(self._remote) else None
        if channel is not None:
            channel.handler.on_message(kind, r)

    def _on_open(self, r: Reader) -> None:
        remote = r.uint()
        protocol = r.string()
        identity = r.optional_buffer()
        if len(protocol) > MAX_NAME or len(identity or b"") > MAX_NAME:
            raise ProtocolError("channel name is too long")
        if remote == 0:
            self.queue(0, _REJECT, (encode_uint(0),))
            return
        if remote == len(self._remote) + 1 <= MAX_CHANNELS:
            self._remote.append(None)
        if remote > len(self._remote) or self._remote[remote - 1] is not None:
            raise ProtocolError(f"the other side opened channel {remote} out of turn")
        name = (self._aliases.get(protocol, protocol), identity)
        if waiting := self._next_waiting(name):
            if waiting.closed:
                self._free.append(waiting.local)
                return
            channel: Channel | None = waiting
            self._join(waiting, remote)
        else:
            channel = self._ask_pair(name, remote)
        if channel is None:
            self.queue(0, _REJECT, (encode_uint(remote),))
        else:
            channel.handler.on_open(r)

    def _next_waiting(self, name: Name) -> Channel | None:
        """Take the oldest own open of this name that the other side has not answered."""
        queue = self._waiting.get(name)
        if not queue:
            return None
        channel = queue.popleft()
        if not queue:
            del self._waiting[name]
        return channel

    def _ask_pair(self, name: Name, remote: int) -> Channel | None:
        if name in self._open:
            return None
        self._pairing = (name, remote)
        self._pair(name)
        self._pairing = None
        return self._open.get(name)

    def _join(self, channel: Channel, remote: int) -> None:
        channel.remote = remote
        self._remote[remote - 1] = channel
        self._open[channel.name] = channel

    def _on_reject(self, local: int) -> None:
        for name, queue in self._waiting.items():
            channel = next((channel for channel in queue if channel.local == local), None)
            if channel is not None:
                queue.remove(channel)
                if not queue:
                    del self._waiting[name]
                self._local.pop(local, None)
                self._free.append(local)
                if not channel.closed:
                    channel.closed = True
                    channel.handler.on_close()
                return
        raise ProtocolError(f"the other side rejected channel {local}, which does not wait for it")

    def _on_close(self, remote: int) -> None:
        channel = self._remote[remote - 1] if 0 < remote <= len(self._remote) else None
        if channel is not None:
            self.detach(channel)
            channel.handler.on_close()


def _pack(batch: Sequence[_Queued]) -> list[bytes]:
    """Return one stream message holding all of ``batch``, in pieces."""
    current, kind, body, _ = batch[0]
    w = Writer()
    if len(batch) == 1:
        w.uint(current)
        w.raw(kind, *body)
        return w.pieces()
    w.uint(0)
    w.uint(_BATCH)
    w.uint(current)
    for local, kind, body, size in batch:
        if local != current:
            w.uint(0)
            w.uint(local)
            current = local
        w.uint(len(kind) + size)
        w.raw(kind, *body)
    return w.pieces()
