"""pelure: private file and web sharing over anonymous rendezvous.

``pelure.connect`` is where programs begin; see examples/ and ``pelure.tor.api``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pelure.tor.api import Tor, connect

__all__ = ["Tor", "connect"]


def __getattr__(name: str) -> Any:
    """Load the API when it is first used: most of pelure works without it."""
    if name in __all__:
        from pelure.tor import api

        return getattr(api, name)
    raise AttributeError(f"module 'pelure' has no attribute {name!r}")
