"""Shared drives that came to their end: two histories were signed with their key (HYPER-FACTS §12).

Such a *conflict* ends a drive for all who know of it. Its publisher opens it to nobody any more, and who asks
for it then must not take that for an empty folder.
"""

from __future__ import annotations

from collections.abc import Callable

from pelure.errors import ConflictError, DriveError
from pelure.hyper.core.changes import Change, ChangeKind
from pelure.hyper.core.core import Core
from pelure.hyper.drive.drive import Drive

NOT_SERVED = (
    "the publisher does not serve this drive any more, perhaps because two different histories are signed "
    "with its key: its owner has to make a new share"
)


def watch_conflicts(core: Core, tell: Callable[[ConflictError], None]) -> None:
    """Have ``tell`` called when it comes to light that the core has two histories."""

    def changed(change: Change) -> None:
        if change.kind is ChangeKind.CONFLICT:
            try:
                core.check_usable()
            except ConflictError as error:
                tell(error)

    core.on_change(changed)


async def newest(drive: Drive) -> None:
    """Learn of the drive's newest version; waits for peers for as long as it takes.

    Raises ``DriveError`` if there are peers and none of them serves the drive; ``ConflictError`` if it can't
    be trusted any more.
    """
    await drive.update(wait=True)
    replicator = drive.core.replicator
    if replicator is not None and replicator.links and not any(peer.opened for peer in replicator.peers):
        raise DriveError(NOT_SERVED)
