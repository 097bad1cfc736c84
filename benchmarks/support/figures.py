"""Figures while they are gathered: several runs of rows that are measured in turns."""

from __future__ import annotations

from collections import defaultdict

from benchmarks.results import report
from benchmarks.support.namespace import note, say


class Figures:
    """Values by row and subject; reported in the order in which rows and subjects first came."""

    def __init__(self, benchmark: str) -> None:
        self._benchmark = benchmark
        self._runs: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, row: str, subject: str, value: float, unit: str) -> None:
        """Add one run's value, and say it."""
        say(f"{subject}: {row} {value:.4g} {unit}")
        self._runs[row, unit][subject].append(value)

    def report(self) -> None:
        """Print everything as figures of the benchmark."""
        for (row, unit), subjects in self._runs.items():
            for subject, runs in subjects.items():
                report(benchmark=self._benchmark, row=row + note(), subject=subject, unit=unit, runs=runs)
