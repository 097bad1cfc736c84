"""The link book: every private link this machine has minted or received, and what became of it.

A SQLite file of mode 0600, ``secure_delete`` on and no write-ahead log, so that what is wiped leaves no
copy behind. Revoking wipes the link's secret and keeps the row, so that the owner still sees who had what.
Names are unique among the live links of one share; a received link has the share id ``""``.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pelure.errors import ConfigError
from pelure.share.link import PrivateLink, printable
from pelure.tor.net.statefile import private_folder

State = Literal["live", "expired", "revoked"]
BOOK_NAME = "links.sqlite"
MAX_NAME = 80
_SCHEMA = """
CREATE TABLE IF NOT EXISTS links (
    id INTEGER PRIMARY KEY,
    share TEXT NOT NULL,
    name TEXT NOT NULL,
    link TEXT,
    browser INTEGER NOT NULL DEFAULT 0,
    service TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL,
    expires REAL,
    revoked REAL,
    last_use REAL,
    tags TEXT NOT NULL DEFAULT '[]',
    note TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX IF NOT EXISTS live_names ON links (share, name) WHERE revoked IS NULL;
"""


@dataclass(frozen=True)
class Entry:
    """One link of the book. ``link`` is None once it was revoked; times are seconds since 1970."""

    id: int
    share: str
    name: str
    link: str | None = field(repr=False)
    browser: bool
    service: str
    created: float
    expires: float | None = None
    revoked: float | None = None
    last_use: float | None = None
    tags: tuple[str, ...] = ()
    note: str = ""

    @property
    def minted(self) -> bool:
        """True for a link given out, False for one received."""
        return bool(self.share)

    def state(self, now: float | None = None) -> State:
        """Whether the link opens anything at ``now``."""
        if self.revoked is not None:
            return "revoked"
        if self.expires is not None and (time.time() if now is None else now) >= self.expires:
            return "expired"
        return "live"

    def private_link(self) -> PrivateLink:
        """The link itself. Raises ``ConfigError`` if it was revoked, and so wiped."""
        if self.link is None:
            raise ConfigError(f"the link of «{self.name}» was revoked; make a new one with `pelure link add`")
        return PrivateLink.decode(self.link)

    def as_json(self, *, secret: bool = False) -> dict[str, Any]:
        """What ``pelure links --json`` tells; the link itself only if ``secret``."""
        told: dict[str, Any] = {
            "name": self.name,
            "share": self.share,
            "kind": "minted" if self.minted else "received",
            "state": self.state(),
            "browser": self.browser,
            "created": self.created,
            "expires": self.expires,
            "revoked": self.revoked,
            "last_use": self.last_use,
            "tags": list(self.tags),
            "note": self.note,
        }
        if secret:
            told["link"] = self.link
        return told


def check_name(name: str) -> str:
    """``name`` as it will be kept. Raises ``ConfigError`` for an empty, long or unprintable one."""
    clean = name.strip()
    if not clean or len(clean) > MAX_NAME or printable(clean) != clean:
        raise ConfigError(f"a link's name has 1 to {MAX_NAME} printable characters")
    return clean


class LinkBook:
    """The open book; a context manager. A running node and commands beside it may have it open at once."""

    def __init__(self, path: Path) -> None:
        private_folder(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA secure_delete = ON")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter for what is in a message
            if isinstance(error, sqlite3.OperationalError):  # a full disk, another process that locks it
                raise ConfigError(f"the link book {path} can't be used: {error}") from error
            raise ConfigError(f"the link book {path} is damaged ({error}); restore it from a copy") from error

    def _do(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows that ``statement`` gives. Raises ``ConfigError`` if the file can't be read or written."""
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.IntegrityError:
            raise
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise ConfigError(f"the link book can't be used: {error}") from error

    def close(self) -> None:
        """Close the file; idempotent."""
        self._db.close()

    def __enter__(self) -> LinkBook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, entries: Iterable[Entry]) -> None:
        """Write new entries (their ``id`` is ignored), all or none.

        Raises ``ConfigError`` if a name is already used by a live link of the same share.
        """
        self._do("BEGIN IMMEDIATE")
        try:
            for entry in entries:
                self._do(
                    "INSERT INTO links (share, name, link, browser, service, created, expires, revoked,"
                    " last_use, tags, note) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        entry.share,
                        check_name(entry.name),
                        entry.link,
                        entry.browser,
                        entry.service,
                        entry.created,
                        entry.expires,
                        entry.revoked,
                        entry.last_use,
                        json.dumps(entry.tags),
                        entry.note,
                    ),
                )
            self._do("COMMIT")
        except sqlite3.IntegrityError:
            self._roll_back()
            raise self._name_is_taken(entry.name) from None
        except BaseException:
            self._roll_back()
            raise

    @staticmethod
    def _name_is_taken(name: str) -> ConfigError:
        return ConfigError(f"there is a live link named «{name}» already; choose another name")

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # SQLite ends it by itself when the disk is full
            self._do("ROLLBACK")

    def entries(self, share: str | None = None) -> list[Entry]:
        """All entries, oldest first; of one share only, if given (``""``: the received ones)."""
        return list(self._select("1" if share is None else "share = ?", () if share is None else (share,)))

    def live(self, share: str, now: float | None = None) -> list[Entry]:
        """The entries of ``share`` that are neither revoked nor expired."""
        return [entry for entry in self.entries(share) if entry.state(now) == "live"]

    def find(self, name: str, share: str | None = None) -> Entry:
        """The link of this name that is not revoked. Raises ``ConfigError`` if none, or several, have it."""
        found = [e for e in self.entries(share) if e.name == name and e.revoked is None]
        if not found:
            known = any(e.name == name for e in self.entries(share))
            raise ConfigError(
                f"the link «{name}» was revoked already"
                if known
                else f"no link is named «{name}»; see `pelure links`"
            )
        if len(found) > 1:
            shares = ", ".join(e.share or "received" for e in found)
            raise ConfigError(f"several links are named «{name}» (shares {shares}): say which with --share")
        return found[0]

    def find_minted(self, name: str, share: str | None = None) -> Entry:
        """As :meth:`find`, of the links made here. Raises ``ConfigError``, also for a received one."""
        minted = [e for e in self.entries(share) if e.minted and e.name == name and e.revoked is None]
        if len(minted) == 1:
            return minted[0]
        found = self.find(name, share)
        raise ConfigError(
            f"«{found.name}» was given to you: only who shares it can do that. "
            f"`pelure link forget` takes it out of your link book"
        )

    def search(self, words: str) -> list[Entry]:
        """Entries whose name, tags, note or share contain every one of ``words``, in any case."""
        wanted = words.casefold().split()

        def text(entry: Entry) -> str:
            return " ".join((entry.name, entry.share, entry.note, *entry.tags)).casefold()

        return [entry for entry in self.entries() if all(word in text(entry) for word in wanted)]

    def change(self, entry: Entry, **values: Any) -> Entry:
        """``entry`` with other ``values``, which are written; what other processes wrote meanwhile stays.

        Raises ``ConfigError`` if the link was revoked meanwhile, or another live one of its share has its
        new name.
        """
        changed = replace(entry, **values)
        columns = {name: getattr(changed, name) for name in values}
        if "name" in columns:
            columns["name"] = check_name(changed.name)
        if "tags" in columns:
            columns["tags"] = json.dumps(changed.tags)
        assignments = ", ".join(f"{name}=?" for name in columns)
        try:
            written = self._do(
                f"UPDATE links SET {assignments} WHERE id=? AND revoked IS NULL RETURNING id",
                (*columns.values(), entry.id),
            )
        except sqlite3.IntegrityError:
            raise self._name_is_taken(changed.name) from None
        if not written:
            raise ConfigError(f"the link «{entry.name}» was revoked already")
        return changed

    def revoke(self, entry: Entry, now: float | None = None) -> Entry:
        """Wipe the secret of ``entry`` and mark it revoked."""
        gone = replace(entry, link=None, revoked=time.time() if now is None else now)
        self._do("UPDATE links SET link=NULL, revoked=? WHERE id=?", (gone.revoked, entry.id))
        return gone

    def forget(self, entry: Entry) -> None:
        """Delete a link that was received."""
        self._do("DELETE FROM links WHERE id=?", (entry.id,))

    def used(self, entry_ids: Iterable[int], now: float | None = None) -> None:
        """Note that links were used just now."""
        ids = json.dumps(list(entry_ids))
        self._do(
            "UPDATE links SET last_use=? WHERE id IN (SELECT value FROM json_each(?))",
            (time.time() if now is None else now, ids),
        )

    def forget_share(self, share: str) -> None:
        """Delete every entry of ``share``."""
        self._do("DELETE FROM links WHERE share=?", (share,))

    def _select(self, condition: str, values: tuple[Any, ...]) -> Iterator[Entry]:
        for row in self._do(f"SELECT * FROM links WHERE {condition} ORDER BY id", values):
            try:
                yield _entry(row)
            except (ValueError, TypeError):
                what = f"link {row['id']} in the link book is damaged"
                raise ConfigError(f"{what}; restore {BOOK_NAME} from a copy") from None


