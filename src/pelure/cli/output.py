"""What a command prints: one event a line for scripts (``--json``), readable lines and bars for people.

Every long-running command tells what happens as events, ``{"event": NAME, …}``, through one
:class:`Output`. With ``--json`` each is a line on standard output; without it, :meth:`Output.event`
prints the sentence given along with it. Names of events are stable; docs/events.md lists them.
"""

from __future__ import annotations

import json
import os
import sys
from types import TracebackType
from typing import IO, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from pelure.cli.terminal import shown


class _PatientConsole(Console):
    """Rich's own ends the program when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        _stop_telling(self.file)


class Output:
    """Where a command's events go; used as a context manager so that bars are always taken down."""

    def __init__(self, as_json: bool, *, quiet: bool = False) -> None:
        """``quiet``: tell people nothing, for standard output is needed otherwise."""
        self.as_json = as_json
        self.quiet = quiet
        self.console = _PatientConsole(stderr=False, highlight=False, emoji=False, soft_wrap=True)
        self._aside = _PatientConsole(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def event(self, name: str, text: str | None = None, /, **fields: Any) -> None:
        """Tell event ``name`` with its ``fields``; ``text`` is what a person reads (None: nothing)."""
        self._tell(self.console, name, text, fields)

    def aside(self, name: str, text: str, /, **fields: Any) -> None:
        """An event that is no part of what the command is asked for: people read it on standard error."""
        self._tell(self._aside, name, text, fields)

    def _tell(self, console: Console, name: str, text: str | None, fields: dict[str, Any]) -> None:
        if self.as_json:
            try:
                print(_as_line({"event": name, **fields}), flush=True)
            except BrokenPipeError:
                _stop_telling(sys.stdout)
        elif text is not None and not self.quiet:
            console.print(shown(text, keep="\n\t"), markup=False)

    @property
    def shows_bars(self) -> bool:
        """Whether somebody sits before a terminal and watches."""
        return not self.as_json and not self.quiet and sys.stdout.isatty()

    def progress(self, what: str, done: float, total: float | None, **fields: Any) -> None:
        """Show that ``done`` of ``total`` bytes (or parts, if ``total`` ≤ 1) of ``what`` are there."""
        if self.as_json:
            self.event("progress", what=what, done=done, total=total, **fields)
            return
        if not self.shows_bars:
            return
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)

    def finish(self) -> None:
        """Take the bars down; later lines print normally."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()


def _as_line(event: dict[str, Any]) -> str:
    """``event`` as JSON; in ASCII where standard output can't have it else (file names may be any bytes)."""
    line = json.dumps(event, ensure_ascii=False)
    try:
        line.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return json.dumps(event)
    return line


def _stop_telling(file: IO[str]) -> None:
    """Nobody reads what the command prints any more; what it does goes on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)
