"""Helpers of the tests of private links: folders to share, digests, a share that runs."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interop.commands import Command, pelure


def make_folder(folder: Path, *, big: int = 3_000_000, small: int = 40, seed: int = 1) -> Path:
    """Fill ``folder`` with one file of ``big`` bytes and ``small`` little ones, deep names and a link."""
    source = random.Random(seed)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "big.bin").write_bytes(source.randbytes(big))
    (folder / "empty").write_bytes(b"")
    (folder / "deep" / "er" / "é ü 文.txt").write_text("unicode\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    os.symlink("big.bin", folder / "link")
    for number in range(small):
        (folder / "deep" / f"{number}.txt").write_bytes(source.randbytes(source.randrange(1, 3000)))
    os.utime(folder / "run.sh", (1_700_000_000, 1_700_000_000))
    return folder


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below ``folder``, targets of symbolic links."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = "link " + os.readlink(path)
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


class Person:
    """Somebody with a state folder of their own on ``network``."""

    def __init__(self, network: Path, home: Path, within: Sequence[str] = ()) -> None:
        """``within``: see :class:`~interop.commands.Command`."""
        home.mkdir(parents=True, exist_ok=True)
        self.within = within
        self.home = home
        self.base = ("--network", str(network), "--state", str(home / "state"))

    def run(self, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return pelure(*self.base, *arguments, timeout=timeout, within=self.within)

    def events(self, *arguments: str, timeout: float = 240) -> list[dict[str, Any]]:
        """The events of a command that has to succeed."""
        done = self.run(*arguments, "--json", timeout=timeout)
        assert done.returncode == 0, (arguments, done.stdout[-1000:], done.stderr[-2000:])
        return [json.loads(line) for line in done.stdout.splitlines()]

    def start(self, *arguments: str) -> Command:
        """Start a long-running command; a context manager."""
        log = self.home / f"{arguments[0]}.log"
        return Command(*self.base, "--verbose", *arguments, log=log, within=self.within)

    def share(self, folder: Path, *options: str) -> tuple[Command, dict[str, dict[str, Any]]]:
        """Share ``folder``; the running command and the ``link`` events by name, once it is published."""
        command = self.start("share", str(folder), *options)
        command.wait("published")
        links = {event["name"]: event for event in command.events if event["event"] == "link"}
        return command, links
