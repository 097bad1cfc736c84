"""What a reader keeps: the links it was given, and for each drive a cache of verified blocks."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from pathlib import Path

from pelure.errors import ConfigError
from pelure.share.link import SCHEME, PrivateLink, printable
from pelure.share.linkbook import Entry, LinkBook


def cache_folder(state: Path, link: PrivateLink) -> Path:
    """Where blocks of this link's drive are kept."""
    return state / "reader" / hashlib.sha256(link.drive_key).hexdigest()[:24]


def folder_name(link: PrivateLink) -> str:
    """A safe name for a folder to fetch into, from the share's title."""
    name = re.sub(r"[^\w .()+-]", "_", printable(link.title)).strip(" .")
    return name or "share"


def find_link(book: LinkBook, text: str) -> PrivateLink:
    """The link that ``text`` is, or the received one that has this name in the book.

    Raises ``LinkFormatError`` or ``ConfigError``.
    """
    if text.strip()[: len(SCHEME)].lower() == SCHEME:
        return PrivateLink.decode(text)
    try:
        return book.find(text, "").private_link()
    except ConfigError:
        if re.fullmatch(r"[A-Za-z0-9]{100,}", text):  # a link whose first part got lost
            return PrivateLink.decode(text)
        raise


def remember(book: LinkBook, link: PrivateLink) -> Entry:
    """Keep a link that was used in the book, under its share's title; note its use."""
    text = link.encode()
    received = book.entries("")
    for entry in received:
        if entry.link == text or (entry.link and PrivateLink.decode(entry.link).secret == link.secret):
            return book.change(entry, link=text, expires=link.expires, last_use=time.time())
    names = {entry.name for entry in received if entry.revoked is None}
    stem = folder_name(link)[:60]
    name, number = stem, 2
    while name in names:
        name, number = f"{stem} ({number})", number + 1
    book.add([Entry(0, "", name, text, False, "", time.time(), link.expires, last_use=time.time())])
    return book.find(name, "")


def forget(book: LinkBook, state: Path, name: str) -> Entry:
    """Delete the received link of this name, and what was fetched through it; return it.

    Raises ``ConfigError`` if there is none.
    """
    entry = book.find(name, "")
    link = entry.private_link()
    book.forget(entry)
    others = (other.private_link() for other in book.entries("") if other.link)
    if all(other.drive_key != link.drive_key for other in others):
        cache = cache_folder(state, link)
        for folder in (cache, *cache.parent.glob(f"{cache.name}-*")):
            shutil.rmtree(folder, ignore_errors=True)
    return entry
