"""Processor time and memory of other processes."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

CELL_PAYLOAD = 498
"""Bytes of stream data in a full cell (tor-spec 6.1)."""
_CPUCLOCK_SCHED = 2  # user and system time as the scheduler counts it


def cpu_seconds(pids: Collection[int]) -> float:
    """User and system seconds that these processes have used so far, all together."""
    return sum(time.clock_gettime(_cpu_clock(pid)) for pid in pids)


def _cpu_clock(pid: int) -> int:
    """The process's own clock (clock_getcpuclockid(3)): exact, where /proc counts in ticks of 10 ms."""
    return (~pid << 3) | _CPUCLOCK_SCHED


def micros_per_cell(seconds: float, size: int) -> float:
    """Microseconds per cell for ``size`` bytes of stream data."""
    return seconds * 1e6 * CELL_PAYLOAD / size


def memory(pid: int, field: str = "VmRSS") -> float:
    """Resident memory in MB; field ``VmHWM``: its peak since the start or :func:`reset_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024 / 1e6
    raise OSError(f"/proc/{pid}/status has no {field}")


def reset_peak(pid: int) -> None:
    """Let the peak of resident memory begin anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
