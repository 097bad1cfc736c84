"""What a share is, on disk: ``share.json`` in the share's own folder, mode 0600.

The folder also holds the drive's store (``store``) and the onion services' keys (``services``).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pelure.errors import ConfigError, LinkFormatError
from pelure.share.link import PrivateLink
from pelure.tor.net.statefile import private_folder, write_private

SHARES_NAME = "shares"
"""The folder, in the publisher's, that has a folder for each share."""
RECORD_NAME = "share.json"
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


def publisher_folder(state: Path, network: str) -> Path:
    """The folder of all that is published on ``network`` (as ``--network`` names it)."""
    if network in ("public", "embedded"):
        label = network
    else:
        label = "private-" + hashlib.sha256(str(Path(network).absolute()).encode()).hexdigest()[:12]
    return state / "publisher" / label


@dataclass
class ShareRecord:
    """One share. ``paths``: what is shared, absolute; ``content_key``: 32 bytes in hex.

    Times are seconds since 1970.
    """

    id: str
    title: str
    paths: list[str]
    content_key: str = field(repr=False)
    drive_key: str = ""
    live: bool = False
    once: bool = False
    detached: bool = False
    start_at: float | None = None
    stop_at: float | None = None

    @classmethod
    def of(cls, shares: Path, paths: list[Path], title: str | None, **settings: Any) -> ShareRecord:
        """The share of just these ``paths`` in folder ``shares``, with other ``settings``; or a new one.

        Raises ``ConfigError`` for paths that can't be shared.
        """
        wanted = [str(path.absolute()) for path in paths]
        for record in load_all(shares).values():
            if record.paths == wanted:
                return replace(record, title=title or record.title, **settings)
        return cls._new(shares, paths, title, **settings)

    @classmethod
    def _new(cls, shares: Path, paths: list[Path], title: str | None, **settings: Any) -> ShareRecord:
        for path in paths:
            if not path.exists():
                raise ConfigError(f"there is nothing at {path}")
            if not (path.is_file() or path.is_dir()):
                raise ConfigError(f"{path} is neither a file nor a folder")
            if not os.access(path, os.R_OK):
                raise ConfigError(f"{path} may not be read")
        names = [path.name for path in paths]
        if len(paths) > 1 and len(set(names)) < len(names):
            raise ConfigError("two of the paths have the same name; share them one by one")
        shown = title or paths[0].resolve().name or "share"
        stem = re.sub(r"[^a-z0-9]+", "-", shown.lower()).strip("-")[:30] or "share"
        number, chosen = 1, stem
        while (shares / chosen).exists():
            number += 1
            chosen = f"{stem}-{number}"
        return cls(
            id=chosen,
            title=shown,
            paths=[str(path.absolute()) for path in paths],
            content_key=secrets.token_hex(32),
            **settings,
        )

    def save(self, folder: Path) -> None:
        """Write ``share.json`` into ``folder``, atomically."""
        private_folder(folder)
        write_private(folder / RECORD_NAME, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> ShareRecord:
        """Read a share's record. Raises ``ConfigError`` if it is damaged."""
        try:
            values = json.loads((folder / RECORD_NAME).read_bytes())
            record = cls(**values)
            if not _ID.fullmatch(record.id) or len(bytes.fromhex(record.content_key)) != 32:
                raise ValueError("bad id or key")
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"the share in {folder} is damaged ({error})") from None
        return record


def load_all(shares: Path) -> dict[str, ShareRecord]:
    """All shares in folder ``shares`` by id; damaged ones are passed over."""
    found = {}
    for folder in sorted(shares.glob("*/")):
        if (folder / RECORD_NAME).exists():
            try:
                record = ShareRecord.load(folder)
            except ConfigError:
                continue
            found[record.id] = record
    return found


def find_own(shares: Path, text: str) -> ShareRecord | None:
    """The share in folder ``shares`` that ``text`` names, by its id or by one of its links; or None."""
    records = load_all(shares)
    if text in records:
        return records[text]
    try:
        key = PrivateLink.decode(text).drive_key.hex()
    except LinkFormatError:
        return None
    return next((record for record in records.values() if record.drive_key == key), None)
