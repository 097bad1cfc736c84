"""Running ``pelure`` commands in tests and reading the events that they print with ``--json``."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

EVENT_SECONDS = 120.0
STOP_SECONDS = 30.0


class Command:
    """A long-running ``pelure … --json``; use as a context manager, it is asked to stop in the end."""

    def __init__(self, *arguments: str, log: Path, within: Sequence[str] = ()) -> None:
        """``arguments`` without ``pelure`` and ``--json``; ``log``: where its standard error goes.

        ``within``: a program and its arguments that runs it in its own place.
        """
        self.arguments = arguments
        self.log = log
        self.events: list[dict[str, Any]] = []
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [*within, sys.executable, "-m", "pelure.cli.main", *arguments, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def wait(self, event: str, seconds: float = EVENT_SECONDS) -> dict[str, Any]:
        """Wait for ``event``; returns it. Raises ``AssertionError`` with the log if it does not come."""
        while True:
            try:
                found = self._queue.get(timeout=seconds)
            except queue.Empty:
                raise AssertionError(f"{self._name} printed no {event!r}: {self._report()}") from None
            if found is None:
                raise AssertionError(f"{self._name} ended before {event!r}: {self._report()}")
            self.events.append(found)
            if found["event"] == event:
                return found

    @property
    def _name(self) -> str:
        return f"pelure {' '.join(self.arguments)}"

    def _report(self) -> str:
        return f"{self.events[-20:]}\n{self.log.read_text(errors='replace')[-4000:]}"

    def stop(self) -> int:
        """Ask it to end; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self._name} did not end when asked to: {self._report()}") from None

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        elif self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def pelure(
    *arguments: str, timeout: float = 120, within: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a ``pelure`` command to its end, ``within`` as for :class:`Command`."""
    return subprocess.run(
        [*within, sys.executable, "-m", "pelure.cli.main", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
        check=False,
    )
