"""A directory of 8,000 relays, as many as the public network has: what it costs a client (issue 2).

Both programs start with the same made-up directory in their state folders, verify and read it; neither
connects to anything. Memory and processor time are those of the whole process, once it has become quiet; a
path is guard, middle and an exit for port 443. Goal: memory near C tor's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.support.accounting import cpu_seconds, memory
from benchmarks.support.figures import Figures
from benchmarks.support.large_network import write_directory
from benchmarks.support.namespace import BenchmarkError, run, say

RELAYS = 8000
QUIET_SECONDS = 3.0
START_SECONDS, IDLE_SHARE = 0.1, 0.02
"""A process has started when it has used so much of a processor in all, and now uses less than this share."""
MOST_SECONDS = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.consensus", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run")
    rounds = 1 if parser.parse_args().quick else 3
    run("consensus", lambda: measure(rounds))


def measure(rounds: int) -> None:
    """Start each program in turn, and report."""
    figures = Figures("consensus")
    with TemporaryDirectory(prefix="pelure-bench-") as name:
        folder = Path(name)
        authority = write_directory(RELAYS, folder / "ctor", folder / "pelure")
        (folder / "network").write_text(authority)
        torrc = f"{authority}DataDirectory {folder / 'ctor'}\nSocksPort auto\nDisableNetwork 1\n"
        (folder / "torrc").write_text(torrc)
        commands = {
            "C tor": ["tor", "--hush", "-f", str(folder / "torrc")],
            "pelure": [sys.executable, "-m", "benchmarks.support.directory_client", str(folder), str(RELAYS)],
        }
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for subject, command in commands.items():
                with _quiet(command) as process:
                    figures.add(f"memory, {RELAYS:,} relays", subject, memory(process.pid), "MB")
                    figures.add("peak of it", subject, memory(process.pid, "VmHWM"), "MB")
                    figures.add("CPU from the start on", subject, cpu_seconds([process.pid]) * 1000, "ms")
                    if subject == "pelure":
                        figures.add("a path chosen", subject, _path_micros(process), "µs")
    figures.report()


@contextmanager
def _quiet(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The process of ``command`` once it does nothing any more, ended afterwards."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        before, used, until = 0.0, 0.0, time.monotonic() + MOST_SECONDS
        while used < START_SECONDS or used - before > IDLE_SHARE * QUIET_SECONDS:
            if process.poll() is not None or time.monotonic() > until:
                raise BenchmarkError(f"{command[0]} did not start")
            time.sleep(QUIET_SECONDS)
            before, used = used, cpu_seconds([process.pid])
        yield process
    finally:
        process.terminate()
        process.wait()


def _path_micros(process: subprocess.Popen[str]) -> float:
    """Ask the client of pelure."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(json.loads(process.stdout.readline()))


if __name__ == "__main__":
    main()
