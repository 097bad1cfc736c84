"""What a core tells its listeners after each change."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ChangeKind(Enum):
    """What happened to a core."""

    APPEND = "append"
    """Blocks were appended here."""
    UPGRADE = "upgrade"
    """Peers told of more blocks; they are not held yet."""
    TRUNCATE = "truncate"
    """Blocks went, at a new fork: by the writer here, or because a peer told of it."""
    HAVE = "have"
    """Blocks that peers told of are held now."""
    CLEAR = "clear"
    """The content of blocks was deleted here; they still exist."""
    CONFLICT = "conflict"
    """Another signed tree of the same blocks came to light; nothing changes any more."""


@dataclass(frozen=True, slots=True)
class Change:
    """``kind`` happened to the blocks ``start`` to ``start + length``."""

    kind: ChangeKind
    start: int
    length: int
