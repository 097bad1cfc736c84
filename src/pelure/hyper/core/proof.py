"""Proofs that a block, tree node or byte position belongs to a signed tree (HYPER-FACTS §11).

:func:`make` answers a request from the nodes held here; :func:`verify_branch` and :func:`verify_upgrade` are
the reader's side. A proof lists tree nodes in one strict order that both sides derive from the request:
siblings from the bottom up for a block, missing roots from left to right for an upgrade.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pelure.errors import ProtocolError
from pelure.hyper.core import flat_tree
from pelure.hyper.core.bitfield import MAX_LENGTH
from pelure.hyper.core.hashing import leaf_hash, parent_node
from pelure.hyper.core.manifest import Prologue
from pelure.hyper.core.tree import GetNode, TreeBatch, byte_offset, need, unpadded_size
from pelure.hyper.wire.messages import Data, Request
from pelure.hyper.wire.parts import DataUpgrade, Node, SeekRequest


@dataclass(slots=True)
class ProofNodes:
    """The node lists of an answer; ``None`` where the answer has no such part."""

    branch: list[Node] | None = None
    seek: list[Node] | None = None
    upgrade: list[Node] = field(default_factory=list)
    additional: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Target:
    """The node that is asked for; ``last_block`` is the last block below it."""

    index: int
    climb: int
    last_block: int
    own_hash: bool


def make(get: GetNode, length: int, request: Request) -> ProofNodes:
    """The nodes that prove what ``request`` asks about a tree of ``length`` blocks.

    Raises :class:`~pelure.errors.ProtocolError` if the request makes no sense and
    :class:`~pelure.hyper.core.tree.NodeMissing` if a node is not held here.
    """
    upgrade, seek = request.upgrade, request.seek
    head = 2 * length
    start = 2 * upgrade.start if upgrade else 0
    to = start + 2 * upgrade.length if upgrade else head
    if start >= to or to > head:
        raise ProtocolError("request lies outside the tree")
    target = _target(request)
    if seek and upgrade and target and target.index >= start:
        raise ProtocolError("request combines a seek with a block of the upgrade")
    proof = ProofNodes()
    inside = head  # the node below which the upgrade is left out, because the branch replaces it
    if target and (upgrade is None or target.last_block < upgrade.start):
        root = _climb(target, to)
        found = _seek_below(get, length, root, seek) if seek else None
        _branch(get, proof, target, found, root)
    elif upgrade and seek:
        inside = _seek_from_head(get, to, seek)
    elif upgrade and target:
        inside = target.index
    if upgrade:
        seek_root = inside if seek else None
        for index in upgrade_positions(start, to):
            if proof.branch is None and proof.seek is None and flat_tree.contains(index, inside):
                _branch(get, proof, target, seek_root, index)
            else:
                proof.upgrade.append(need(get, index))
        if head > to:
            proof.additional = [need(get, index) for index in upgrade_positions(to, head)]
    return proof


def _target(request: Request) -> _Target | None:
    if request.block:
        index = request.block.index
        return _Target(2 * index, request.block.nodes, index, False)
    if request.hash:
        index = request.hash.index
        return _Target(index, request.hash.nodes, flat_tree.right_span(index) // 2, True)
    return None


def _climb(target: _Target, to: int) -> int:
    index = target.index
    if flat_tree.right_span(index) >= to:
        raise ProtocolError("requested node lies outside the tree")
    for _ in range(target.climb):
        index = flat_tree.parent(index)
        if flat_tree.contains(index, to):
            raise ProtocolError("requested branch climbs out of the tree")
    return index


def _branch(get: GetNode, proof: ProofNodes, target: _Target | None, found: int | None, root: int) -> None:
    """Fill the branch from ``target`` up to ``root``, and the seek branch where the two join."""
    if target is None:
        proof.seek = _siblings(get, found if found is not None else root, root)
        return
    nodes = [need(get, target.index)] if target.own_hash else []
    index = target.index
    while index != root:
        beside = flat_tree.sibling(index)
        if found is not None and found != beside and flat_tree.contains(beside, found):
            proof.seek = _siblings(get, found, beside)
        else:
            nodes.append(need(get, beside))
        index = flat_tree.parent(index)
    proof.branch = nodes


def _siblings(get: GetNode, index: int, root: int) -> list[Node]:
    nodes = [need(get, index)]
    while index != root:
        nodes.append(need(get, flat_tree.sibling(index)))
        index = flat_tree.parent(index)
    return nodes


def upgrade_positions(start: int, to: int) -> list[int]:
    """The nodes that take a reader from a tree ending before leaf ``start`` to one ending before ``to``."""
    positions: list[int] = []
    connected = start == 0
    last = start - 2
    for root in flat_tree.full_roots(to // 2):
        if flat_tree.right_span(root) < start:
            continue
        if not connected and flat_tree.contains(root, last):
            index = last
            while index != root:
                beside = flat_tree.sibling(index)
                if beside > last:
                    positions.append(beside)
                index = flat_tree.parent(index)
        else:
            positions.append(root)
        connected = True
    return positions


def _seek_from_head(get: GetNode, to: int, seek: SeekRequest) -> int:
    rest = seek.bytes
    for root in flat_tree.full_roots(to // 2):
        size = unpadded_size(need(get, root), seek.padding)
        if rest == size:
            return root
        if rest < size:
            return _descend(get, root, rest, seek.padding)
        rest -= size
    return to


def _seek_below(get: GetNode, length: int, root: int, seek: SeekRequest) -> int:
    roots = [need(get, index) for index in flat_tree.full_roots(length)]
    before = byte_offset(get, roots, root) - seek.padding * (flat_tree.left_span(root) // 2)
    rest = seek.bytes - before
    if rest == 0:
        return root
    if rest < 0 or rest >= unpadded_size(need(get, root), seek.padding):
        raise ProtocolError("requested byte lies outside the requested branch")
    return _descend(get, root, rest, seek.padding)


def _descend(get: GetNode, index: int, rest: int, padding: int) -> int:
    if rest == 0:
        return index
    while index & 1:
        left = get(flat_tree.left_child(index))
        if left is None:
            return index
        size = unpadded_size(left, padding)
        if rest == size:
            return left.index
        if rest < size:
            index = left.index
        else:
            rest -= size
            index = flat_tree.right_child(index)
    return index


class _Queue:
    """Proof nodes taken in order; ``extra`` is a computed node that counts where its index is due."""

    def __init__(self, nodes: Sequence[Node], extra: Node | None = None) -> None:
        self.nodes = nodes
        self.extra = extra
        self.taken = 0

    def take(self, index: int) -> Node:
        if self.extra is not None and self.extra.index == index:
            node, self.extra = self.extra, None
            return node
        if self.taken == len(self.nodes):
            raise ProtocolError(f"proof lacks tree node {index}")
        node = self.nodes[self.taken]
        if node.index != index:
            raise ProtocolError(f"proof has tree node {node.index} in place of {index}")
        self.taken += 1
        return node

    @property
    def empty(self) -> bool:
        return self.extra is None and self.taken == len(self.nodes)


def _fold(queue: _Queue, root: Node, nodes: list[Node]) -> Node:
    nodes.append(root)
    while not queue.empty:
        beside = queue.take(flat_tree.sibling(root.index))
        root = parent_node(root, beside)
        nodes += (beside, root)
    return root


def verify_branch(data: Data) -> tuple[Node | None, list[Node]]:
    """Compute the root of the block, hash and seek parts; return it and all nodes seen on the way.

    Nothing is trusted yet: the root has to be compared with a known node or used up by an upgrade.
    Raises :class:`~pelure.errors.ProtocolError`.
    """
    nodes: list[Node] = []
    root: Node | None = None
    if data.seek is not None and data.seek.nodes:
        queue = _Queue(data.seek.nodes)
        root = _fold(queue, queue.take(data.seek.nodes[0].index), nodes)
    if data.block is not None:
        queue = _Queue(data.block.nodes, root)
        value = data.block.value
        root = _fold(queue, Node(2 * data.block.index, len(value), leaf_hash(value)), nodes)
    elif data.hash is not None:
        queue = _Queue(data.hash.nodes, root)
        root = _fold(queue, queue.take(data.hash.index), nodes)
    return root, nodes


def verify_upgrade(
    batch: TreeBatch, upgrade: DataUpgrade, branch_root: Node | None, prologue: Prologue | None
) -> bool:
    """Grow ``batch`` by the proof; return whether ``branch_root`` became part of it (or was ``None``).

    Growth from below the end of the ``prologue``, the core's fixed beginning, goes just there first: that
    part of the tree can't be compared later. The signature is not checked here. Raises
    :class:`~pelure.errors.ProtocolError`.
    """
    if upgrade.start != batch.length or upgrade.length < 1:
        raise ProtocolError("upgrade does not start where the tree ends")
    fixed = prologue if prologue is not None and upgrade.start < prologue.length else None
    if fixed is not None and (upgrade.start or upgrade.length != fixed.length):
        raise ProtocolError("upgrade does not cover just the core's fixed beginning")
    queue = _Queue(upgrade.nodes, branch_root)
    for index in upgrade_positions(2 * upgrade.start, 2 * (upgrade.start + upgrade.length)):
        batch.append_root(queue.take(index))
    if fixed is not None and batch.hash() != fixed.hash:
        raise ProtocolError("upgrade proves another beginning than the core's fixed one")
    for node in upgrade.additional_nodes:
        batch.append_root(node)
    if queue.taken != len(upgrade.nodes):
        raise ProtocolError("proof has tree nodes too many")
    if batch.length > MAX_LENGTH:
        raise ProtocolError(f"the core is longer than {MAX_LENGTH} blocks")
    return queue.extra is None
