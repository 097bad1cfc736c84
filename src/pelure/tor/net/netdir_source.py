"""Who needs to know the network, and when it changes: :class:`NetDirSource`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pelure.errors import DirectoryError
from pelure.tor.directory.netdir import NetDir


class NetDirSource(Protocol):
    """Has the newest usable network directory; the directory client implements it.

    ``netdir`` is None before there is any; each of ``on_change`` is called with every new one.
    """

    netdir: NetDir | None
    on_change: list[Callable[[NetDir], None]]


def current_netdir(source: NetDirSource) -> NetDir:
    """The newest network directory. Raises ``DirectoryError`` before there is any."""
    if source.netdir is None:
        raise DirectoryError("the network's directory is not known yet")
    return source.netdir
