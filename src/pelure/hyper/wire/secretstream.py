"""Secret streams: encrypted messages over any byte stream (npm ``@hyperswarm/secret-stream`` 6).

A frame is a 24-bit little-endian length and that many bytes. First come the three handshake messages
(:mod:`pelure.hyper.wire.noise`), then from each side one frame of stream id and header, then sealed messages
(:mod:`pelure.hyper.wire.messagecipher`), one per frame. An empty message keeps the stream alive.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from hashlib import blake2b

from pelure.errors import AccessDenied, CryptoError, ProtocolError
from pelure.hyper.wire.messagecipher import HEADER_SIZE, OVERHEAD, MessageCipher
from pelure.hyper.wire.noise import KeyPair, NoiseXX, Rng

_LENGTH_BYTES = 3
_ID_BYTES = 32
MAX_MESSAGE = 0xFFFFFF - OVERHEAD
"""Bytes of the longest plaintext that fits in a frame."""

_NAMESPACE = blake2b(b"hyperswarm/secret-stream", digest_size=32).digest()
_ROLE = {
    True: blake2b(_NAMESPACE + b"\x00", digest_size=32).digest(),
    False: blake2b(_NAMESPACE + b"\x01", digest_size=32).digest(),
}


def _stream_id(handshake_hash: bytes, initiator: bool) -> bytes:
    return blake2b(_ROLE[initiator], key=handshake_hash, digest_size=_ID_BYTES).digest()


class SecretStream:
    """One side of a secret stream, without I/O.

    Feed received bytes to :meth:`receive`; send what :meth:`take_output` and :meth:`seal` return, in order.
    ``allow`` is asked about the other side's static key as soon as it is known, on the initiator's side
    before its own key is given away; when it says no, :meth:`receive` raises ``AccessDenied``.
    ``max_message``: bytes of the longest message taken from the other side.
    """

    def __init__(
        self,
        initiator: bool,
        keypair: KeyPair,
        rng: Rng,
        allow: Callable[[bytes], bool] | None = None,
        max_message: int = MAX_MESSAGE,
    ) -> None:
        self.initiator = initiator
        self.handshake_hash = b""
        self.remote_public: bytes | None = None
        self._allow = allow
        self._max_frame = max_message + OVERHEAD
        self._rng = rng
        self._noise: NoiseXX | None = NoiseXX(initiator, keypair, rng)
        self._sealing: MessageCipher | None = None
        self._opening: MessageCipher | None = None
        self._rx_key = b""
        self._buffer = bytearray()
        self._output: list[bytes] = []
        self._handshake()

    @property
    def ready(self) -> bool:
        """Whether messages can be sealed: the handshake is complete."""
        return self._noise is None

    @property
    def opened(self) -> bool:
        """Whether the other side's header came too, so that its messages can be read."""
        return self._opening is not None

    def take_output(self) -> bytes:
        """Return handshake bytes to send now, and forget them."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def seal(self, messages: Sequence[Sequence[bytes]]) -> bytearray:
        """Return the frames for ``messages``, each given in pieces, in order. Only once :attr:`ready`."""
        assert self._sealing is not None
        sizes = [sum(map(len, pieces)) + OVERHEAD for pieces in messages]
        if max(sizes, default=0) > 0xFFFFFF:
            raise ValueError(f"message of {max(sizes) - OVERHEAD} bytes does not fit in a frame")
        frames = bytearray(sum(sizes) + _LENGTH_BYTES * len(sizes))
        pos = 0
        with memoryview(frames) as view:
            for pieces, size in zip(messages, sizes, strict=True):
                start = pos + _LENGTH_BYTES
                frames[pos:start] = size.to_bytes(_LENGTH_BYTES, "little")
                pos = start + size
                self._sealing.seal(pieces, view[start:pos])
        return frames

    def receive(self, data: bytes | bytearray) -> list[bytes]:
        """Take received bytes; return the messages they complete (keep-alives left out).

        Raises ``ProtocolError``, ``CryptoError`` or ``AccessDenied``; the stream is of no use afterwards.
        """
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        pos = 0
        with memoryview(buffer) as view:
            while len(buffer) - pos >= _LENGTH_BYTES:
                start = pos + _LENGTH_BYTES
                size = int.from_bytes(buffer[pos:start], "little")
                self._check_size(size)
                if len(buffer) - start < size:
                    break
                pos = start + size
                if message := self._take(view[start:pos]):
                    messages.append(message)
        del buffer[:pos]
        return messages

    def _take(self, frame: memoryview) -> bytes:
        """Read one frame; return the message in it, if it is one."""
        if self._opening is not None:
            return self._opening.open(frame)
        if self._noise is not None:
            self._noise.read(bytes(frame))
            self._handshake()
        else:
            self._read_header(bytes(frame))
        return b""

    def _check_size(self, size: int) -> None:
        """Refuse a frame of a wrong size before its bytes are collected."""
        if self._opening is not None:
            if not OVERHEAD <= size <= self._max_frame:
                raise ProtocolError(f"secret stream frame of {size} bytes is too short or too long")
            return
        expected = self._noise.next_size if self._noise is not None else _ID_BYTES + HEADER_SIZE
        if size != expected:
            raise ProtocolError(f"handshake frame of {size} bytes, expected {expected}")

    def _handshake(self) -> None:
        """Check the other side's key, and write whatever is this side's to write."""
        noise = self._noise
        assert noise is not None
        if self.remote_public is None and noise.remote_public is not None:
            self.remote_public = noise.remote_public
            if self._allow is not None and not self._allow(self.remote_public):
                raise AccessDenied("the other side's key is not allowed on this stream")
        if noise.writes_next:
            self._write_frame(noise.write())
        if noise.complete:
            self._start_messages(noise)

    def _start_messages(self, noise: NoiseXX) -> None:
        self.handshake_hash = noise.hash
        self._rx_key = noise.rx
        self._noise = None
        header = self._rng(HEADER_SIZE)
        self._sealing = MessageCipher(noise.tx, header)
        self._write_frame(_stream_id(self.handshake_hash, self.initiator) + header)

    def _write_frame(self, payload: bytes) -> None:
        self._output.append(len(payload).to_bytes(_LENGTH_BYTES, "little") + payload)

    def _read_header(self, frame: bytes) -> None:
        stream_id, header = frame[:_ID_BYTES], frame[_ID_BYTES:]
        if not hmac.compare_digest(stream_id, _stream_id(self.handshake_hash, not self.initiator)):
            raise CryptoError("the other side's stream id is wrong")
        self._opening = MessageCipher(self._rx_key, header)
        self._rx_key = b""
