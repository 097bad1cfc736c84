"""Memory of the process: how much what waits on links and in streams may take, where nobody says so
(``MaxMemInQueues``), and the return of what is free to the system."""

from __future__ import annotations

import ctypes
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


def give_back() -> None:
    """Return to the system what was freed; call it, in a thread, after large work that comes rarely.

    The C library (glibc; others do nothing here) keeps much of it otherwise: ten megabytes of each consensus.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
