"""Trees, signatures, manifests, proofs and encrypted blocks equal those that npm hypercore makes.

The vectors are made by tests/interop/node/make_core_vectors.js.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pelure.errors import CryptoError, ProtocolError
from pelure.hyper.core import encryption
from pelure.hyper.core.core import Core
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.encryption import Encryption, xsalsa20_from_secretbox
from pelure.hyper.core.flat_tree import right_span
from pelure.hyper.core.manifest import Manifest, single_signer
from pelure.hyper.core.signer import KeyPair, Verifier
from pelure.hyper.core.tree import TreeBatch
from pelure.hyper.wire.messages import Data, Request
from pelure.hyper.wire.parts import (
    BlockRequest,
    DataBlock,
    DataHash,
    DataSeek,
    DataUpgrade,
    HashRequest,
    Node,
    SeekRequest,
    UpgradeRequest,
)

VECTORS = json.loads(
    (Path(__file__).parents[3] / "vectors" / "hyper" / "core.json").read_text(encoding="utf-8")
)
PROOFS = VECTORS["proofs"]


def block(i: int) -> bytes:
    return f"block {i} ".encode() * ((i * 7) % 11)


def unhex(text: str | None) -> bytes:
    return bytes.fromhex(text or "")


def writer(store: Corestore, count: int, **options: Any) -> Core:
    pair = KeyPair.from_seed(unhex(VECTORS["plain"]["seed"]))
    core = store.get(manifest=single_signer(pair.public_key), key_pairs=(pair,), **options)
    if count:
        core.append([block(i) for i in range(count)])
    return core


def reader(store: Corestore) -> Core:
    return store.get(key=unhex(VECTORS["plain"]["key"]))


def nodes(found: list[list[Any]]) -> list[Node]:
    return [Node(index, size, bytes.fromhex(digest)) for index, size, digest in found]


def to_request(raw: dict[str, Any]) -> Request:
    kinds = {"block": BlockRequest, "hash": HashRequest, "seek": SeekRequest, "upgrade": UpgradeRequest}
    return Request(7, 0, **{name: kinds[name](*part.values()) for name, part in raw.items()})


def to_data(raw: dict[str, Any]) -> Data:
    data = Data(7, raw["fork"])
    if part := raw["block"]:
        data.block = DataBlock(part["index"], unhex(part["value"]), nodes(part["nodes"]))
    if part := raw["hash"]:
        data.hash = DataHash(part["index"], nodes(part["nodes"]))
    if part := raw["seek"]:
        data.seek = DataSeek(part["bytes"], nodes(part["nodes"]))
    if part := raw["upgrade"]:
        lists = nodes(part["nodes"]), nodes(part["additionalNodes"])
        data.upgrade = DataUpgrade(part["start"], part["length"], *lists, unhex(part["signature"]))
    return data


def test_each_head_has_the_key_tree_hash_and_signature_of_npm(store: Corestore) -> None:
    core = writer(store, 0)
    assert core.key.hex() == VECTORS["plain"]["key"]
    assert core.discovery_key.hex() == VECTORS["plain"]["discoveryKey"]
    for i, head in enumerate(VECTORS["plain"]["heads"]):
        core.append([block(i)])
        assert core.batch().hash().hex() == head["treeHash"]
        assert core.signature == unhex(head["signature"])
        assert core.byte_length == head["byteLength"]


@pytest.mark.parametrize("case", PROOFS, ids=lambda case: json.dumps(case["request"]))
def test_proofs_equal_those_of_npm(store: Corestore, case: dict[str, Any]) -> None:
    assert writer(store, 21).proof(to_request(case["request"])) == to_data(case["proof"])


@pytest.mark.parametrize("case", PROOFS, ids=lambda case: json.dumps(case["request"]))
def test_proofs_of_npm_are_verified(store: Corestore, tmp_path: Path, case: dict[str, Any]) -> None:
    request = to_request(case["request"])
    source = writer(store, 21)
    other = Corestore(tmp_path / "other")
    try:
        core = reader(other)
        start = request.upgrade.start if request.upgrade else 21
        grow_to(source, core, start)
        for index in source.storage.node_indexes():
            node = source.get_node(index)
            if node is not None and right_span(index) < 2 * start:
                core.storage.put_nodes([node])
        data = to_data(case["proof"])
        data.manifest = source.manifest.encode() if source.manifest else None
        assert core.verify_and_store([data]) == 1
        assert core.length == 21
        if data.block:
            assert core.get_local(data.block.index) == block(data.block.index)
    finally:
        other.close()


def grow_to(source: Core, core: Core, length: int) -> None:
    """Bring ``core`` to ``length`` blocks, by a proof of when ``source`` had no more."""
    if length == 0:
        return
    signature = unhex(VECTORS["plain"]["heads"][length - 1]["signature"])
    roots = source.roots_at(length)
    manifest = source.manifest.encode() if source.manifest else None
    upgrade = DataUpgrade(0, length, roots, [], signature)
    assert core.verify_and_store([Data(1, 0, upgrade=upgrade, manifest=manifest)]) == 1
    assert core.length == length


def test_truncation_then_append(store: Corestore) -> None:
    core = writer(store, 21)
    expected = VECTORS["truncated"]
    core.truncate(expected["at"])
    core.append([unhex(expected["block"])])
    assert core.fork == expected["fork"]
    assert core.batch().hash().hex() == expected["treeHash"]
    assert core.signature == unhex(expected["signature"])


def test_encrypted_blocks(store: Corestore) -> None:
    expected = VECTORS["encrypted"]
    core = writer(store, 0, encryption_key=unhex(expected["encryptionKey"]))
    core.append([block(i + 1) for i in range(3)])
    core.truncate(1)
    core.append([block(i + 1) for i in range(1, 4)])
    assert [core.get_stored(i) for i in range(4)] == [unhex(stored) for stored in expected["blocks"]]
    assert [core.get_local(i) for i in range(4)] == [block(i + 1) for i in range(4)]
    assert (core.byte_length, core.fork) == (expected["byteLength"], expected["fork"])
    assert core.signature == unhex(expected["signature"])


def test_encryption_without_the_library_function(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = VECTORS["encrypted"]
    monkeypatch.setattr(encryption, "xsalsa20", xsalsa20_from_secretbox)
    sealer = Encryption.derive(unhex(VECTORS["plain"]["key"]), unhex(expected["encryptionKey"]))
    stored = [unhex(part) for part in expected["blocks"]]
    assert sealer.seal(0, 0, block(1)) == stored[0]
    assert sealer.seal(3, 1, block(4)) == stored[3]
    assert sealer.open(2, stored[2]) == block(3)


def test_compat_core(store: Corestore) -> None:
    pair = KeyPair.from_seed(unhex(VECTORS["plain"]["seed"]))
    expected = VECTORS["compat"]
    manifest = single_signer(pair.public_key)
    core = store.get(key=pair.public_key, manifest=manifest, key_pairs=(pair,))
    core.append([block(i) for i in range(expected["length"])])
    assert core.key.hex() == expected["key"]
    assert core.batch().hash().hex() == expected["treeHash"]
    assert core.signature == unhex(expected["signature"])
    assert not core.has_manifest


@pytest.mark.parametrize("case", VECTORS["manifests"], ids=lambda case: case["encoded"][:12])
def test_manifests(case: dict[str, str]) -> None:
    manifest = Manifest.decode(unhex(case["encoded"]))
    assert manifest.encode().hex() == case["encoded"]
    assert manifest.key().hex() == case["key"]


def test_quorum_and_patches(store: Corestore) -> None:
    expected = VECTORS["multi"]
    core = writer(store, 8)
    tree = TreeBatch(core.roots_at(5), 5, 0)
    manifest = Manifest.decode(unhex(expected["manifest"]))
    verifier = Verifier(unhex(expected["key"]), manifest)
    pairs = [KeyPair.from_seed(bytes([n]) * 32) for n in (1, 2, 3)]
    assert verifier.sign(tree, pairs) == unhex(expected["both"])
    assert not verifier.can_sign(pairs[:1])
    for signature in (expected["both"], expected["patched"]):
        verifier.verify(tree, unhex(signature))
        damaged = bytearray(unhex(signature))
        damaged[40] ^= 1
        with pytest.raises(CryptoError):
            verifier.verify(tree, bytes(damaged))
    with pytest.raises(ProtocolError):
        verifier.verify(tree, unhex(expected["both"])[:-3])
