"""The lookup service: descriptors of onion services, as an HSDir keeps them (rend-spec-v3 2.2.6, 2.2.7).

Every check that the specification asks of an HSDir is made before a byte is kept: size, form, the chain
from the blinded key, the signature, the lifetime's bounds, and a revision counter above the kept one.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from pelure.errors import DirectoryError
from pelure.tor.onion.outer import MAX_DESCRIPTOR_LEN, OuterDescriptor

DEFAULT_CAPACITY = 64 * 1024 * 1024  # bytes of descriptors
ENTRY_OVERHEAD = 400  # bytes of memory an entry costs beside its text


@dataclass(slots=True)
class _Entry:
    document: bytes
    revision_counter: int
    expires: float
    fetches: int

    @property
    def size(self) -> int:
        return len(self.document) + ENTRY_OVERHEAD


class DescriptorStore:
    """Descriptors by blinded key, in bounded memory.

    When it is full those that were fetched least go first: a flood of uploads displaces its own kind, not
    the onion services that people visit.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY, max_descriptor: int = MAX_DESCRIPTOR_LEN) -> None:
        """``capacity``: bytes; ``max_descriptor``: consensus parameter ``HSV3MaxDescriptorSize``."""
        self._entries: dict[bytes, _Entry] = {}
        self.capacity = capacity
        self.max_descriptor = max_descriptor
        self.size = 0
        self.stored = 0
        self.fetched = 0

    def __len__(self) -> int:
        return len(self._entries)

    def store(self, document: bytes, now: float) -> bytes:
        """Check and keep an uploaded descriptor; returns its blinded key (32 bytes).

        Raises ``DirectoryError`` or ``CryptoError``; nothing is kept then.
        """
        outer = OuterDescriptor.parse(document, now, self.max_descriptor)
        known = self._entries.get(outer.blinded_key)
        if known is not None and known.expires > now and known.revision_counter >= outer.revision_counter:
            raise DirectoryError("a descriptor of the same or a later revision is already here")
        self._drop(outer.blinded_key)
        fetches = known.fetches if known is not None else 0
        entry = _Entry(document, outer.revision_counter, now + outer.lifetime * 60, fetches)
        if self.size + entry.size > self.capacity:  # room for many, so that this is rare
            self.make_room(self.capacity * 9 // 10 - entry.size, now)
        self._entries[outer.blinded_key] = entry
        self.size += entry.size
        self.stored += 1
        return outer.blinded_key

    def fetch(self, name: str, now: float) -> bytes | None:
        """The descriptor of the blinded key ``name`` in base64 (padded or not), None if there is none."""
        try:
            blinded_key = base64.b64decode(name + "=" * (-len(name) % 4), validate=True)
        except (binascii.Error, ValueError):
            return None
        entry = self._entries.get(blinded_key)
        if entry is None or entry.expires <= now:
            return None
        self.fetched += 1
        entry.fetches += 1
        return entry.document

    def make_room(self, target: int, now: float) -> int:
        """Drop what has expired, then what was fetched least, until ``size`` is at most ``target`` bytes.

        Returns the bytes given back.
        """
        before = self.size
        self.expire(now)
        if self.size > target:
            # Of those fetched alike, the ones that expire first.
            entries = self._entries
            for key in sorted(entries, key=lambda key: (entries[key].fetches, entries[key].expires)):
                self._drop(key)
                if self.size <= target:
                    break
        return before - self.size

    def expire(self, now: float) -> None:
        """Drop descriptors whose lifetime is over."""
        for key in [key for key, entry in self._entries.items() if entry.expires <= now]:
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= entry.size
