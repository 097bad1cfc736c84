"""OnionShare's command line program, in a virtual environment of its own, beside a C tor process."""

from __future__ import annotations

import base64
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

REQUIREMENT = "onionshare-cli==2.7"
FOLDER = Path(__file__).parents[2] / ".bench" / "onionshare"
INSTALL_SECONDS = 300.0
ADDRESS_SECONDS = 120.0
STOP_SECONDS = 15.0


class OnionShareError(Exception):
    """OnionShare could not be installed, or did not start."""


def installed() -> Path:
    """The program, installed now if it is not there yet. Raises :class:`OnionShareError`."""
    program = FOLDER / "bin" / "onionshare-cli"
    if program.exists():
        return program
    print(f"installing {REQUIREMENT} into {FOLDER}", file=sys.stderr)
    python = FOLDER / "bin" / "python"
    commands = (
        [sys.executable, "-m", "venv", str(FOLDER)],
        [str(python), "-m", "pip", "install", "--quiet", REQUIREMENT],
    )
    for command in commands:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OnionShareError(f"{' '.join(command)}: {error}") from error
        if done.returncode != 0:
            shutil.rmtree(FOLDER, ignore_errors=True)
            raise OnionShareError(f"{' '.join(command)}: {done.stderr.strip()[-400:]}")
    return program


@dataclass(frozen=True)
class Shared:
    """What OnionShare printed, and after how many seconds since it was started."""

    host: str
    """The onion address, ``….onion``."""
    private_key: bytes = field(repr=False)
    """The recipient's x25519 key, 32 bytes."""
    seconds: float


class OnionShare:
    """Shares one file with private key, its default, through a tor with ``control_port``; a context manager.

    ``home`` is a folder for its settings. It stops by itself after a download, also a default.
    """

    def __init__(self, program: Path, control_port: int, file: Path, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        settings = home / "settings.json"
        settings.write_text(
            json.dumps(
                {
                    "connection_type": "control_port",
                    "control_port_address": "127.0.0.1",
                    "control_port_port": control_port,
                    "auth_type": "no_auth",  # then it takes the cookie that the control port names
                }
            )
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [str(program), "--config", str(settings), str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "HOME": str(home), "XDG_CONFIG_HOME": str(home)},
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.strip())
        self._lines.put(None)

    def shared(self) -> Shared:
        """Wait until it has published the address and printed it. Raises :class:`OnionShareError`."""
        host = ""
        said: list[str] = []
        while True:
            try:
                line = self._lines.get(timeout=ADDRESS_SECONDS)
            except queue.Empty:
                line = None
            if line is None:
                raise OnionShareError("OnionShare printed no address: " + "\n".join(said[-20:]))
            said.append(line)
            if line.startswith("http://"):
                host = line.removeprefix("http://")
            elif line.startswith("Private key:"):
                key = base64.b32decode(line.partition(":")[2].strip() + "====")
                return Shared(host, key, time.monotonic() - self._started)

    def __enter__(self) -> OnionShare:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
