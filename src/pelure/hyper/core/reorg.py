"""Following a core to a newer fork: how far the new tree agrees with the one held here (HYPER-FACTS §12).

The proof of a fork names only the roots of the new tree. What lies before the first block that changed is
worth keeping; :class:`Reorg` finds that block by asking for branches of the new tree, several at a time, each
of which shows the hashes of all subtrees beside it. Those of the old tree are at hand.
"""

from __future__ import annotations

from pelure.errors import ProtocolError
from pelure.hyper.core import flat_tree, proof
from pelure.hyper.core.changes import ChangeKind
from pelure.hyper.core.exchange import verifier_for
from pelure.hyper.core.state import CoreState
from pelure.hyper.core.tree import TreeBatch
from pelure.hyper.wire.messages import Data
from pelure.hyper.wire.parts import HashRequest

BRANCHES = 16
"""How many branches are asked for at a time: so many times smaller is the part that is in question then."""


class Reorg:
    """A tree of a newer fork, signed, and compared with that of ``state``."""

    def __init__(self, state: CoreState, data: Data) -> None:
        """``data`` proves the tree; raises :class:`~pelure.errors.ProtocolError` if it does not."""
        upgrade = data.upgrade
        if upgrade is None or upgrade.start:
            raise ProtocolError("upgrade to a new fork does not start at the beginning")
        self._state = state
        self._signature = upgrade.signature
        self._verifier = verifier_for(state, data)
        self.tree = TreeBatch([], 0, data.fork)
        self.old_fork = state.fork
        proof.verify_upgrade(self.tree, upgrade, None, self._verifier.manifest.prologue)
        self._verifier.verify(self.tree, upgrade.signature)
        self._nodes = {node.index: node for node in self.tree.nodes}
        self._at = self._first_changed_root()
        self.shared: int | None = None
        """The number of blocks that both trees begin with, once it is known."""
        self._narrow()

    def _first_changed_root(self) -> int:
        for root in self.tree.roots:
            if self._state.get_node(root.index) != root:
                return root.index
        return 2 * self.tree.length

    def _narrow(self) -> None:
        """Go down from ``_at``, before which all is shared, as far as nodes of both trees are known."""
        end = 2 * self._state.length
        while self.shared is None:
            left = flat_tree.left_child(self._at)
            inside = flat_tree.right_span(self._at) < end
            nothing_held = inside and self._state.get_node(left) is None
            if self._at & 1 == 0 or flat_tree.left_span(self._at) >= end or nothing_held:
                self.settle()
            elif left not in self._nodes:
                return
            elif self._state.get_node(left) == self._nodes[left]:
                self._at = flat_tree.right_child(self._at)
            else:
                self._at = left

    def settle(self) -> None:
        """Find no more out: give up what is not known to be shared."""
        self.shared = flat_tree.left_span(self._at) // 2

    def wanted(self) -> list[HashRequest]:
        """Branches to ask for, from single blocks up to a node that is known; none once it is settled."""
        if self.shared is not None:
            return []
        first = flat_tree.left_span(self._at) // 2
        last = min(flat_tree.right_span(self._at) // 2, self._state.length)
        step = max(1, -(-(last - first) // (BRANCHES - 1)))
        blocks = {*range(first, last, step), last}
        return [HashRequest(2 * block, flat_tree.depth(self._at)) for block in sorted(blocks)]

    def add(self, data: Data) -> None:
        """Take a branch. Raises :class:`~pelure.errors.ProtocolError` if it is not of the new tree."""
        root, nodes = proof.verify_branch(data)
        if root is None or self._nodes.get(root.index) != root:
            raise ProtocolError("proof does not lead to a known tree node of the new fork")
        self._nodes.update((node.index, node) for node in nodes)
        self._narrow()

    def apply(self) -> None:
        """Take the new tree over, and forget all blocks and nodes of the old one that it does not share.

        They are durable soon after. Needs :attr:`shared` to be known.
        """
        state, before = self._state, self._state.length
        assert self.shared is not None
        state.drop_blocks(self.shared, before)
        state.drop_nodes(self.shared)
        state.storage.put_nodes(self._nodes.values())
        if state.verifier is None:
            state.set_manifest(self._verifier.manifest)
        state.truncations.append((self.tree.fork, self.shared))
        state.save(self.tree, self._signature)
        state.storage.store.commit_soon(0)
        state.emit(ChangeKind.TRUNCATE, self.shared, before - self.shared)
        state.emit(ChangeKind.UPGRADE, self.shared, self.tree.length - self.shared)
