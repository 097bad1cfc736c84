"""The background process: its systemd user unit, and its end."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pelure.share import daemon
from pelure.share.control import ControlServer
from pelure.share.daemon import command_line, install
from pelure.tor.net.statefile import StateFolder

ODD = """a "quoted" 100% $HOME 'state' \\ folder"""


def _words(line: str) -> list[str]:
    """What systemd makes of a command line in which every word stands in double quotes."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    return [re.sub(r"\\(.)", r"\1", word).replace("%%", "%").replace("$$", "$") for word in words]


def test_the_unit_runs_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    state = tmp_path / ODD
    unit = install("net/network.torrc", state)
    assert unit == tmp_path / "config/systemd/user/pelure.service"
    assert unit.stat().st_mode & 0o777 == 0o600
    started = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
    assert _words(started) == [
        *(sys.executable, "-P", "-m", "pelure.cli.main"),
        *("--network", str(tmp_path / "net/network.torrc")),
        *("--state", str(state), "daemon", "run", "--json"),
    ]
    assert command_line("public", state)[5] == "public"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    unit = install("public", tmp_path / ODD)
    runtime = tmp_path / "run"
    runtime.mkdir(0o700)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", str(unit)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


async def test_it_has_stopped_when_its_folder_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def status(request: object, emit: object) -> dict[str, int]:
        return {"pid": 1234567}

    def kill(pid: int, number: int) -> None:
        assert pid == 1234567
        asked.set()

    monkeypatch.setattr(os, "kill", kill)
    with StateFolder(tmp_path):
        server = ControlServer(tmp_path, {"status": status})
        await server.start()
        stopping = asyncio.ensure_future(daemon.stop(tmp_path))
        async with asyncio.timeout(30):
            await asked.wait()
        await server.close()  # the first thing that a node closes
        done, _ = await asyncio.wait({stopping}, timeout=0.3)
        assert not done
    async with asyncio.timeout(30):
        await stopping
