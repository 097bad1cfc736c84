"""A folder as a web site behind an onion service: Starlette's static files on a private Unix socket.

Range requests, MIME types, conditional requests and index pages are Starlette's; nothing is listed. Paths
and symbolic links that lead out of the folder, and hidden files, are not found. No header says which
software or clock this machine has.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import Generator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from pelure.errors import ConfigError

_BACKLOG = 512
_VISIBLE = (".", ".well-known")


class _VisibleFiles(StaticFiles):
    """Static files without the hidden ones (``.git``, ``.env``, …); ``.well-known`` is meant to be seen."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        hidden = [
            part for part in Path(path).parts if part.startswith(".") and part not in (".", ".well-known")
        ]
        return ("", None) if hidden else super().lookup_path(path)


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers: the command that runs it has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class Site:
    """Serves the files of ``folder`` on a Unix socket of its own, ``socket_path``, once started."""

    def __init__(self, folder: Path) -> None:
        """Raises :class:`ConfigError` if ``folder`` is not a folder."""
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder")
        app = Starlette(routes=[Mount("/", app=_VisibleFiles(directory=folder.resolve(), html=True))])
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
        self._private = tempfile.TemporaryDirectory(prefix="pelure-site-")  # 0700
        self.socket_path = Path(self._private.name) / "http"
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to serve; connections to ``socket_path`` are accepted once this returns."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.socket_path))
        listener.listen(_BACKLOG)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))

    async def close(self) -> None:
        """End the site; transfers under way get a few seconds."""
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.gather(self._serving, return_exceptions=True)
        self._private.cleanup()
