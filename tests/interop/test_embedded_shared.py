"""``--network embedded``: one network for all commands, started by the first that needs it."""

from __future__ import annotations

import json
from pathlib import Path

from interop.commands import pelure
from interop.ctor import FileServer
from pelure.tor.embedded.shared import running_pid


def test_a_detached_network(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    numbers = ("--relays", "3", "--interval", "30")
    started = pelure("net", "up", "--dir", str(folder), *numbers, "--detach", "--json")
    try:
        assert started.returncode == 0, started.stderr
        event = json.loads(started.stdout)
        assert (event["event"], event["network"]) == ("up", str(folder / "network.torrc"))
        again = pelure("net", "up", "--dir", str(folder), *numbers, "--detach")
        assert again.returncode == 1 and "already" in again.stderr
        assert running_pid(folder) is not None
    finally:
        stopped = pelure("net", "down", "--dir", str(folder))
    assert stopped.returncode == 0, stopped.stderr
    assert running_pid(folder) is None


def test_commands_share_one_network(tmp_path: Path, file_server: FileServer) -> None:
    folder = tmp_path / "embedded"
    arguments = ("--network", "embedded", "--state", str(tmp_path), "get-url", file_server.url(1000))
    try:
        first = pelure(*arguments)
        assert first.returncode == 0, first.stderr
        pid = running_pid(folder)
        assert pid is not None, "it stays for a while"
        second = pelure(*arguments)
        assert second.returncode == 0, second.stderr
        assert running_pid(folder) == pid
    finally:
        stopped = pelure("net", "down", "--dir", str(folder))
    assert stopped.returncode == 0, stopped.stderr
    assert running_pid(folder) is None
