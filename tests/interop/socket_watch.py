"""What Python programs ask of the network: each name that they look up, each address they connect or send to.

An audit hook (PEP 578) in each process, set up by a ``sitecustomize`` module of ours, notes it. That needs no
rights, but it sees Python's own sockets only: uvloop, which is C, is kept away from these programs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HOOK = """
import json, os, sys

sys.modules["uvloop"] = None
log = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def text(value):
    return value if value is None or isinstance(value, str) else os.fsdecode(bytes(value))


def note(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if address is None:  # sent where it is connected to
            return
        host, port = address[:2] if isinstance(address, tuple) else (address, None)
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host, port = arguments[0], None
    else:
        return
    os.write(log, json.dumps([event, text(host), port]).encode() + b"\\n")


sys.addaudithook(note)
"""
_LOOKED_UP = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})
_PROOF = """
import asyncio, socket

async def main():
    try:
        await asyncio.open_connection("localhost", 9)
    except OSError:
        pass
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"name?", ("127.0.0.1", 9))

asyncio.run(main())
"""


@dataclass(frozen=True)
class Asked:
    """One call: a name that was looked up (``port`` is None), or an address; of a Unix socket its path."""

    call: str
    host: str | None
    port: int | None

    @property
    def is_look_up(self) -> bool:
        """Whether a name was asked for, as against an address that was used."""
        return self.call in _LOOKED_UP


class SocketWatch:
    """Programs whose command line comes behind :attr:`prefix` are watched."""

    def __init__(self, folder: Path) -> None:
        """``folder``: for the hook and its log."""
        hook = folder / "hook"
        hook.mkdir(parents=True)
        self._log = folder / "asked"
        (hook / "sitecustomize.py").write_text(_HOOK.format(log=str(self._log)))
        path = os.pathsep.join([str(hook), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.prefix = ("env", f"PYTHONPATH={path}")

    def asked(self) -> set[Asked]:
        """All of it, until now."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return {Asked(*line) for line in map(json.loads, lines)}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program that is not watched to its end."""
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def prove_it_sees(self) -> None:
        """A program that looks up a name, connects and sends is noticed: others would be too."""
        done: Any = subprocess.run([*self.prefix, sys.executable, "-c", _PROOF], timeout=60, check=False)
        assert done.returncode == 0
        seen = {(one.call, one.host) for one in self.asked()}
        assert {("socket.getaddrinfo", "localhost"), ("socket.sendto", "127.0.0.1")} <= seen
        assert any(one.call == "socket.connect" and one.port == 9 for one in self.asked())
