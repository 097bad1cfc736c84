"""Extensions: messages of an application's own on a Hypercore channel (message 9, HYPER-FACTS section 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pelure.hyper.core.replication.peer import Peer
    from pelure.hyper.core.replication.replicator import Replicator


class Extension:
    """One named extension of a core; made by :meth:`Replicator.extension`."""

    def __init__(self, replicator: Replicator, name: str, on_message: Callable[[bytes, Peer], None]) -> None:
        self.name = name
        self.on_message = on_message
        self._replicator = replicator

    def send(self, message: bytes, peer: Peer) -> None:
        """Send ``message`` to one peer."""
        peer.send_extension(self.name, message)

    def broadcast(self, message: bytes) -> None:
        """Send ``message`` to every peer of the core."""
        for peer in self._replicator.peers:
            self.send(message, peer)

    def destroy(self) -> None:
        """Stop receiving."""
        self._replicator.extensions.pop(self.name, None)
