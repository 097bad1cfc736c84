"""An ASGI application on a private Unix socket or on a loopback port, by uvicorn.

No header says which software or clock this machine has; signals stay with the command that runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import Generator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

_BACKLOG = 512


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers: the command that runs it has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class AppServer:
    """Serves ``app`` once started, on ``listener`` or else on a Unix socket of its own, ``socket_path``."""

    def __init__(self, app: ASGIApp, listener: socket.socket | None = None) -> None:
        self._server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=5,
            )
        )
        self._private = tempfile.TemporaryDirectory(prefix="pelure-http-")  # 0700
        self.socket_path = Path(self._private.name) / "http"
        self._listener = listener
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to serve; connections are accepted once this returns."""
        if self._listener is None:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(self.socket_path))
        self._listener.listen(_BACKLOG)
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))

    async def close(self) -> None:
        """End it; transfers under way get a few seconds."""
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.gather(self._serving, return_exceptions=True)
        self._private.cleanup()
