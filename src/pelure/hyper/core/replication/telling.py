"""Telling one peer which blocks are held here (HYPER-FACTS §13): never before the disk has them for good."""

from __future__ import annotations

from collections.abc import Callable

from pelure.errors import ProtocolError
from pelure.hyper.core.replication.intervals import IntervalSet
from pelure.hyper.core.replication.local import LocalCore
from pelure.hyper.wire import messages as m

WANT_SPAN = 1 << 21
"""Blocks in one ``want``, the most that npm takes."""
MAX_WAITING = 64
"""Spans that a peer asks about at once, until the disk has what is held of them: each answer takes memory."""


class Telling:
    """What one peer is told of the blocks of ``core``; ``send`` queues a message to it."""

    def __init__(self, core: LocalCore, send: Callable[[m.Message], None]) -> None:
        self._core = core
        self._send = send
        self._news = IntervalSet()
        self._waiting: set[tuple[int, int | None]] = set()
        """Forks and spans that it will be told of once the disk has them; no span: all from 0 on."""

    def add(self, start: int, end: int) -> None:
        """Blocks ``[start, end)`` are to be told of by the next :meth:`flush`."""
        self._news.add(start, end)

    def withdraw(self, start: int, end: int) -> None:
        """Tell the peer that blocks ``[start, end)`` are no longer held here."""
        if start < end:
            self._news.remove(start, end)
            self._send(m.Range(start, end - start, drop=True))

    def flush(self) -> None:
        """Send what :meth:`add` has collected."""
        news, self._news = self._news, IntervalSet()
        for start, end in news:
            self._send(m.Range(start, end - start))

    def tell_contiguous(self) -> None:
        """Tell the peer up to where all blocks are held here, once these would outlast a crash."""
        core = self._core
        fork, held = core.fork, min(core.contiguous_length, core.length)

        def tell() -> None:
            still = min(held, core.contiguous_length) if core.fork == fork else 0
            if still > 0:
                self._send(m.Range(0, still))

        if held > 0:
            self._once_durable(None, tell)

    def answer(self, want: m.Want) -> None:
        """Tell the peer what is held of the blocks that it asks about.

        Raises ``ProtocolError`` if it asks about too much at once.
        """
        core = self._core
        contiguous = min(core.contiguous_length, core.length)
        if contiguous and (contiguous == core.length or want.start + want.length < contiguous):
            self.tell_contiguous()
            return
        start = want.start - want.start % 32
        end = min(want.start + min(want.length, WANT_SPAN), core.length)
        first = core.bitfield.first_set(start)
        if first is None or first >= end:
            return
        fork, held = core.fork, core.bitfield.words(start, end - start)

        def tell() -> None:
            if core.fork == fork:
                self._send(m.Bitfield(start, _both(held, core.bitfield.words(start, end - start))))

        self._once_durable(start, tell)

    def _once_durable(self, span: int | None, tell: Callable[[], None]) -> None:
        """Have ``tell`` called once what is held now would outlast a crash.

        Not if an earlier call for the same span waits: blocks that came since are announced anyway.
        """
        about = (self._core.fork, span)
        if about in self._waiting:
            return
        if len(self._waiting) >= MAX_WAITING:
            raise ProtocolError("the other side floods this one with questions about what is held here")
        self._waiting.add(about)

        def tell_now() -> None:
            self._waiting.discard(about)
            tell()

        self._core.when_durable(tell_now)


def _both(words: bytes, others: bytes) -> bytes:
    """The bits that are set in both bitfields."""
    bits = int.from_bytes(words, "little") & int.from_bytes(others, "little")
    return bits.to_bytes(len(words), "little")
