"""A network namespace in which C tor is at its best, and the start and end of a Tor benchmark.

C tor leaves Nagle's algorithm on. On an ordinary loopback that waits for delayed acknowledgements, 40 ms a
time, and any comparison would be one with Nagle. In a namespace whose local routes acknowledge at once
(``quickack``) it isn't. Making one needs root and ``ip``; without, the figures say ``ordinary loopback``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

from benchmarks.support.harness import CTorError

MARK = "PELURE_BENCH_NAMESPACE"
LOCAL_ROUTES = ("127.0.0.0/8", "127.0.0.1")


class BenchmarkError(RuntimeError):
    """Something that the benchmark needs failed."""


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def note() -> str:
    """What rows add to their names: nothing in a namespace, else that there is none."""
    return "" if MARK in os.environ else ", ordinary loopback"


def run(name: str, benchmark: Callable[[], None]) -> None:
    """Run ``benchmark`` in a namespace of its own; any failure ends the process with one clear error."""
    if MARK not in os.environ:
        lacking = missing()
        if not lacking:
            sys.exit(in_namespace([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]]))
        say(f"{lacking}: measuring on the ordinary loopback, where Nagle's algorithm slows C tor down")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every process is ended on the way
    try:
        benchmark()
    except (BenchmarkError, CTorError, AssertionError, OSError) as error:
        sys.exit(f"benchmarks.{name}: {error}")


def missing() -> str:
    """Why no namespace can be made; empty if one can."""
    if os.geteuid() != 0:
        return "a network namespace needs root"
    return "" if shutil.which("ip") else "a network namespace needs the program ip (iproute2)"


def in_namespace(command: list[str]) -> int:
    """Run ``command`` in a new namespace and return its exit status; the namespace is gone afterwards."""
    name = f"pelure-bench-{os.getpid()}"
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        for route in LOCAL_ROUTES:
            _ip(
                *("-n", name, "route", "replace", "local", route, "dev", "lo", "table", "local"),
                *("proto", "kernel", "scope", "host", "src", "127.0.0.1", "quickack", "1"),
            )
        process = subprocess.Popen(["ip", "netns", "exec", name, *command], env=os.environ | {MARK: name})
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        while True:
            with suppress(KeyboardInterrupt):  # the terminal interrupts it too; it cleans up
                return process.wait()
    finally:
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
