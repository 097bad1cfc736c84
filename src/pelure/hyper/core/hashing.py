"""Hashes and name spaces of Hypercore: BLAKE2b-256 (HYPER-FACTS §1, §2, §9).

A name space constant is ``H(H(name) || number)``; it keeps one kind of hash or signature from ever being
mistaken for another.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from pelure.errors import ProtocolError
from pelure.hyper.encoding.compact import MAX_UINT
from pelure.hyper.wire.parts import Node


def blake2b_256(*parts: bytes, key: bytes = b"") -> bytes:
    """BLAKE2b with a 32-byte digest over the joined ``parts``, keyed when ``key`` is given."""
    return blake2b(b"".join(parts), digest_size=32, key=key).digest()


def name_space(name: str, number: int) -> bytes:
    """The 32-byte constant ``number`` of the name space ``name``."""
    return blake2b_256(blake2b_256(name.encode()), bytes([number]))


TREE = name_space("hypercore", 0)
MANIFEST = name_space("hypercore", 3)
DEFAULT_NAMESPACE = name_space("hypercore", 4)
DEFAULT_ENCRYPTION = name_space("hypercore", 5)

_SHORT = 1024
"""Bytes below which copying a block costs less than a second call."""


def leaf_hash(block: bytes | memoryview) -> bytes:
    """The hash of a block as stored. Long blocks are hashed without the interpreter lock."""
    head = b"\0" + len(block).to_bytes(8, "little")
    if len(block) < _SHORT:
        return blake2b(head + block, digest_size=32).digest()
    digest = blake2b(head, digest_size=32)
    digest.update(block)
    return digest.digest()


def parent_hash(size: int, left: bytes, right: bytes) -> bytes:
    """The hash of the node above two siblings, which are ``size`` bytes together."""
    if size > MAX_UINT:
        raise ProtocolError("tree claims more than 2^53 bytes")
    return blake2b(b"\1" + size.to_bytes(8, "little") + left + right, digest_size=32).digest()


def parent_node(one: Node, other: Node) -> Node:
    """The node above two siblings, given in any order."""
    left, right = (one, other) if one.index < other.index else (other, one)
    size = left.size + right.size
    return Node((left.index + right.index) >> 1, size, parent_hash(size, left.hash, right.hash))


def tree_hash(roots: Iterable[Node]) -> bytes:
    """The hash of a whole tree, from its full roots."""
    digest = blake2b(b"\2", digest_size=32)
    for root in roots:
        digest.update(root.hash + root.index.to_bytes(8, "little") + root.size.to_bytes(8, "little"))
    return digest.digest()
