"""Work in the background that a bug must not end for good: it is told once and begun anew."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

RESTART_SECONDS_FIRST = 1.0
RESTART_SECONDS_MAX = 60.0

log = logging.getLogger(__name__)
Job = Callable[[], Coroutine[Any, Any, None]]


async def supervised(job: Job, what: str) -> None:
    """Run ``job`` until it returns or is cancelled; begin it anew, ever more slowly, when it fails.

    Errors that it expects are its own affair; what arrives here is a bug. ``what`` names the job in the log,
    which gets the trace of the first failure and of each that differs from the one before.
    """
    pause = RESTART_SECONDS_FIRST
    told = ""
    while True:
        try:
            await job()
            return
        except Exception as error:
            if repr(error) != told:
                told = repr(error)
                log.exception("bug: %s has failed and is begun anew", what)
            else:
                log.warning("%s has failed again in the same way", what)
        await asyncio.sleep(pause)
        pause = min(2 * pause, RESTART_SECONDS_MAX)
