"""Private links to drives over onion circuits: docs/private-link.md; the API: :mod:`pelure.share.api`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pelure.share.api import Blocking, Published, open_link, publish

__all__ = ["Blocking", "Published", "open_link", "publish"]


def __getattr__(name: str) -> Any:
    """Load the API when it is first used."""
    if name in __all__:
        from pelure.share import api

        return getattr(api, name)
    raise AttributeError(f"module 'pelure.share' has no attribute {name!r}")
