"""What requests and answers of a Hypercore channel are made of (HYPER-FACTS §7, §11).

Tree nodes, and the parts that ask for or prove a block, a tree node, a byte position, or growth. They are
what proofs deal in, so the core uses them without any :mod:`~pelure.hyper.wire.messages`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pelure.hyper.encoding.compact import Reader, Writer

_MIN_NODE = 34


@dataclass(slots=True)
class Node:
    """A Merkle tree node: flat-tree ``index``, ``size`` in bytes of all blocks below, 32-byte ``hash``."""

    index: int
    size: int
    hash: bytes


def write_nodes(w: Writer, nodes: list[Node]) -> None:
    """Append ``nodes`` as the wire has them: their number, then each."""
    w.uint(len(nodes))
    for node in nodes:
        w.uint(node.index)
        w.uint(node.size)
        w.fixed32(node.hash)


def read_nodes(r: Reader) -> list[Node]:
    """The inverse of :func:`write_nodes`. Raises :class:`~pelure.errors.ProtocolError`."""
    return [Node(r.uint(), r.uint(), r.take(32)) for _ in range(r.count(_MIN_NODE))]


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """Block ``index``, with a proof that climbs ``nodes`` tree levels."""

    index: int
    nodes: int


@dataclass(frozen=True, slots=True)
class HashRequest:
    """The tree node ``index`` (flat-tree), with a proof that climbs ``nodes`` levels."""

    index: int
    nodes: int


@dataclass(frozen=True, slots=True)
class SeekRequest:
    """Where byte ``bytes`` lies, not counting ``padding`` bytes at the start of each block."""

    bytes: int
    padding: int


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """Proof that a tree of ``start`` blocks grew by ``length`` blocks."""

    start: int
    length: int


@dataclass(slots=True)
class DataBlock:
    """A block's ``value`` as stored (that is, encrypted), and its proof, bottom up."""

    index: int
    value: bytes = field(repr=False)
    nodes: list[Node]


@dataclass(slots=True)
class DataHash:
    """A tree node (first in ``nodes``) and its proof, bottom up."""

    index: int
    nodes: list[Node]


@dataclass(slots=True)
class DataSeek:
    """The node in which byte ``bytes`` was found and its proof, bottom up."""

    bytes: int
    nodes: list[Node]


@dataclass(slots=True)
class DataUpgrade:
    """Proof of growth from ``start`` by ``length`` blocks, then on to the signed head."""

    start: int
    length: int
    nodes: list[Node]
    additional_nodes: list[Node]
    signature: bytes | None
