"""A drive as a web page: what `pelure share --browser` serves on its onion address and `pelure open` here.

Listing with sizes and dates, previews, range requests, ZIP of any folder. It works without JavaScript, loads
nothing from elsewhere, and its headers forbid a shared file to do so. Hidden files are shown like others:
what is in the drive was put there to be shared.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import AsyncIterator
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from pelure.errors import PelureError
from pelure.hyper.bee.walk import Range
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.entry import DriveEntry
from pelure.hyper.drive.metadata import mtime_of
from pelure.hyper.drive.paths import is_normal
from pelure.web.listing import Row, error_page, folder_page, preview_page
from pelure.web.media import is_text, media_type
from pelure.web.ranges import RangeNotSatisfiable, parse_range
from pelure.web.style import ICON, STYLE
from pelure.web.zip import zip_folder

log = logging.getLogger(__name__)

PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; media-src 'self'; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILE_POLICY = "default-src 'none'; sandbox; frame-ancestors 'self'; style-src 'unsafe-inline'; img-src data:"
COMMON_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STYLE_HEADERS = {**COMMON_HEADERS, "Cache-Control": "private, max-age=3600"}
"""Not fetched again for each page: over onion circuits that is seen."""
MAX_ROWS = 20_000
"""Entries shown of one folder; a folder of more says so."""
READ_SECONDS = 120.0


class DrivePage:
    """The page of one drive, ``title`` on top, below the URL path ``base`` (which ends with a slash)."""

    def __init__(self, drive: Drive, title: str, base: str = "/") -> None:
        self._drive = drive
        self._title = title
        self._base = base

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "HEAD"])])

    async def _answer(self, request: Request) -> Response:
        url = "/" + request.path_params["path"]
        if not hmac.compare_digest(url[: len(self._base)].encode(), self._base.encode()):
            return PlainTextResponse("not found", 404, headers=COMMON_HEADERS)
        path = "/" + url[len(self._base) :]
        query = request.url.query
        try:
            if query == "style":
                return Response(STYLE, media_type="text/css", headers=STYLE_HEADERS)
            if query == "icon":
                return Response(ICON, media_type="image/svg+xml", headers=STYLE_HEADERS)
            if path != "/" and not is_normal(path.removesuffix("/")):
                return self._error("There is nothing at this address.", 404)
            if path.endswith("/"):
                return await self._folder(request, path, query)
            entry = await self._drive.entry(path, timeout=READ_SECONDS)
            if entry is not None and entry.linkname is None:
                return await self._file(request, entry, query)
            if entry is None and await self._is_folder(path):
                return RedirectResponse(self._url(path + "/"), 302, headers=COMMON_HEADERS)
        except PelureError as error:
            log.info("A page could not be shown: %s", error)
            return self._error("The publisher can't be reached at the moment. Try again later.", 503)
        return self._error("There is nothing at this address.", 404)

    def _url(self, path: str) -> str:
        return self._base + quote(path.lstrip("/"))

    def _error(self, message: str, status: int) -> Response:
        return self._html(error_page(self._title, self._base, message), status)

    def _html(self, text: str, status: int = 200) -> Response:
        return HTMLResponse(text, status, headers={**COMMON_HEADERS, "Content-Security-Policy": PAGE_POLICY})

    async def _is_folder(self, path: str) -> bool:
        async for _ in self._drive.list(path):
            return True
        return False

    async def _folder(self, request: Request, path: str, query: str) -> Response:
        if path != "/" and not await self._is_folder(path):
            return self._error("There is no such folder.", 404)
        if query == "zip":
            name = path.rstrip("/").rsplit("/", 1)[-1] or self._title
            return StreamingResponse(
                zip_folder(self._drive, path) if request.method == "GET" else _nothing(),
                media_type="application/zip",
                headers={**COMMON_HEADERS, "Content-Disposition": _attachment(f"{name}.zip")},
            )
        rows: list[Row] = []
        partial = False
        async for entry in self._drive.list(path, recursive=False):
            if partial := len(rows) >= MAX_ROWS:
                break
            rows.append(await self._row(path, entry))
        return self._html(folder_page(self._title, self._base, path, rows, partial=partial))

    async def _row(self, folder: str, entry: DriveEntry) -> Row:
        name, below, _ = entry.path[len(folder) :].partition("/")
        if below:
            return Row(name, is_folder=True)
        try:
            size = None if entry.blob is None else await self._drive.size(entry)
        except PelureError as error:
            log.info("The size of a file can't be told: %s", error)
            size = None
        return Row(name, False, size, mtime_of(entry), entry.linkname)

    async def _file(self, request: Request, entry: DriveEntry, query: str) -> Response:
        name = entry.path.rsplit("/", 1)[-1]
        size = await self._drive.size(entry)
        if query == "view":
            row = Row(name, False, size, mtime_of(entry))
            beside = [await self._beside(entry, reverse) for reverse in (True, False)]
            return self._html(preview_page(self._title, self._base, entry.path, row, *beside))
        kind = media_type(name)
        headers = {
            **COMMON_HEADERS,
            "Accept-Ranges": "bytes",
            "Content-Security-Policy": FILE_POLICY,
            "ETag": f'"{entry.seq:x}"',
        }
        if query == "text" and is_text(kind):
            kind = "text/plain; charset=utf-8"
        elif query == "download" or not kind.startswith(("image/", "audio/", "video/")):
            headers["Content-Disposition"] = _attachment(name)
        try:
            wanted = parse_range(request.headers.get("range"), size)
        except RangeNotSatisfiable:
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
        start, end = (wanted.start, wanted.end) if wanted else (0, size)
        headers["Content-Length"] = str(end - start)
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        body = self._read(entry, start, end) if request.method == "GET" else _nothing()
        return StreamingResponse(body, 206 if wanted else 200, headers, media_type=kind)

    async def _beside(self, entry: DriveEntry, before: bool) -> str | None:
        """The name of the file before or after ``entry`` in its folder."""
        folder, path = entry.path[: entry.path.rindex("/") + 1].encode(), entry.path.encode()
        bounds = Range(gte=folder, lt=path) if before else Range(gt=path, lt=folder[:-1] + b"0")
        async for found in self._drive.entries(bounds, reverse=before, limit=1):
            name = found.path[len(folder.decode()) :]
            return name if "/" not in name and found.blob is not None else None
        return None

    async def _read(self, entry: DriveEntry, start: int, end: int) -> AsyncIterator[bytes]:
        async for part in self._drive.read(entry, start, end, timeout=READ_SECONDS):
            yield part


def drive_page(drive: Drive, title: str) -> Starlette:
    """The page of ``drive`` at the root of an address."""
    return DrivePage(drive, title).app()


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _attachment(name: str) -> str:
    """A ``Content-Disposition`` for any name (RFC 6266)."""
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"
