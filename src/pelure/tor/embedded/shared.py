"""Embedded networks in a process of their own; one for all commands that say ``--network embedded``.

The first such command starts it in the state folder; each holds a shared lock while it uses it; the network
ends by itself when nobody has held the lock for a while. ``pelure net up --detach`` starts one that stays.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pelure.errors import PelureError
from pelure.tor.embedded.network import STATUS_FILE, EmbeddedNetwork
from pelure.tor.embedded.plan import NETWORK_FILE, check_numbers
from pelure.tor.net.statefile import LOCK_NAME, is_locked, private_folder, private_log

LINGER_SECONDS = 60.0
USERS_FILE = "users.lock"
START_FILE = "start.lock"
LOG_FILE = "network.log"
UP = "up"
"""What the detached process says once; otherwise it says why it did not start."""
_POLL_SECONDS = 2.0
log = logging.getLogger(__name__)


@asynccontextmanager
async def shared_network(folder: Path) -> AsyncIterator[Path]:
    """Use the network in ``folder``, starting it if it does not run; yields its network file.

    Raises ``PelureError`` if it can't be started.
    """
    private_folder(folder)
    users = os.open(folder / USERS_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        await _lock(users, fcntl.LOCK_SH)
        starting = os.open(folder / START_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await _lock(starting, fcntl.LOCK_EX)
            if running_pid(folder) is None:
                await start_detached(folder, linger=LINGER_SECONDS)
        finally:
            os.close(starting)
        yield folder / NETWORK_FILE
    finally:
        os.close(users)


async def _lock(file: int, kind: int) -> None:
    """Take a lock without blocking the loop."""
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(0.05)
        else:
            return


def running_pid(folder: Path) -> int | None:
    """The process that runs the network in ``folder``, None if none does.

    It holds the folder's lock: where nobody does, the number is of a network that was killed, and may be some
    other process' by now.
    """
    try:
        pid = int(json.loads((folder / STATUS_FILE).read_text())["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if is_locked(folder / LOCK_NAME) else None


async def start_detached(
    folder: Path, *, relays: int = 8, authorities: int = 1, interval: int = 60, linger: float | None = None
) -> None:
    """Start a network that outlives this process; returns when it is up.

    ``linger``: seconds for which it stays without a user, None: until it is told to stop. Raises
    ``ConfigError`` for numbers that make no network, ``PelureError`` if it does not come up.
    """
    check_numbers(relays, authorities, interval)
    numbers = {"relays": relays, "authorities": authorities, "interval": interval}
    orders = json.dumps({"folder": str(folder), "numbers": numbers, "linger": linger})
    with private_log(private_folder(folder) / LOG_FILE) as log_to:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # nothing is imported from the folder that we happen to be in
            "-m",
            "pelure.tor.embedded.shared",
            orders,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=log_to,
            start_new_session=True,
        )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode(errors="replace").strip()
    if line != UP:
        await process.wait()  # it has said its last word
        raise PelureError(line or f"the embedded network did not start; see {folder / LOG_FILE}")


async def _serve(folder: Path, numbers: dict[str, int], linger: float | None) -> None:
    """Run the network until nobody has used it for ``linger`` seconds, or for ever."""
    async with EmbeddedNetwork(folder, **numbers) as network:
        print(UP, flush=True)
        if linger is None:
            await network.lost.wait()
            return
        unused = 0.0
        while unused < linger and not network.lost.is_set():
            await asyncio.sleep(_POLL_SECONDS)
            unused = 0.0 if _in_use(folder) else unused + _POLL_SECONDS


def _in_use(folder: Path) -> bool:
    return is_locked(folder / USERS_FILE)


def main() -> None:
    """Entry point of the detached process; its argument is JSON: folder, numbers, linger."""
    orders = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    async def until_signal() -> None:
        work = asyncio.ensure_future(_serve(Path(orders["folder"]), orders["numbers"], orders["linger"]))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, work.cancel)
        try:
            await work
        except asyncio.CancelledError:
            log.info("asked to stop")

    try:
        asyncio.run(until_signal())
    except PelureError as error:
        log.error("%s", error)
        print(error, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
