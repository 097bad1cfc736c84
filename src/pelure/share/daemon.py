"""The background process: starting it, asking whether it answers, ending it, its systemd user unit."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from pathlib import Path

from pelure.errors import ConfigError, PelureError
from pelure.share.control import is_running, request
from pelure.tor.net.statefile import LOCK_NAME, is_locked, private_folder, private_log, write_private

START_SECONDS = 300.0
STOP_SECONDS = 60.0
_UNIT = """\
[Unit]
Description=pelure: private shares

[Service]
Type=exec
ExecStart={command}
Restart=on-failure
RestartSec=10
NoNewPrivileges=true
UMask=0077

[Install]
WantedBy=default.target
"""
"""What ``pelure daemon install`` writes. User units can't wait for the network, so a start that fails without
it is repeated for ever (ten seconds apart: systemd gives up after five starts in ten seconds). No private
/tmp: what lies there can be shared."""


def command_line(network: str, state: Path) -> list[str]:
    """What runs the daemon, from any working directory; nothing is imported from there."""
    base = [sys.executable, "-P", "-m", "pelure.cli.main"]
    if network not in ("public", "embedded"):
        network = os.path.abspath(network)
    return [*base, "--network", network, "--state", str(state), "daemon", "run", "--json"]


async def answers(folder: Path) -> bool:
    """Whether a node runs in the publisher's ``folder``."""
    return await status_pid(folder) is not None


async def status_pid(folder: Path) -> int | None:
    """The process id of the node that runs in ``folder``, None if none does."""
    if not is_running(folder):
        return None
    try:
        async for event in request(folder, "status"):
            return int(event["pid"])
    except (OSError, PelureError):
        pass
    return None


async def start(network: str, state: Path) -> None:
    """Start the daemon detached; return once it answers. Raises ``ConfigError`` with its last words."""
    private_folder(state)
    log_path = state / "daemon.log"
    with private_log(log_path) as log_to:
        process = await asyncio.create_subprocess_exec(
            *command_line(network, state),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=log_to,
            start_new_session=True,
        )
    assert process.stdout is not None
    ready = False
    try:
        async with asyncio.timeout(START_SECONDS):
            ready = b'"ready"' in await process.stdout.readline()
    except TimeoutError:
        pass
    finally:
        if not ready:
            with suppress(ProcessLookupError):
                process.terminate()
    if not ready:
        raise ConfigError(f"the background process did not start; see {log_path}")


async def stop(folder: Path) -> None:
    """End the node that runs in ``folder`` and wait until the folder is free for another.

    Raises ``ConfigError`` if it does not end.
    """
    pid = await status_pid(folder)
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            while is_locked(folder / LOCK_NAME):  # noqa: ASYNC110 - another process: nothing to await
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise ConfigError(f"process {pid}, which shares from here, does not stop") from None


def install(network: str, state: Path) -> Path:
    """Write the systemd user unit; return its path."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "systemd" / "user"
    folder.mkdir(parents=True, exist_ok=True)
    unit = folder / "pelure.service"
    command = " ".join(_quoted(word) for word in command_line(network, state))
    write_private(unit, _UNIT.format(command=command).encode())
    return unit


def _quoted(word: str) -> str:
    """One word of ``ExecStart=`` (systemd.service(5), "Command lines"), whatever is in it."""
    for special, written in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$"), ("\n", "\\n")):
        word = word.replace(special, written)
    return f'"{word}"'
