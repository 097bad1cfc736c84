"""``pelure doctor`` where nothing can be reached: it soon says so."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from pelure.cli import doctor
from pelure.cli.run import Settings
from pelure.errors import DirectoryError


async def test_a_network_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "PATIENCE_IN_VAIN", 0.1)
    network = tmp_path / "network.torrc"
    identity = "0123456789ABCDEF0123456789ABCDEF01234567"
    with socket.socket() as deaf:  # a port that nobody listens at
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        network.write_text(
            f"TestingTorNetwork 1\nDirAuthority gone orport={port} v3ident={identity} "
            f"127.0.0.1:{port} {identity}\n"
        )
        with pytest.raises(DirectoryError, match=r"^the network can't be "):
            await doctor._examine(Settings(str(network), tmp_path / "state", verbose=False), True)
    events = map(json.loads, capsys.readouterr().out.splitlines())
    check = next(event for event in events if event["event"] == "check")
    assert (check["name"], check["ok"]) == ("reach", False)
    assert check["detail"].startswith("0 of 1 directory server can be reached (1 × Connection refused)")
