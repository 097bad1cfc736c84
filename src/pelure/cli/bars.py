"""Bars that show how far something is, and a sign that something is waited for."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


def bars_of_bytes(console: Console) -> Progress:
    """What is transferred: bytes, rate, the time that is left."""
    return _bars(
        console,
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )


def bars_of_parts(console: Console) -> Progress:
    """What goes on in steps."""
    percentage = TextColumn("{task.percentage:>3.0f} %")
    return _bars(console, BarColumn(), percentage, TextColumn("{task.description}"))


def sign_of_waiting(console: Console) -> Progress:
    """Nobody knows how long it takes."""
    return _bars(console, SpinnerColumn("line"), TextColumn("{task.description}"))


def _bars(console: Console, *columns: ProgressColumn) -> Progress:
    return Progress(*columns, console=console, transient=True)
