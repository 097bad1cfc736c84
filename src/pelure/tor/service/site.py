"""A folder as a web site behind an onion service: Starlette's static files on a private Unix socket.

Range requests, MIME types, conditional requests and index pages are Starlette's; nothing is listed. Paths
and symbolic links that lead out of the folder, and hidden files, are not found.
"""

from __future__ import annotations

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from pelure.errors import ConfigError
from pelure.tor.service.app_server import AppServer

_VISIBLE = (".", ".well-known")


class _VisibleFiles(StaticFiles):
    """Static files without the hidden ones (``.git``, ``.env``, …); ``.well-known`` is meant to be seen."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        hidden = [part for part in Path(path).parts if part.startswith(".") and part not in _VISIBLE]
        return ("", None) if hidden else super().lookup_path(path)


class Site(AppServer):
    """Serves the files of ``folder`` on a Unix socket of its own, ``socket_path``, once started."""

    def __init__(self, folder: Path) -> None:
        """Raises :class:`ConfigError` if ``folder`` is not a folder."""
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder")
        super().__init__(
            Starlette(routes=[Mount("/", app=_VisibleFiles(directory=folder.resolve(), html=True))])
        )