def _entry(row: sqlite3.Row) -> Entry:
    """The entry that a row holds. Raises ``ValueError`` or ``TypeError``: SQLite keeps values of any type."""
    columns = dict(row)
    columns["tags"] = tuple(str(tag) for tag in json.loads(columns["tags"]))
    columns["browser"] = bool(columns["browser"])
    entry = Entry(**columns)
    texts = (entry.share, entry.name, entry.service, entry.note, entry.link or "")
    times = (entry.created, entry.expires or 0.0, entry.revoked or 0.0, entry.last_use or 0.0)
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(at, float) for at in times):
        raise TypeError("a column has a value of another type")
    return entry


def export_book(book: LinkBook, *, secrets: bool) -> str:
    """The whole book as JSON text; with the links themselves only if ``secrets``."""
    return json.dumps([e.as_json(secret=secrets) for e in book.entries()], indent=2, ensure_ascii=False)


def import_received(book: LinkBook, text: str | bytes) -> int:
    """Take links from an exported book (those that carry their link) as received ones; return how many.

    Links already known are passed over. Raises ``ConfigError`` for anything that isn't such an export.
    """
    try:
        rows = json.loads(text)
        found = [
            Entry(
                id=0,
                share="",
                name=check_name(str(row["name"])),
                link=PrivateLink.decode(row["link"]).encode(),
                browser=False,
                service="",
                created=time.time(),
                expires=PrivateLink.decode(row["link"]).expires,
                tags=tuple(str(tag) for tag in row.get("tags", [])),
                note=str(row.get("note", "")),
            )
            for row in rows
            if row.get("link")
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ConfigError("this is not a link book that `pelure link export` has written") from None
    known = {entry.link for entry in book.entries()}
    names = {entry.name for entry in book.entries("") if entry.revoked is None}
    fresh = []
    for entry in found:
        if entry.link in known:
            continue
        name, number = entry.name, 2
        while name in names:
            name, number = f"{entry.name[: MAX_NAME - 10]} ({number})", number + 1
        names.add(name)
        known.add(entry.link)
        fresh.append(replace(entry, name=name))
    book.add(fresh)
    return len(fresh)
