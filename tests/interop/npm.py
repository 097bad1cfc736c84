"""Real npm peers as child processes, for tests marked ``npm``.

:class:`NpmCores` runs ``core_peer.js`` in ``tests/interop/node`` (``npm ci`` there first) and talks to it
in lines of JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

NODE = Path(__file__).parent / "node"
AVAILABLE = os.environ.get("CI") == "true" or (
    shutil.which("node") is not None and (NODE / "node_modules" / "hypercore").is_dir()
)
"""Whether the peers can run; with CI=true they must, so that a missing one is a failure, not a skip."""
ANSWER_SECONDS = 90.0


def seeded_block(seed: str, index: int, size: int) -> bytes:
    """A block that ``core_peer.js`` makes too, from the same arguments."""
    word = sha256(f"{seed}/{index}".encode()).digest()
    return (word * (size // 32 + 1))[:size]


class NpmError(Exception):
    """The npm side answered with an error."""


class NpmCores:
    """A process with an npm corestore in ``folder``; ``script`` decides what it can do with it."""

    def __init__(self, folder: Path, primary_key: bytes | None = None, script: str = "core_peer.js") -> None:
        self._script = script
        self._arguments = [str(folder)] + ([primary_key.hex()] if primary_key else [])
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> NpmCores:
        self._process = await asyncio.create_subprocess_exec(
            "node",
            self._script,
            *self._arguments,
            cwd=NODE,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 26,
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None and self._reader is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            future = self._waiting.pop(answer.pop("n"), None)
            if future is not None and not future.done():
                future.set_result(answer)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(NpmError("the node process ended"))

    async def call(self, cmd: str, *, seconds: float = ANSWER_SECONDS, **arguments: Any) -> dict[str, Any]:
        """Run a command of the script within ``seconds``. Raises :class:`NpmError` if it fails there."""
        assert self._process is not None and self._process.stdin is not None
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        line = json.dumps({"cmd": cmd, "n": number, **arguments})
        self._process.stdin.write(line.encode() + b"\n")
        async with asyncio.timeout(seconds):
            answer = await future
        if "error" in answer:
            raise NpmError(answer["error"])
        return answer
