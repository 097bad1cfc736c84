"""Bringing an embedded network up and down: the process that starts the workers and watches over them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path

from pelure.errors import PelureError
from pelure.tor.embedded.plan import NetworkPlan, check_numbers, make_plan
from pelure.tor.embedded.worker import command, log_file
from pelure.tor.net.statefile import StateFolder, private_log, write_private

STATUS_FILE = "network.json"
UP_SECONDS = 120.0
STOP_SECONDS = 10.0
log = logging.getLogger(__name__)


class EmbeddedNetwork:
    """A running network; an async context manager. ``lost`` is set if a worker ends by itself."""

    def __init__(
        self, folder: Path, *, relays: int = 8, authorities: int = 1, interval: int = 60, workers: int = 0
    ) -> None:
        """``folder`` is the network's; ``workers``: processes (0: one a core).

        Raises ``ConfigError`` for numbers that make no network.
        """
        check_numbers(relays, authorities, interval)
        self.folder = folder
        self.relays = relays
        self.authorities = authorities
        self.interval = interval
        self.workers = workers or min(os.cpu_count() or 1, relays)
        self.lost = asyncio.Event()
        self.plan: NetworkPlan | None = None
        self._lock: StateFolder | None = None
        self._processes: list[Process] = []
        self._watchers: list[asyncio.Task[None]] = []

    @property
    def network_file(self) -> Path:
        """The network file, for ``--network FILE`` and C tor's torrc."""
        assert self.plan is not None
        return self.plan.network_file

    async def __aenter__(self) -> EmbeddedNetwork:
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.down()

    async def up(self, progress: Callable[[str], None] = lambda step: None) -> None:
        """Start everything and wait until clients can use the network; ``progress`` hears the steps.

        Raises ``ConfigError`` if the folder is in use or unusable, ``PelureError`` if a worker
        fails or time runs out.
        """
        self._lock = StateFolder(self.folder)
        try:
            progress("starting workers")
            self._processes = [await self._spawn(number) for number in range(self.workers)]
            # The workers load their code while the keys are made here.
            self.plan = await asyncio.to_thread(
                make_plan, self.folder, self.relays, self.authorities, self.interval
            )
            progress("keys made")
            self._write_status()
            ready = [asyncio.ensure_future(self._instruct(n)) for n in range(self.workers)]
            try:
                async with asyncio.timeout(UP_SECONDS):
                    await asyncio.gather(*ready)
            finally:
                for task in ready:
                    task.cancel()
        except TimeoutError:
            await self.down()
            raise PelureError(f"the network did not come up; see the logs in {self.folder}") from None
        except BaseException:
            await self.down()
            raise
        self._watchers = [asyncio.ensure_future(self._watch(process)) for process in self._processes]

    async def _spawn(self, number: int) -> Process:
        with private_log(log_file(self.folder, number)) as log_to:
            return await asyncio.create_subprocess_exec(
                *command(), stdin=PIPE, stdout=PIPE, stderr=log_to, start_new_session=True
            )

    async def _instruct(self, number: int) -> None:
        """Send a worker its orders and wait until it is ready."""
        assert self.plan is not None
        process = self._processes[number]
        assert process.stdin is not None and process.stdout is not None
        names = [node.name for node in self.plan.nodes[number :: self.workers]]
        orders = {"plan": self.plan.to_json(), "nodes": names}
        process.stdin.write(json.dumps(orders).encode() + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
        event = json.loads(line) if line else {"event": "failed", "error": "it ended"}
        if event["event"] != "ready":
            where = log_file(self.folder, number)
            raise PelureError(f"a worker of the embedded network failed: {event['error']} (see {where})")

    async def _watch(self, process: Process) -> None:
        await process.wait()
        log.error("worker %d of the embedded network ended by itself", process.pid)
        self.lost.set()

    def _write_status(self) -> None:
        status = {"pid": os.getpid(), "workers": [process.pid for process in self._processes]}
        write_private(self.folder / STATUS_FILE, json.dumps(status).encode())

    async def down(self) -> None:
        """Stop all workers; idempotent."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        self._watchers = []
        await asyncio.gather(*(self._stop(process) for process in self._processes))
        self._processes = []
        (self.folder / STATUS_FILE).unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _stop(self, process: Process) -> None:
        if process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
