"""The HTML of a drive's web page: folder listings and previews.

No JavaScript, no external resource, nothing that a file's name or content could turn into markup: every
text goes through :func:`html.escape`, every path through :func:`urllib.parse.quote`.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from pelure.share.link import printable
from pelure.web.media import PREVIEW_IMAGES, PREVIEW_TEXT_LIMIT, is_text, media_type


@dataclass(frozen=True)
class Row:
    """One line of a listing: a file, a symbolic link or a folder. ``size`` in bytes, ``mtime`` in seconds."""

    name: str
    is_folder: bool
    size: int | None = None
    mtime: float | None = None
    target: str | None = None


def readable_size(size: int | None) -> str:
    """``1234567`` as ``1.2 MB``."""
    if size is None:
        return ""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


def _readable_time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):  # a publisher may write any number there
        return ""


def _page(title: str, base: str, body: str) -> str:
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{escape(printable(title))}</title><link rel=stylesheet href='{escape(base)}?style'>"
        f"<link rel=icon href='{escape(base)}?icon' type='image/svg+xml'>"
        f"{body}<footer>Shared with pelure. This page loads nothing from anywhere else.</footer></html>\n"
    )


def _crumbs(title: str, base: str, path: str) -> str:
    """The way from the drive's root to the folder that ``path`` (of a folder or a file) lies in."""
    names = [part for part in path.split("/") if part]
    if not names:
        return ""
    parts = [f"<a href='{escape(base)}'>{escape(printable(title))}</a>"]
    place = base
    for name in names[:-1]:
        place += quote(name, safe="") + "/"
        parts.append(f"<a href='{escape(place)}'>{escape(printable(name))}</a>")
    return "<nav>" + " / ".join(parts) + " /</nav>"


def _link_target(path: str, target: str) -> str | None:
    """The path in the drive, without first slash, that a symbolic link in folder ``path`` leads to."""
    if target.startswith("/"):
        return None
    found = posixpath.normpath(path.lstrip("/") + target)
    return None if found.split("/")[0] in ("..", ".") else found


def _line(base: str, path: str, row: Row) -> str:
    url = escape("./" + quote(row.name, safe="") + ("/" if row.is_folder else ""))
    shown = escape(printable(row.name))
    get = f"<a href='{url}{'?zip' if row.is_folder else '?download'}'>download</a>"
    if row.target is not None:
        shown += f" → {escape(printable(row.target))}"
        found = _link_target(path, row.target)
        name = (
            f"<a href='{escape(base + quote(found))}?view'>{shown}</a>" if found else f"<span>{shown}</span>"
        )
        get = ""
    elif row.is_folder:
        name = f"<a class=folder href='{url}'>{shown}</a>"
    else:
        name = f"<a href='{url}?view'>{shown}</a>"
    return (
        f"<tr><td class=name>{name}<td class='number size'>{readable_size(row.size)}"
        f"<td class='number when'>{_readable_time(row.mtime)}<td class='number get'>{get}</tr>"
    )


def _counted(rows: Sequence[Row]) -> str:
    folders = sum(row.is_folder for row in rows)
    files = len(rows) - folders
    parts = [
        f"{number:,} {noun if number == 1 else noun + 's'}"
        for number, noun in ((folders, "folder"), (files, "file"))
        if number
    ]
    if files:
        parts.append(readable_size(sum(row.size or 0 for row in rows)))
    return ", ".join(parts)


def folder_page(title: str, base: str, path: str, rows: Sequence[Row], *, partial: bool = False) -> str:
    """The listing of folder ``path`` (with both slashes); ``base`` is the URL path of the drive's root.

    ``partial``: there are more entries than ``rows``.
    """
    ordered = sorted(rows, key=lambda row: (not row.is_folder, row.name.casefold()))
    lines = "".join(_line(base, path, row) for row in ordered)
    name = path.rstrip("/").rsplit("/", 1)[-1] or title
    more = "<p>There is more in this folder than is shown here; the ZIP file has all of it.</p>"
    body = f"{_crumbs(title, base, path)}<h1>{escape(printable(name))}</h1>"
    if rows:
        body += (
            "<div class=actions><a class=button href='./?zip'>Download all as ZIP</a>"
            f"<span>{_counted(rows)}</span></div>{more if partial else ''}"
            "<table><thead><tr><th>Name<th class=number>Size<th class=number>Changed (UTC)<th></tr></thead>"
            f"<tbody>{lines}</tbody></table>"
        )
    else:
        body += "<p>This folder is empty.</p>"
    return _page(name, base, body)


def preview_page(
    title: str, base: str, path: str, row: Row, before: str | None = None, after: str | None = None
) -> str:
    """The page of one file: a preview where a browser can show it safely, and a download link.

    ``before`` and ``after`` are the names of the files next to it in its folder.
    """
    url = escape("./" + quote(row.name, safe=""))
    beside = "".join(
        f"<a rel={relation} href='{escape('./' + quote(name, safe=''))}?view'>{text}</a>"
        for name, relation, text in ((before, "prev", "← Previous"), (after, "next", "Next →"))
        if name is not None
    )
    when = _readable_time(row.mtime)
    facts = readable_size(row.size) + (f" · {when} UTC" if when else "")
    body = (
        f"{_crumbs(title, base, path)}<h1>{escape(printable(row.name))}</h1>"
        f"<div class=actions><a class=button href='{url}?download'>Download</a><span>{facts}</span>"
        f"<span class=beside>{beside}</span></div><div class=preview>{_preview(row, url)}</div>"
    )
    return _page(row.name, base, body)


def _preview(row: Row, url: str) -> str:
    kind = media_type(row.name)
    if kind in PREVIEW_IMAGES:
        return f"<img src='{url}' alt='{escape(printable(row.name))}'>"
    if kind.startswith("video/"):
        return f"<video src='{url}' controls preload=metadata></video>"
    if kind.startswith("audio/"):
        return f"<audio src='{url}' controls preload=metadata></audio>"
    if not is_text(kind):
        return "<p>There is no preview for this kind of file.</p>"
    if (row.size or 0) > PREVIEW_TEXT_LIMIT:
        return "<p>This text is too long for a preview.</p>"
    return f"<iframe src='{url}?text' sandbox title='{escape(printable(row.name))}'></iframe>"


def error_page(title: str, base: str, message: str) -> str:
    """A page that says one sentence, and leads back to the drive's root."""
    back = f"<nav><a href='{escape(base)}'>{escape(printable(title))}</a></nav>"
    return _page(title, base, f"{back}<h1>{escape(message)}</h1>")
