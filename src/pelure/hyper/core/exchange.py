"""What a core says to peers and takes from them: answers, and checked additions (HYPER-FACTS §11, §12).

Nothing of an answer is stored before all of it is verified: the branch against a node that is trusted already
or against the upgrade it came with, the upgrade against the signature, the manifest against the key.
"""

from __future__ import annotations

from pelure.errors import ProtocolError
from pelure.hyper.core import proof
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

    An answer that was right once but is of no use now (for a shorter tree, or an earlier fork) is left out;
    newer forks are the affair of :class:`~pelure.hyper.core.reorg.Reorg`.
    Raises :class:`~pelure.errors.ProtocolError` and stores nothing if any of it is wrong.
    """
    if data.fork != state.fork:
        return
    verifier = verifier_for(state, data)
    branch_root, nodes = proof.verify_branch(data)
    batch: TreeBatch | None = None
    if data.upgrade is not None:
        batch = state.batch()
        if data.upgrade.start != batch.length:
            return
        if proof.verify_upgrade(batch, data.upgrade, branch_root, verifier.manifest.prologue):
            branch_root = None
        verifier.verify(batch, data.upgrade.signature)
    if branch_root is not None:
        _check_known(state, branch_root)
    if state.verifier is None and (batch is not None or data.manifest is not None):
        state.set_manifest(verifier.manifest)
    _store(state, data, nodes, batch, received)


def verifier_for(state: CoreState, data: Data) -> Verifier:
    """What checks the signature of ``data``: by the manifest held here, or the one that came along.

    Raises :class:`~pelure.errors.ProtocolError` for a manifest that is not the core's.
    """
    if state.verifier is not None or data.manifest is None:
        return state.assumed_verifier()
    manifest = Manifest.decode(data.manifest)
    if not manifest.matches(state.key):
        raise ProtocolError("the manifest is not the one the core's key stands for")
    return Verifier(state.key, manifest)


def _check_known(state: CoreState, root: Node) -> None:
    if state.get_node(root.index) != root:
        raise ProtocolError(f"proof does not lead to the known tree node {root.index}")


def _store(
    state: CoreState, data: Data, nodes: list[Node], batch: TreeBatch | None, received: Received
) -> None:
    before = state.length
    state.storage.put_nodes(nodes)
    block = data.block
    if block is not None and not state.bitfield.get(block.index):
        state.storage.put_blocks(block.index, (block.value,))
        state.fresh.put(block.index, block.value)
        state.bitfield.set(block.index)
        received.blocks.append(block.index)
    received.size += (len(block.value) if block else 0) + 80 * len(nodes)
    if batch is not None and data.upgrade is not None:
        state.save(batch, data.upgrade.signature)
        state.emit(ChangeKind.UPGRADE, before, batch.length - before)
