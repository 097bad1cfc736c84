"""Fetching a file with ``pelure`` commands, timed by the events that they print."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.support.harness import Command

FETCH_SECONDS = 240.0


class FetchError(Exception):
    """A command failed, or brought other bytes than were shared."""


def sha256(file: Path) -> str:
    """Hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


class Person:
    """Who runs commands on ``network``, with the state folder ``state``."""

    def __init__(self, network: Path, state: Path) -> None:
        self._base = ("--network", str(network), "--state", str(state))
        self._state = state

    def start(self, *arguments: str) -> Command:
        """A long-running command; a context manager."""
        self._state.mkdir(parents=True, exist_ok=True)
        return Command(*self._base, *arguments, log=self._state / f"{arguments[0]}.log")

    def events(self, *arguments: str) -> list[tuple[float, dict[str, object]]]:
        """Run a command to its end; its events, each with the time it came. Raises :class:`FetchError`."""
        command = [sys.executable, "-m", "pelure.cli.main", *self._base, *arguments, "--json"]
        with tempfile.TemporaryFile() as errors:
            with subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
            ) as process:
                assert process.stdout is not None
                found = [(time.monotonic(), json.loads(line)) for line in process.stdout]
            if process.returncode != 0:
                errors.seek(0)
                raise FetchError(f"pelure {arguments[0]}: {errors.read().decode(errors='replace')[-2000:]}")
        return found


def get_link(network: Path, scratch: Path, link: str, file: Path, *options: str) -> float:
    """Seconds that ``pelure get`` with an empty cache takes, from being let in to the finished file."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        events = Person(network, Path(folder) / "state").events("get", link, f"{folder}/got", *options)
        _compare(file, Path(folder) / "got" / file.name)
    times = {str(event["event"]): at for at, event in events}
    return times["complete"] - times["connected"]


def get_url(network: Path, scratch: Path, url: str, file: Path) -> float:
    """Seconds that ``pelure get-url`` takes from the first bytes of the body to the finished file."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        target = Path(folder) / "got"
        events = Person(network, Path(folder) / "state").events("get-url", url, "--output", str(target))
        _compare(file, target)
    first = next(at for at, event in events if event.get("what") == "download")
    return events[-1][0] - first


def _compare(file: Path, got: Path) -> None:
    if sha256(file) != sha256(got):
        raise FetchError(f"{got} differs from {file}")
