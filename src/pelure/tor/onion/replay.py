"""Replay caches: every INTRODUCE2 is answered once (rend-spec-v3 3.3), every proof of work accepted once."""

from __future__ import annotations

from pelure.tor.crypto.digests import sha3_256

INTRODUCTIONS_MIN = 16384
INTRODUCTIONS_MAX = 32768


class ReplayCache:
    """Remembers what was seen, as 16-byte digests; full after ``capacity`` entries.

    It never forgets: it must live as long as what it guards does. An introduction point is retired before
    its cache is full.
    """

    def __init__(self, capacity: int = INTRODUCTIONS_MAX) -> None:
        self.capacity = capacity
        self._seen: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, data: bytes) -> bool:
        return self._digest(data) in self._seen

    @property
    def full(self) -> bool:
        """Whether nothing new is accepted any more."""
        return len(self._seen) >= self.capacity

    def accept(self, data: bytes) -> bool:
        """Remember ``data``; return whether it is new and there was room for it."""
        digest = self._digest(data)
        if self.full or digest in self._seen:
            return False
        self._seen.add(digest)
        return True

    @staticmethod
    def _digest(data: bytes) -> bytes:
        return sha3_256(data)[:16]
