"""Which files of a folder are left out: patterns as in ``.gitignore``, one a line, in ``.pelureignore``.

``#`` begins a comment, ``!`` takes files back in, ``/`` at the beginning ties a pattern to the folder, ``/``
at the end makes it fit folders only, ``*`` and ``?`` fit within one name, ``**`` over any number of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

IGNORE_FILE = ".pelureignore"

_TOKENS = re.compile(r"\*\*/|/\*\*$|\*\*|\*|\?|\[!?\]?[^\]/]*\]|.", re.DOTALL)
_MEANING = {"**/": "(?:.*/)?", "/**": "/.*", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def _translate(pattern: str) -> str:
    out = []
    for token in _TOKENS.findall(pattern):
        if token in _MEANING:
            out.append(_MEANING[token])
        elif token.startswith("[") and len(token) > 2:
            inside = token[1:-1]
            negated = inside.startswith("!")
            out.append(
                "[" + ("^/" if negated else "") + re.escape(inside[negated:]).replace(r"\-", "-") + "]"
            )
        else:
            out.append(re.escape(token))
    return "".join(out)


class IgnoreRules:
    """An ordered list of patterns; the last one that fits decides."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._rules: list[tuple[re.Pattern[str], bool, bool]] = []
        for line in lines:
            self._add(line.rstrip())

    def _add(self, pattern: str) -> None:
        if not pattern or pattern.startswith("#"):
            return
        ignored = not pattern.startswith("!")
        pattern = pattern.lstrip("!") if not ignored else pattern
        folders_only = pattern.endswith("/")
        pattern = pattern.rstrip("/")
        anchored = "/" in pattern
        body = _translate(pattern.lstrip("/"))
        try:
            compiled = re.compile(body if anchored else "(?:.*/)?" + body, re.DOTALL)
        except re.error:
            return  # as git does: a pattern that makes no sense fits nothing
        self._rules.append((compiled, ignored, folders_only))

    @classmethod
    def of(cls, folder: Path) -> IgnoreRules:
        """The rules in the folder's ignore file, if it has one; the file itself is left out, too."""
        try:
            lines = (folder / IGNORE_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            lines = []
        return cls(["/" + IGNORE_FILE, *lines])

    def ignores(self, path: str, is_folder: bool = False) -> bool:
        """Whether a drive's ``path`` is left out; a file in a folder that is left out is, too."""
        parts = path.strip("/").split("/")
        for end in range(1, len(parts) + 1):
            part = "/".join(parts[:end])
            if self._decide(part, is_folder or end < len(parts)):
                return True
        return False

    def _decide(self, path: str, is_folder: bool) -> bool:
        decision = False
        for compiled, ignored, folders_only in self._rules:
            if (is_folder or not folders_only) and compiled.fullmatch(path):
                decision = ignored
        return decision
