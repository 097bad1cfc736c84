"""The HTML of a drive's web page: folder listings and previews.

No JavaScript, no external resource, nothing that a file's name or content could turn into markup: every
text goes through :func:`html.escape`, every path through :func:`urllib.parse.quote`.
"""

from __future__ import annotations

import mimetypes
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from pelure.share.link import printable

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; --link: #6b4fbb; }
@media (prefers-color-scheme: dark) { :root { --link: #b9a5ff; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
nav { color: var(--soft); overflow-wrap: anywhere; }
a { color: var(--link); text-decoration: none; }
a:hover, a:focus { text-decoration: underline; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; color: var(--soft); font-weight: normal; }
td, th { padding: .35rem .5rem; border-bottom: 1px solid var(--line); }
td:first-child { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.actions { margin: 1rem 0; }
.actions a { border: 1px solid var(--line); border-radius: .4rem; padding: .3rem .7rem; margin-right: .5rem; }
.preview img, .preview video { max-width: 100%; max-height: 80vh; }
.preview iframe { width: 100%; height: 70vh; border: 1px solid var(--line); }
.preview audio { width: 100%; }
footer { color: var(--soft); font-size: .85rem; margin-top: 2rem; }
"""

PREVIEW_IMAGES = {"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp"}
PREVIEW_TEXT_LIMIT = 2 << 20


@dataclass(frozen=True)
class Row:
    """One line of a listing: a file, a symbolic link or a folder. ``size`` in bytes, ``mtime`` in seconds."""

    name: str
    is_folder: bool
    size: int | None = None
    mtime: float | None = None
    target: str | None = None


def media_type(name: str) -> str:
    """The MIME type by the file's name."""
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


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
        f"{body}<footer>Shared with pelure. This page loads nothing from anywhere else.</footer></html>\n"
    )


def _crumbs(title: str, base: str, path: str) -> str:
    parts = [f"<a href='{escape(base)}'>{escape(title)}</a>"]
    place = base
    for name in [part for part in path.split("/") if part]:
        place += quote(name, safe="") + "/"
        parts.append(f"<a href='{escape(place)}'>{escape(printable(name))}</a>")
    return "<nav>" + " / ".join(parts) + "</nav>"


def folder_page(title: str, base: str, path: str, rows: Sequence[Row]) -> str:
    """The listing of folder ``path`` (with both slashes); ``base`` is the URL path of the drive's root."""
    lines = []
    for row in sorted(rows, key=lambda row: (not row.is_folder, row.name.casefold())):
        url = escape(quote(row.name, safe="") + ("/" if row.is_folder else ""))
        shown = escape(printable(row.name)) + ("/" if row.is_folder else "")
        if row.target is not None:
            name = f"{shown} → {escape(printable(row.target))}"
            actions = ""
        else:
            name = f"<a href='./{url}{'' if row.is_folder else '?view'}'>{shown}</a>"
            actions = f"<a href='./{url}{'?zip' if row.is_folder else '?download'}'>download</a>"
        lines.append(
            f"<tr><td>{name}<td class=number>{readable_size(row.size)}"
            f"<td class=number>{_readable_time(row.mtime)}<td class=number>{actions}</tr>"
        )
    empty = "" if lines else "<p>This folder is empty.</p>"
    name = path.rstrip("/").rsplit("/", 1)[-1] or title
    body = (
        f"{_crumbs(title, base, path)}<h1>{escape(printable(name))}</h1>"
        "<p class=actions><a href='./?zip'>Download all as ZIP</a></p>"
        "<table><thead><tr><th>Name<th class=number>Size<th class=number>Changed (UTC)<th></tr></thead>"
        "<tbody>" + "".join(lines) + f"</tbody></table>{empty}"
    )
    return _page(name, base, body)


def preview_page(title: str, base: str, path: str, row: Row) -> str:
    """The page of one file: a preview where a browser can show it safely, and a download link."""
    kind = media_type(row.name)
    url = escape("./" + quote(row.name, safe=""))
    if kind in PREVIEW_IMAGES:
        shown = f"<img src='{url}' alt='{escape(printable(row.name))}'>"
    elif kind.startswith("video/"):
        shown = f"<video src='{url}' controls preload=metadata></video>"
    elif kind.startswith("audio/"):
        shown = f"<audio src='{url}' controls preload=metadata></audio>"
    elif is_text(kind) and (row.size or 0) <= PREVIEW_TEXT_LIMIT:
        shown = f"<iframe src='{url}?text' sandbox title='{escape(printable(row.name))}'></iframe>"
    else:
        shown = "<p>There is no preview for this kind of file.</p>"
    body = (
        f"{_crumbs(title, base, path)}<h1>{escape(printable(row.name))}</h1>"
        f"<p class=actions><a href='{url}?download'>Download</a> {readable_size(row.size)} "
        f"{_readable_time(row.mtime)}</p><div class=preview>{shown}</div>"
    )
    return _page(row.name, base, body)


def is_text(kind: str) -> bool:
    """Whether a preview may show this MIME type as plain text."""
    return kind.startswith("text/") or kind in {
        "application/json",
        "application/xml",
        "application/javascript",
        "application/x-sh",
        "application/toml",
        "application/yaml",
    }


def error_page(title: str, base: str, message: str) -> str:
    """A page that says one sentence."""
    return _page(title, base, f"{_crumbs(title, base, '')}<h1>{escape(message)}</h1>")
