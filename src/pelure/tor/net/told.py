"""What clients and services tell while they run: small values with stable names (docs/events.md)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Told:
    """What all such events share."""

    name: ClassVar[str]

    def fields(self) -> dict[str, Any]:
        """The event's values by name, ready for JSON."""
        return asdict(self)
