"""Text of others on a terminal: file names, titles and errors can't move its cursor or turn text around."""

from __future__ import annotations

import logging

_JOINERS = "\u200c\u200d"
"""They shape letters and pictures and move nothing."""


def shown(text: str, keep: str = "") -> str:
    r"""``text`` with what does not print as ``\x1b`` and the like, except for the characters ``keep``."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in _JOINERS or c in keep else c.encode("unicode_escape").decode()
        for c in text
    )


class SafeFormatter(logging.Formatter):
    """Log lines that nobody else's names can break."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = shown(record.message)
        return super().formatMessage(record)
