"""Paths in a drive, and the ranges of keys that folders are (HYPER-FACTS §15)."""

from __future__ import annotations

import re

from pelure.errors import DriveError
from pelure.hyper.bee.walk import Range

_SEPARATORS = re.compile(r"[/\\]")
_NORMAL = re.compile(r"(?:/(?!\.\.?(?:/|\Z))[^/\\]+)+")
_MAX_PATH = 32768


def _parts(path: str) -> tuple[list[str], bool]:
    """The parts of a path, and whether it is absolute; drive letters and URL beginnings are dropped."""
    parts = _SEPARATORS.split(path)
    if len(parts) > 1 and parts[0].endswith(":"):
        keep = 1 if len(parts[0]) == 2 or parts[0] == "file:" else 3
        return parts[keep:], True
    return parts, path[:1] in ("/", "\\") and path != ""


def _join(base: list[str], parts: list[str]) -> str:
    done: list[str] = []
    for part in [*base, *parts]:
        if part == "..":
            if not done:
                raise DriveError("the path leads out of the drive: too many '..'")
            done.pop()
        elif part not in ("", "."):
            done.append(part)
    return "/" + "/".join(done)


def resolve(base: str, path: str) -> str:
    """The path that ``path`` names seen from ``base``: absolute, without ``.`` and ``..``.

    Raises :class:`~pelure.errors.DriveError` if it leads above the root.
    """
    parts, absolute = _parts(path)
    return _join([] if absolute else _parts(base)[0], parts)


def normalize(path: str) -> str:
    """The drive's form of a file's path. Raises :class:`~pelure.errors.DriveError` for no valid name."""
    if len(path) > _MAX_PATH:
        raise DriveError("the path is too long")
    found = path if _NORMAL.fullmatch(path) else resolve("/", path)
    if found == "/":
        raise DriveError("a file's path can't be the root folder")
    if not is_utf8(found):
        raise DriveError(f"{found!r} is not a name that UTF-8 can hold; rename the file")
    return found


def is_utf8(text: str) -> bool:
    """Whether ``text`` can be written in UTF-8: names of files can have bytes that are not."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_normal(path: str) -> bool:
    """Whether ``path`` is as a drive's writer writes it; any other can't be asked for."""
    return len(path) <= _MAX_PATH and _NORMAL.fullmatch(path) is not None


def folder_key(folder: str) -> str:
    """The folder's path without a trailing slash; the root is empty."""
    found = resolve("/", folder)
    return "" if found == "/" else found


def folder_range(folder: str) -> Range:
    """The keys of everything below ``folder``."""
    prefix = folder_key(folder).encode()
    return Range(gt=prefix + b"/", lt=prefix + b"0")
