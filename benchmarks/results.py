"""What benchmarks report, and the page that ``make bench`` writes from it.

A benchmark calls :func:`report` once per figure; the figure goes to standard output as a line of JSON.
``python -m benchmarks`` runs the benchmarks one after the other and writes ``RESULTS.md``.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Figure:
    """One measured quantity of one subject: every run's value, in ``unit``."""

    benchmark: str
    row: str
    subject: str
    unit: str
    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)


def report(*, benchmark: str, row: str, subject: str, unit: str, runs: Sequence[float]) -> None:
    """Print one figure. ``row`` says what was measured, ``subject`` on what; ``runs`` has one value a run."""
    figure = Figure(benchmark, row, subject, unit, tuple(round(float(one), 4) for one in runs))
    print(json.dumps(asdict(figure), ensure_ascii=False), flush=True)


def parse(line: str) -> Figure:
    """A figure from its line. Raises :class:`ValueError` for anything else."""
    fields = json.loads(line)
    return Figure(**{**fields, "runs": tuple(fields["runs"])})


def table(figures: Iterable[Figure]) -> str:
    """A Markdown table of one benchmark's figures: rows by what was measured, columns by subject."""
    figures = list(figures)
    subjects = list(dict.fromkeys(one.subject for one in figures))
    rows = list(dict.fromkeys((one.row, one.unit) for one in figures))
    cells = {(one.row, one.unit, one.subject): one for one in figures}
    lines = [
        "| | " + " | ".join(subjects) + " |",
        "|---|" + "---:|" * len(subjects),
    ]
    for row, unit in rows:
        texts = [_text(cells.get((row, unit, subject))) for subject in subjects]
        lines.append(f"| {row} ({unit}) | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _text(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    if len(figure.runs) == 1:
        return f"{_number(figure.median)} (1 run)"
    return f"{_number(figure.median)} ({_number(min(figure.runs))}–{_number(max(figure.runs))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
