"""How much memory what waits on links and in streams may take, where nobody says so (``MaxMemInQueues``)."""

from __future__ import annotations

import os

LEAST = 256 << 20
MOST = 8 << 30


def default_limit() -> int:
    """A quarter of this machine's memory, within bounds, in bytes."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        total = 4 * LEAST
    return min(max(total // 4, LEAST), MOST)
