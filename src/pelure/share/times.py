"""Times and durations as people type them: ``7d``, ``12h``, ``2026-12-24T18:00``."""

from __future__ import annotations

import re
import time
from datetime import datetime

from pelure.errors import ConfigError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d{1,6})\s*([smhdw])", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``45m``, ``12h``, ``7d`` or ``4w``. Raises ``ConfigError``."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or int(match[1]) == 0:
        raise ConfigError(f"{text!r} is not a duration; write 90s, 45m, 12h, 7d or 4w")
    return int(match[1]) * _UNITS[match[2]]


def parse_time(text: str, now: float | None = None) -> float:
    """Seconds since 1970 of a local time ``2026-12-24T18:00`` or a date, or of a duration from now.

    Raises ``ConfigError``.
    """
    if _DURATION.fullmatch(text.strip().lower()):
        return (time.time() if now is None else now) + parse_duration(text)
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"{text!r} is not a time; write 2026-12-24T18:00, or a duration such as 2h"
        ) from None
