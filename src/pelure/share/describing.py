"""Links and shares as events and listings tell of them."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

from pelure.share.linkbook import Entry, LinkBook
from pelure.share.record import SHARES_NAME, load_all


def link_fields(entry: Entry) -> dict[str, Any]:
    """What the event ``link`` tells; the address and key for Tor Browser only where it is for one."""
    link = entry.private_link()
    fields: dict[str, Any] = {"name": entry.name, "link": entry.link, "expires": entry.expires}
    if entry.browser:
        fields["address"] = f"http://{link.address}/"
        fields["auth_key"] = browser_key(link.discovery_secret)
    return fields


def browser_key(secret: bytes) -> str:
    """An X25519 secret as Tor Browser asks for it: base 32 without padding."""
    return base64.b32encode(secret).decode().rstrip("=")


def describe_shares(folder: Path, book: LinkBook, running: set[str]) -> list[dict[str, Any]]:
    """All shares in a publisher's folder, for listings."""
    return [
        {
            "share": record.id,
            "title": record.title,
            "paths": record.paths,
            "running": record.id in running,
            "start_at": record.start_at if record.start_at and record.start_at > time.time() else None,
            "live": record.live,
            "detached": record.detached,
            "links": len(book.live(record.id)),
        }
        for record in load_all(folder / SHARES_NAME).values()
    ]
