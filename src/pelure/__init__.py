"""pelure: private file and web sharing over anonymous rendezvous.

``pelure.connect`` (a network), ``pelure.open`` (a private link) and ``pelure.share.publish`` are where
programs begin; see examples/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pelure.share.api import open_link as open
    from pelure.tor.api import Tor, connect

__all__ = ["Tor", "connect", "open"]


def __getattr__(name: str) -> Any:
    """Load the API when it is first used: most of pelure works without it."""
    if name == "open":
        from pelure.share.api import open_link

        return open_link
    if name in __all__:
        from pelure.tor import api

        return getattr(api, name)
    raise AttributeError(f"module 'pelure' has no attribute {name!r}")
