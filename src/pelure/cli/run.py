"""How a command runs: settings shared by all of them, signals, and exit statuses.

0 success, 1 failure with one line on standard error, 2 wrong usage (typer's own), 130 interrupted.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import signal
import sys
import traceback
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from pelure.cli.terminal import SafeFormatter, shown
from pelure.errors import ConfigError, PelureError

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 16 << 20
_HEAP_BYTES = 8 << 20
_COLLECT_AFTER = (100_000, 10, 20)


@dataclass
class Settings:
    """The global options: ``--network``, ``--state``, ``--verbose``."""

    network: str
    state: Path
    verbose: bool


def settings_of(context: typer.Context) -> Settings:
    """The global options of the running command."""
    settings = context.find_root().obj
    assert isinstance(settings, Settings)
    return settings


def fail(message: str) -> typer.Exit:
    """Print ``message`` on standard error; the caller raises what is returned (exit status 1)."""
    print(f"pelure: {shown(message)}", file=sys.stderr)
    return typer.Exit(1)


def message_of(error: Exception) -> str:
    """What a person is told of ``error``: of one of the system's the file and the reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


@contextmanager
def usage_errors() -> Iterator[None]:
    """What is wrong with the arguments is wrong usage: exit status 2."""
    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(shown(str(error))) from None


def run(work: Coroutine[Any, Any, None], settings: Settings) -> None:
    """Run ``work`` until it ends or a signal asks it to stop; it is cancelled then and cleans up."""
    tune_memory()
    try:
        import uvloop

        loop_factory: Any = uvloop.new_event_loop
    except ImportError:  # not on this platform
        loop_factory = None
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            interrupted = runner.run(_until_signal(work))
    except (PelureError, OSError) as error:
        if settings.verbose:
            traceback.print_exc()
        raise fail(message_of(error)) from None
    if interrupted:
        raise typer.Exit(130)


def tune_memory() -> None:
    """Have less time go into getting memory and giving it back.

    The C library (glibc) hands most buffers of a data plane back to the kernel and gets them anew, page by
    page, unless it is told to keep some: a sixth of the processor time of receiving a drive. It keeps a heap
    for each thread, with what that has freed; threads take turns in Python anyway, and share one here. The
    garbage collector looks at everything that was imported again and again, and every 700 new objects at the
    youngest, which a batch of entries makes in a moment: a fifth of the time of making one.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(_TRIM_THRESHOLD, _KEPT_BYTES)
        tune(_MMAP_THRESHOLD, _HEAP_BYTES)
        tune(_ARENA_MAX, 1)
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


async def _until_signal(work: Coroutine[Any, Any, None]) -> bool:
    """True if SIGINT ended ``work``; SIGTERM, the polite way to end a service, counts as success.

    So does SIGHUP, the end of the terminal, unless it is to be ignored (``nohup``).
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    seen: list[int] = []

    def stop(number: int) -> None:
        seen.append(number)
        task.cancel()

    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ends.append(signal.SIGHUP)
    for number in ends:
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not seen:
            raise
        return signal.SIGINT in seen
    return False


def set_up_logging(verbose: bool) -> None:
    """Log lines go to standard error: warnings always, what happens inside with ``--verbose``."""
    handler = logging.StreamHandler(sys.stderr)
    detailed = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(SafeFormatter(detailed if verbose else "pelure: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[handler])
    for noisy in ("asyncio", "httpx", "httpcore", "watchfiles"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of each bad request of strangers
