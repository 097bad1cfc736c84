"""Two signed trees of one core, at one fork, that contradict each other (HYPER-FACTS §12).

That happens when a secret key is used in two places, or with an old copy of its store. Who sees both trees
can prove it to anyone: npm hypercore calls this a *conflict*, stops using the core, and shows its peers the
proof.
"""

from __future__ import annotations

from pelure.errors import ProtocolError
from pelure.hyper.core import flat_tree, proof
from pelure.hyper.core.signer import Verifier
from pelure.hyper.core.state import CoreState
from pelure.hyper.core.tree import NotAvailable, TreeBatch
from pelure.hyper.wire.messages import Data, Request
from pelure.hyper.wire.parts import DataHash, HashRequest, Node


def contradicts(state: CoreState, data: Data) -> bool:
    """Whether ``data``, the proof of a whole tree, shows that another one than that held here was signed.

    It does not if it is of another fork, or has no tree node in common with what is held here. Raises
    :class:`~pelure.errors.ProtocolError` for a proof that does not verify.
    """
    upgrade, verifier = data.upgrade, state.verifier
    if data.fork != state.fork or upgrade is None or upgrade.start or verifier is None:
        return False
    other = TreeBatch([], 0, data.fork)
    proof.verify_upgrade(other, upgrade, None, verifier.manifest.prologue)
    verifier.verify(other, upgrade.signature)
    state.make_durable()
    for node in other.nodes:
        held = state.get_node(node.index)
        if held is not None and held != node:
            return _is_signed(state, verifier, held)
    return False


def _is_signed(state: CoreState, verifier: Verifier, node: Node) -> bool:
    """Whether ``node`` belongs to the tree whose signature is held here, and was not damaged on the disk."""
    index, climb = node.index, 0
    while not flat_tree.contains(flat_tree.parent(index), 2 * state.length):
        index, climb = flat_tree.parent(index), climb + 1
    request = Request(0, state.fork, hash=HashRequest(node.index, climb))
    try:
        nodes = proof.make(state.get_node, state.length, request).branch or []
        root, _ = proof.verify_branch(Data(0, state.fork, hash=DataHash(node.index, nodes)))
        verifier.verify(state.batch(), state.signature)
    except (NotAvailable, ProtocolError):
        return False
    return root in state.roots
