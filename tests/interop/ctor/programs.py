"""The outside programs that the interop tests drive: which are missing, and ``curl`` through a SOCKS port."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

DEBIAN_PACKAGE = {"tor": "tor", "tor-gencert": "tor", "curl": "curl", "node": "nodejs", "npm": "npm"}


def missing(*programs: str) -> list[str]:
    """Return those of ``programs`` that are not on the PATH."""
    return [program for program in programs if shutil.which(program) is None]


def require(*programs: str) -> None:
    """Skip the running test when a program is missing; with ``CI=true`` fail it instead."""
    absent = missing(*programs)
    if not absent:
        return
    packages = sorted({DEBIAN_PACKAGE.get(program, program) for program in absent})
    reason = f"{', '.join(absent)} not installed; on Debian: apt-get install {' '.join(packages)}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)  # only on the machine of someone who has not installed it; never with CI=true


@dataclass(frozen=True)
class Fetched:
    """What one ``curl`` run brought: HTTP status, size, SHA-256 of the body, and seconds it took."""

    status: int
    size: int
    sha256: str
    first_byte: float
    total: float
    body: bytes
    """The body when it is at most 1 MB, else empty."""


def curl(
    url: str, socks: int | None = None, *arguments: str, timeout: float = 120, user: str = ""
) -> Fetched:
    """Fetch ``url``, through the SOCKS5 proxy on port ``socks`` if given, names resolved by the proxy.

    ``user`` (``name:password``) is sent as SOCKS credentials: another user, another circuit.
    Raises ``RuntimeError`` with curl's own message when the transfer fails.
    """
    with TemporaryDirectory(prefix="pelure-curl-") as folder:
        body = Path(folder, "body")
        command = ["curl", "--silent", "--show-error", "--max-time", str(timeout), "--output", str(body)]
        command += ["--write-out", "%{http_code} %{time_starttransfer} %{time_total}"]
        if socks is not None:
            credentials = f"{user}@" if user else ""
            command += ["--proxy", f"socks5h://{credentials}127.0.0.1:{socks}"]
        done = subprocess.run(
            [*command, *arguments, url], capture_output=True, text=True, timeout=timeout + 30, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"curl {url}: exit {done.returncode}: {done.stderr.strip()}")
        status, first_byte, total = done.stdout.split()
        digest, size = hashlib.sha256(), 0
        if body.exists():
            with body.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
                    size += len(chunk)
        small = body.read_bytes() if size and size <= 1 << 20 else b""
        return Fetched(int(status), size, digest.hexdigest(), float(first_byte), float(total), small)
