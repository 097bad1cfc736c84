"""The link book that a command reads and changes."""

from __future__ import annotations

from pelure.cli.run import Settings
from pelure.share.linkbook import BOOK_NAME, LinkBook
from pelure.share.record import publisher_folder


def open_book(settings: Settings) -> LinkBook:
    """The link book of the chosen network."""
    return LinkBook(publisher_folder(settings.state, settings.network) / BOOK_NAME)
