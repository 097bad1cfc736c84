"""What a command prints: one event a line for scripts (``--json``), readable lines and bars for people.

Every long-running command tells what happens as events, ``{"event": NAME, …}``, through one
:class:`Output`. With ``--json`` each is a line on standard output; without it, :meth:`Output.event`
prints the sentence given along with it. Names of events are stable; docs/events.md lists them.
"""

from __future__ import annotations

import json
import os
import sys
from functools import cached_property
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import typer

from pelure.cli.terminal import shown

if TYPE_CHECKING:  # with --json nothing of it is needed, which spares a service two megabytes
    from rich.console import Console
    from rich.progress import Progress, TaskID


class Output:
    """Where a command's events go; used as a context manager so that bars are always taken down."""

    def __init__(self, as_json: bool, *, quiet: bool = False) -> None:
        """``quiet``: tell people nothing, for standard output is needed otherwise."""
        self.as_json = as_json
        self.quiet = quiet
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._waiting = False
        self._said: set[str] = set()

    @cached_property
    def console(self) -> Console:
        """Standard output as people read it."""
        return _patient_console(stderr=False)

    @cached_property
    def _aside(self) -> Console:
        return _patient_console(stderr=True)

    def event(self, name: str, text: str | None = None, /, **fields: Any) -> None:
        """Tell event ``name`` with its ``fields``; ``text`` is what a person reads (None: nothing)."""
        self._tell(name, text, fields)

    def aside(self, name: str, text: str, /, **fields: Any) -> None:
        """An event that is no part of what the command is asked for: people read it on standard error."""
        self._tell(name, text, fields, aside=True)

    def _tell(self, name: str, text: str | None, fields: dict[str, Any], *, aside: bool = False) -> None:
        if self.as_json:
            try:
                print(_as_line({"event": name, **fields}), flush=True)
            except BrokenPipeError:
                _stop_telling(sys.stdout)
        elif text is not None and not self.quiet:
            if aside or self._waiting:
                self.finish()
            (self._aside if aside else self.console).print(shown(text, keep="\n\t"), markup=False)

    def is_news(self, text: str) -> bool:
        """Whether a person was not told ``text`` before; from now on they were."""
        news = text not in self._said
        self._said.add(text)
        return news

    @property
    def shows_bars(self) -> bool:
        """Whether somebody sits before a terminal and watches."""
        return not self.as_json and not self.quiet and sys.stdout.isatty()

    def progress(self, what: str, done: float, total: float | None, **fields: Any) -> None:
        """Show that ``done`` of ``total`` bytes of ``what`` are there.

        With a ``total`` of 1 it is a part of the whole, and the field ``step`` says what is being done.
        """
        if self.as_json:
            self.event("progress", what=what, done=done, total=total, **fields)
            return
        if not self.shows_bars:
            return
        from pelure.cli.bars import bars_of_bytes, bars_of_parts

        if self._waiting:
            self.finish()
        if self._bars is None:
            self._bars = (bars_of_parts if total == 1 else bars_of_bytes)(self.console)
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        text = shown(str(fields.get("step", what)))
        self._bars.update(self._tasks[what], completed=done, total=total, description=text)

    def wait(self, text: str) -> None:
        """Say what is waited for, until something else is told."""
        if self.shows_bars:
            from pelure.cli.bars import sign_of_waiting

            self.finish()
            self._waiting = True
            self._bars = sign_of_waiting(self.console)
            self._bars.add_task(shown(text), total=None)
            self._bars.start()

    def finish(self) -> None:
        """Take the bars down; later lines print normally."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()
            self._waiting = False

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()


def _patient_console(*, stderr: bool) -> Console:
    """A console that goes on when nobody reads any more; rich's own ends the program."""
    from rich.console import Console

    class PatientConsole(Console):
        def on_broken_pipe(self) -> None:
            _stop_telling(self.file)

    return PatientConsole(stderr=stderr, highlight=False, emoji=False, soft_wrap=True)


def write_bytes(data: bytes) -> None:
    """Write ``data`` to standard output; the command ends, and is content, if nobody reads any more."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _stop_telling(sys.stdout)
        raise typer.Exit(0) from None


def counted(number: int, what: str) -> str:
    """``number`` and what it counts: "1 file", "2 files"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


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
