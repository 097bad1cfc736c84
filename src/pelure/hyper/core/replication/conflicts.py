"""Peers whose answers do not verify: they lie, or hold another tree that the writer signed (HYPER-FACTS §12).

Which of the two, the peer is asked with request number 0: for the proof of the whole tree, as far as both
sides know one. If that verifies and contradicts the local tree, the core is given up, and all its peers are
shown both proofs; anyone else who can't clear himself is dropped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from pelure.errors import ProtocolError
from pelure.hyper.core.replication.local import LocalCore
from pelure.hyper.core.replication.peer import Peer
from pelure.hyper.wire import messages as m
from pelure.hyper.wire.parts import UpgradeRequest

log = logging.getLogger(__name__)

PROOF = 0
"""The number of requests and answers that are about a conflict; all others count from 1."""
ANSWER_SECONDS = 20.0
"""How long a suspect may take."""
MAX_POINTLESS_PROOFS = 16
"""Of the very tree that is held here: each is checked, which takes time, and nobody asked for it."""


def suspect(core: LocalCore, peer: Peer, error: ProtocolError) -> None:
    """``peer`` sent data that does not verify: ask for its proof, or drop it if there can be none."""
    length = min(core.length, peer.remote.length)
    if peer.suspected is not None or peer.remote.fork != core.fork or not length:
        drop(peer, error)
        return
    log.warning("a peer sent data that does not verify (%s); asking whether there are two histories", error)
    peer.suspected = (error, time.monotonic() + ANSWER_SECONDS)
    peer.send(m.Request(PROOF, core.fork, upgrade=UpgradeRequest(0, length)))


def proof_came(core: LocalCore, peer: Peer, data: m.Data | None) -> None:
    """``peer`` answered (``None``: it has no proof), or shows on its own account that there is a conflict."""
    try:
        proven = data is not None and core.check_conflict(data)
    except ProtocolError as error:
        drop(peer, error)
        return
    if proven:
        return
    if peer.suspected is not None:
        drop(peer, peer.suspected[0])
    elif data is not None:
        peer.pointless_proofs += 1
        if peer.pointless_proofs > MAX_POINTLESS_PROOFS:
            drop(peer, ProtocolError("the other side proves the tree again and again"))


def drop(peer: Peer, error: ProtocolError) -> None:
    """End the stream of a peer that lies."""
    log.warning("a peer sent data that does not verify, and was dropped: %s", error)
    peer.link.fail(error)


def drop_silent(peers: Sequence[Peer]) -> None:
    """Drop suspects that have had their time."""
    for peer in peers:
        if peer.suspected is not None and time.monotonic() > peer.suspected[1]:
            drop(peer, peer.suspected[0])


def tell(core: LocalCore, peers: Sequence[Peer]) -> None:
    """Show the peers both trees, so that they see the conflict whichever of them they have."""
    for peer in peers:
        length = min(core.length, peer.remote.length)
        if core.conflict is None or peer.remote.fork != core.fork or not length:
            continue
        own = core.proof(m.Request(PROOF, core.fork, upgrade=UpgradeRequest(0, length)))
        for proof in (own, core.conflict):
            if proof is not None:
                peer.send(proof)
