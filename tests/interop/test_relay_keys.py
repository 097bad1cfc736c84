"""A relay's keys go both ways between C tor and pelure."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from pelure.tor.relay.keys import RelayKeys

pytestmark = pytest.mark.ctor


def c_tor_loads(data: Path) -> str:
    """Have C tor load the keys in ``data``, or make them; returns the fingerprint."""
    data.mkdir(mode=0o700, exist_ok=True)
    nothing = data.parent / "empty"
    nothing.touch()
    options = {"--DataDirectory": data, "--ORPort": 9001, "--Nickname": "mover", "--Log": "warn stdout"}
    options |= {"-f": nothing, "--defaults-torrc": nothing}
    command = ["tor", "--list-fingerprint", *(str(word) for pair in options.items() for word in pair)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.splitlines()[-1].removeprefix("mover").replace(" ", "")


def contents(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data / "keys").iterdir()}


def test_keys_of_c_tor(tmp_path: Path) -> None:
    data = tmp_path / "data"
    fingerprint = c_tor_loads(data)
    made = contents(data)
    keys = RelayKeys.load(data, os.urandom, time.time())
    assert keys.rsa.public.identity.hex().upper() == fingerprint
    assert contents(data) == made, "all are used as they are"
    assert c_tor_loads(data) == fingerprint


def test_keys_of_pelure(tmp_path: Path) -> None:
    data = tmp_path / "data"
    keys = RelayKeys.load(data, os.urandom, time.time())
    made = contents(data)
    assert c_tor_loads(data) == keys.rsa.public.identity.hex().upper()
    assert contents(data) == made, "C tor uses them, and makes no new ones"
