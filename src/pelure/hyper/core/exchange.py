"""What a core says to peers and takes from them: answers, and checked additions (HYPER-FACTS §11, §12).

Nothing of an answer is stored before all of it is verified: the branch against a node that is trusted already
or against the upgrade it came with, the upgrade against the signature, the manifest against the key.
"""

from __future__ import annotations

from pelure.errors import ProtocolError
from pelure.hyper.core import flat_tree, proof
from pelure.hyper.core.changes import ChangeKind
from pelure.hyper.core.manifest import Manifest
from pelure.hyper.core.signer import Verifier
from pelure.hyper.core.state import CoreState
from pelure.hyper.core.tree import NotAvailable, TreeBatch
from pelure.hyper.wire.messages import Data, Request
from pelure.hyper.wire.parts import DataBlock, DataHash, DataSeek, DataUpgrade, Node, UpgradeRequest


def answer(state: CoreState, request: Request) -> Data:
    """The answer to ``request``.

    Raises :class:`~pelure.hyper.core.tree.NotAvailable` for what is not held here (or is of another fork) and
    :class:`~pelure.errors.ProtocolError` for a request that makes no sense.
    """
    if request.fork != state.fork:
        raise NotAvailable(f"the core is at fork {state.fork}, not {request.fork}")
    data = Data(request.id, state.fork)
    if request.manifest and state.manifest is not None:
        data.manifest = state.manifest.encode()
    if not (request.block or request.hash or request.seek or request.upgrade) or not state.length:
        return data
    state.make_durable()
    request = _cover_prologue(state, request)
    nodes = proof.make(state.get_node, state.length, request)
    if request.block is not None:
        block = state.get_stored(request.block.index)
        if block is None:
            raise NotAvailable(f"block {request.block.index} is not held here")
        data.block = DataBlock(request.block.index, block, nodes.branch or [])
    elif request.hash is not None:
        data.hash = DataHash(request.hash.index, nodes.branch or [])
    if request.seek is not None and nodes.seek is not None:
        data.seek = DataSeek(request.seek.bytes, nodes.seek)
    if request.upgrade is not None:
        start, length = request.upgrade.start, request.upgrade.length
        data.upgrade = DataUpgrade(start, length, nodes.upgrade, nodes.additional, state.signature)
    return data


def _cover_prologue(state: CoreState, request: Request) -> Request:
    prologue = state.manifest.prologue if state.manifest is not None else None
    upgrade = request.upgrade
    if prologue is None or upgrade is None or upgrade.start >= prologue.length:
        return request
    covering = UpgradeRequest(0, prologue.length)
    return Request(
        request.id, request.fork, request.block, request.hash, request.seek, covering, request.manifest
    )


class Received:
    """What a run of answers brought: new blocks, and how many bytes were stored."""

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self.size = 0

    def finish(self, state: CoreState) -> None:
        """Once for the run: store the bitfield, have all of it committed soon, and tell the listeners."""
        if self.blocks:
            state.save_bitfield()
        state.storage.store.commit_soon(self.size)
        self.blocks.sort()
        start = end = -1
        for index in self.blocks:
            if index != end:
                if end > start:
                    state.emit(ChangeKind.HAVE, start, end - start)
                start = index
            end = index + 1
        if end > start:
            state.emit(ChangeKind.HAVE, start, end - start)


def apply(state: CoreState, data: Data, received: Received) -> None:
    """Verify an answer and store what it brings; :meth:`Received.finish` ends a run of such calls.

    An answer that was right once but is of no use now (for a shorter tree, or an earlier fork) is left out.
    Raises :class:`~pelure.errors.ProtocolError` and stores nothing if any of it is wrong.
    """
    if data.fork < state.fork or (data.fork > state.fork and data.upgrade is None):
        return
    verifier = _verifier(state, data)
    reorganise = data.fork > state.fork
    branch_root, nodes = proof.verify_branch(data)
    batch: TreeBatch | None = None
    if data.upgrade is not None:
        batch = TreeBatch([], 0, data.fork) if reorganise else state.batch()
        if data.upgrade.start != batch.length:
            if reorganise:
                raise ProtocolError("upgrade to a new fork does not start at the beginning")
            return
        _check_prologue(verifier, data.upgrade)
        if proof.verify_upgrade(batch, data.upgrade, branch_root):
            branch_root = None
        verifier.verify(batch, data.upgrade.signature)
    if branch_root is not None:
        _check_known(state, batch if reorganise else None, branch_root)
    if state.verifier is None and (batch is not None or data.manifest is not None):
        state.set_manifest(verifier.manifest)
    _store(state, data, nodes, batch, received)


def _verifier(state: CoreState, data: Data) -> Verifier:
    if state.verifier is not None or data.manifest is None:
        return state.assumed_verifier()
    manifest = Manifest.decode(data.manifest)
    if not manifest.matches(state.key):
        raise ProtocolError("the manifest is not the one the core's key stands for")
    return Verifier(state.key, manifest)


def _check_prologue(verifier: Verifier, upgrade: DataUpgrade) -> None:
    prologue = verifier.manifest.prologue
    if prologue is None or upgrade.start >= prologue.length:
        return
    if upgrade.start or upgrade.length < prologue.length:
        raise ProtocolError("upgrade does not cover the core's fixed beginning")


def _check_known(state: CoreState, batch: TreeBatch | None, root: Node) -> None:
    if batch is None:
        known = state.get_node(root.index)
    else:
        known = next((node for node in batch.nodes if node.index == root.index), None)
    if known is None or known.hash != root.hash or known.size != root.size:
        raise ProtocolError(f"proof does not lead to the known tree node {root.index}")


def _store(
    state: CoreState, data: Data, nodes: list[Node], batch: TreeBatch | None, received: Received
) -> None:
    reorganise = data.fork > state.fork
    before = state.length
    kept = before
    if batch is not None and reorganise:
        kept = _drop_changed(state, batch)
    for node in nodes:
        state.storage.put_node(node)
    block = data.block
    new_block = block is not None and not state.bitfield.get(block.index)
    if block is not None and new_block:
        state.storage.put_block(block.index, block.value)
        state.bitfield.set(block.index)
        received.blocks.append(block.index)
    if batch is not None and data.upgrade is not None:
        if reorganise:
            state.truncations.append((batch.fork, kept))
        state.save(batch, data.upgrade.signature)
    received.size += (len(block.value) if block else 0) + 80 * len(nodes)
    if reorganise:
        state.emit(ChangeKind.TRUNCATE, kept, max(before - kept, 0))
    if batch is not None:
        state.emit(ChangeKind.UPGRADE, min(before, kept), batch.length - min(before, kept))


def _drop_changed(state: CoreState, batch: TreeBatch) -> int:
    """Forget what the tree of a new fork does not share with the old one; return the shared length.

    A subtree is known to be shared when its root has the same hash in both; the rest is forgotten, and
    fetched again where it is wanted.
    """
    spans: list[tuple[int, int]] = []
    for node in sorted(batch.nodes, key=lambda node: -flat_tree.depth(node.index)):
        if any(start <= node.index <= end for start, end in spans):
            continue
        if state.get_node(node.index) == node:
            spans.append((flat_tree.left_span(node.index), flat_tree.right_span(node.index)))
    spans.sort()
    for index in state.storage.node_indexes():
        if not any(start <= index <= end for start, end in spans):
            state.storage.delete_node(index)
    begin = kept = 0
    for start, end in spans:
        if start == 2 * kept:
            kept = end // 2 + 1
        state.drop_blocks(begin, start // 2)
        begin = end // 2 + 1
    state.drop_blocks(begin, state.length)
    return min(kept, state.length)
