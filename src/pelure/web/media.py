"""What kind of content a file is, by its name alone and the same on every machine."""

from __future__ import annotations

import mimetypes

PREVIEW_IMAGES = {"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp"}
"""Images that a browser shows and that can't contain a script."""
PREVIEW_TEXT_LIMIT = 2 << 20
"""Bytes of the largest text that is shown."""
_TEXT_APPLICATIONS = {
    "application/json",
    "application/xml",
    "application/javascript",
    "application/x-sh",
    "application/x-tex",
}
_TYPES = mimetypes.MimeTypes()  # without the files of this system, which differ
for _kind, _endings in {
    "image/webp": "webp",
    "audio/flac": "flac",
    "audio/mp4": "m4a",
    "audio/ogg": "ogg oga opus",
    "audio/wav": "wav",
    "video/ogg": "ogv",
    "video/x-matroska": "mkv",
    "text/markdown": "md",
    "text/plain": "log ini cfg conf rst org rs go java ts lua rb pl sql diff patch yaml yml toml srt",
}.items():
    for _ending in _endings.split():
        _TYPES.add_type(_kind, f".{_ending}")
_TEXT_NAMES = {"readme", "license", "licence", "copying", "authors", "changelog", "makefile", "dockerfile"}


def media_type(name: str) -> str:
    """The MIME type by the file's name."""
    if name.lower() in _TEXT_NAMES:
        return "text/plain"
    kind, encoding = _TYPES.guess_type(name)
    return kind if kind is not None and encoding is None else "application/octet-stream"


def is_text(kind: str) -> bool:
    """Whether a preview may show this MIME type as plain text."""
    return kind.startswith("text/") or kind in _TEXT_APPLICATIONS
