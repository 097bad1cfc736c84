"""Subprotocol versions a relay speaks: the ``proto``/``pr`` lines (tor-spec section 9, dir-spec 2.1.1).

Nearly every relay of a consensus carries one of a few dozen strings, so parsing is cached.
"""

from __future__ import annotations

from functools import lru_cache

from pelure.errors import DirectoryError

MAX_VERSION = 63
MAX_PROTOCOLS_LENGTH = 4096


class Protocols:
    """A set of (protocol name, version) pairs; immutable, at most 64 versions a name."""

    __slots__ = ("_masks", "text")

    def __init__(self, masks: dict[str, int]) -> None:
        self._masks = masks
        self.text = " ".join(f"{name}={_format_mask(masks[name])}" for name in sorted(masks))

    @classmethod
    def parse(cls, text: str) -> Protocols:
        """Read ``"Link=3-5 Relay=2"``. Raises ``DirectoryError`` on anything malformed."""
        return _parse(text)

    def supports(self, name: str, version: int) -> bool:
        """True if ``name`` is spoken in exactly ``version`` (among others)."""
        return bool(self._masks.get(name, 0) >> version & 1)

    def versions(self) -> list[tuple[str, int]]:
        """Every (name, version) pair, ordered by name (ASCII), then version."""
        return [
            (name, version)
            for name in sorted(self._masks)
            for version in range(MAX_VERSION + 1)
            if self._masks[name] >> version & 1
        ]

    def missing(self, required: Protocols) -> Protocols:
        """What ``required`` asks for and this set does not have (empty if nothing)."""
        gaps = {name: mask & ~self._masks.get(name, 0) for name, mask in required._masks.items()}
        return Protocols({name: mask for name, mask in gaps.items() if mask})

    def __bool__(self) -> bool:
        return bool(self._masks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Protocols) and self._masks == other._masks

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Protocols({self.text!r})"


def _format_mask(mask: int) -> str:
    ranges: list[str] = []
    version = 0
    while mask >> version:
        if not mask >> version & 1:
            version += 1
            continue
        low = version
        while mask >> (version + 1) & 1:
            version += 1
        ranges.append(str(low) if low == version else f"{low}-{version}")
        version += 1
    return ",".join(ranges)


def _parse_version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 2):
        raise DirectoryError(f"malformed subprotocol version {text[:20]!r}")
    value = int(text)
    if value > MAX_VERSION:
        raise DirectoryError(f"subprotocol version {value} is out of range")
    return value


@lru_cache(maxsize=1024)
def _parse(text: str) -> Protocols:
    if len(text) > MAX_PROTOCOLS_LENGTH:
        raise DirectoryError("subprotocol list is too long")
    masks: dict[str, int] = {}
    for entry in text.split():
        name, equals, ranges = entry.partition("=")
        if not equals or not name.isascii() or not name.replace("-", "").isalnum() or name in masks:
            raise DirectoryError(f"malformed subprotocol entry {entry[:40]!r}")
        mask = 0
        for piece in ranges.split(",") if ranges else ():
            low_text, dash, high_text = piece.partition("-")
            low = _parse_version(low_text)
            high = _parse_version(high_text) if dash else low
            if high < low:
                raise DirectoryError(f"subprotocol range {piece!r} runs backwards")
            mask |= ((1 << (high - low + 1)) - 1) << low
        masks[name] = mask
    return Protocols(masks)


NO_PROTOCOLS = Protocols({})
