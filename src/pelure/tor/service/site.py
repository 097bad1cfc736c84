"""A folder as a web site behind an onion service: Starlette's static files on a private Unix socket.

Range requests (RFC 9110 section 14), MIME types, conditional requests and index pages are Starlette's;
nothing is listed. Paths and symbolic links that lead out of the folder, hidden files and what can't be read
are not found. No answer names this machine or its paths.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import unquote_to_bytes

from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from pelure.errors import ConfigError
from pelure.tor.service.app_server import AppServer

_VISIBLE = (".", ".well-known")


class _VisibleFiles(StaticFiles):
    """Static files without the hidden ones (``.git``, ``.env``, …); ``.well-known`` is meant to be seen."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ignore a range of other units than bytes, or of another request than GET, as a server must."""
        headers = [
            (name, value)
            for name, value in scope["headers"]
            if name != b"range" or (scope["method"] == "GET" and value.lstrip().lower().startswith(b"bytes="))
        ]
        await super().__call__({**scope, "headers": headers}, receive, send)

    def get_path(self, scope: Scope) -> str:
        """The file asked for, whose name need not be text; a slash at the end stays: it must be a folder."""
        asked = os.fsdecode(unquote_to_bytes(scope["raw_path"]))
        slash = "/" if asked.endswith("/") else ""
        return os.path.normpath(os.path.join(*asked.split("/"))) + slash

    async def get_response(self, path: str, scope: Scope) -> Response:
        """As Starlette's, but led to a folder's page from where the visitor is: no host is known for sure."""
        response = await super().get_response(path, scope)
        if isinstance(response, RedirectResponse):
            name = scope["raw_path"].rpartition(b"/")[2].decode("latin-1")
            query = scope["query_string"].decode("latin-1")
            response.headers["location"] = f"./{name}/" + (f"?{query}" if query else "")
        return response

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        missing = "", None
        if any(part.startswith(".") and part not in _VISIBLE for part in Path(path).parts):
            return missing
        try:
            full_path, status = super().lookup_path(path)
        except (OSError, ValueError):  # links in a circle, too long a name, a NUL in it
            return missing
        if status is None or (path.endswith("/") and not stat.S_ISDIR(status.st_mode)):
            return missing
        return (full_path, status) if os.access(full_path, os.R_OK) else missing


class Site(AppServer):
    """Serves the files of ``folder`` on a Unix socket of its own, ``socket_path``, once started."""

    def __init__(self, folder: Path) -> None:
        """Raises :class:`ConfigError` if ``folder`` is not a folder."""
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder")
        super().__init__(ExceptionMiddleware(_VisibleFiles(directory=folder.resolve(), html=True)))
