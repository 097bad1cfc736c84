"""Signatures over a tree: what is signed, by whom, and how many (HYPER-FACTS §10).

A core's head is signed as (key, tree hash, length, fork). Version 1 manifests carry a list of proofs, one
for each signer taking part; a proof may be for a shorter tree, and *patch* nodes lead from the one to the
other. Compat cores carry one bare Ed25519 signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nacl import bindings, exceptions

from pelure.errors import CryptoError, ProtocolError
from pelure.hyper.core.hashing import TREE
from pelure.hyper.core.manifest import Manifest, Signer
from pelure.hyper.core.proof import upgrade_positions
from pelure.hyper.core.tree import TreeBatch
from pelure.hyper.encoding.compact import Reader, Writer
from pelure.hyper.wire.parts import Node

_NODE_SIZE = 34
_PROOF_SIZE = 66


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An Ed25519 key pair from a 32-byte seed."""

    public_key: bytes
    seed: bytes = field(repr=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> KeyPair:
        """The pair that belongs to ``seed`` (32 bytes)."""
        public_key, _ = bindings.crypto_sign_seed_keypair(seed)
        return cls(public_key, seed)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of ``message``."""
        signed: bytes = bindings.crypto_sign(message, self.seed + self.public_key)
        return signed[:64]


def _verified(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        bindings.crypto_sign_open(signature + message, public_key)
    except (exceptions.BadSignatureError, ValueError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class SignerProof:
    """One signer's signature, over a tree that is ``patch`` blocks longer than the one shown."""

    signer: int
    signature: bytes
    patch: int = 0


@dataclass(frozen=True, slots=True)
class MultiSignature:
    """The signature field of an upgrade when it is not a bare signature."""

    proofs: tuple[SignerProof, ...]
    patch: tuple[Node, ...] = ()

    def encode(self) -> bytes:
        """The form for manifests of version 1 and up."""
        w = Writer()
        w.uint(len(self.proofs))
        for proof in self.proofs:
            w.uint(proof.signer)
            w.fixed64(proof.signature)
            w.uint(proof.patch)
        w.uint(len(self.patch))
        for node in self.patch:
            w.uint(node.index)
            w.uint(node.size)
            w.fixed32(node.hash)
        return w.bytes()

    @classmethod
    def decode(cls, data: bytes, version: int) -> MultiSignature:
        """Read the form of manifest ``version``. Raises :class:`~pelure.errors.ProtocolError`."""
        r = Reader(data)
        read = _read_proof if version else _read_proof_v0
        proofs = tuple(read(r) for _ in range(r.count(_PROOF_SIZE)))
        patch = tuple(Node(r.uint(), r.uint(), r.fixed32()) for _ in range(r.count(_NODE_SIZE)))
        return cls(proofs, patch)


def _read_proof(r: Reader) -> SignerProof:
    return SignerProof(r.uint(), r.fixed64(), r.uint())


def _read_proof_v0(r: Reader) -> SignerProof:
    flags = r.uint()
    signer, signature = r.uint(), r.fixed64()
    if not flags & 1:
        return SignerProof(signer, signature)
    r.uint()  # where the patch starts: the end of the tree shown
    length = r.uint()
    for _ in range(r.count()):
        r.uint()
    return SignerProof(signer, signature, length)


class Verifier:
    """Checks and makes the signatures of one core."""

    def __init__(self, key: bytes, manifest: Manifest) -> None:
        self.key = key
        self.manifest = manifest
        self.compat = manifest.is_compat(key)

    def verify(self, tree: TreeBatch, signature: bytes | None) -> None:
        """Raises :class:`~pelure.errors.CryptoError` unless ``signature`` is good for ``tree``."""
        prologue = None if self.compat else self.manifest.prologue
        if prologue is not None and self.manifest.version and tree.length <= prologue.length:
            good = tree.length == prologue.length and tree.hash() == prologue.hash
        elif signature is None:
            good = False
        elif self._bare:
            signer = self.manifest.signers[0]
            good = len(signature) == 64 and _verified(
                signer.public_key, self._signable(tree, signer), signature
            )
        else:
            good = self._verify_quorum(tree, signature)
        if not good:
            raise CryptoError("signature of the core's tree is not valid")

    @property
    def _bare(self) -> bool:
        manifest = self.manifest
        single = manifest.version == 0 and len(manifest.signers) == 1 and not manifest.allow_patch
        return self.compat or single

    def _signable(self, tree: TreeBatch, signer: Signer) -> bytes:
        state = tree.hash() + tree.length.to_bytes(8, "little") + tree.fork.to_bytes(8, "little")
        if self.compat:
            return TREE + state
        return TREE + (self.key if self.manifest.version else signer.namespace) + state

    def _verify_quorum(self, tree: TreeBatch, signature: bytes) -> bool:
        manifest = self.manifest
        multi = MultiSignature.decode(signature, manifest.version)
        if manifest.quorum == 0 or len(multi.proofs) < manifest.quorum:
            return False
        seen: set[int] = set()
        for proof in multi.proofs[: manifest.quorum]:
            if proof.signer >= len(manifest.signers) or proof.signer in seen:
                return False
            seen.add(proof.signer)
            signed = tree
            if proof.patch and manifest.allow_patch:
                signed = _patched(tree, multi.patch, proof.patch)
            signer = manifest.signers[proof.signer]
            if not _verified(signer.public_key, self._signable(signed, signer), proof.signature):
                return False
        return True

    def can_sign(self, key_pairs: Sequence[KeyPair]) -> bool:
        """Whether these keys make up a quorum."""
        held = {pair.public_key for pair in key_pairs}
        owned = sum(signer.public_key in held for signer in self.manifest.signers)
        return 0 < self.manifest.quorum <= owned

    def sign(self, tree: TreeBatch, key_pairs: Sequence[KeyPair]) -> bytes:
        """The signature field for ``tree``, made by the first signers whose keys are given."""
        pairs = {pair.public_key: pair for pair in key_pairs}
        proofs: list[SignerProof] = []
        for number, signer in enumerate(self.manifest.signers):
            if signer.public_key in pairs and len(proofs) < self.manifest.quorum:
                signature = pairs[signer.public_key].sign(self._signable(tree, signer))
                proofs.append(SignerProof(number, signature))
        if self._bare:
            return proofs[0].signature
        if self.manifest.version:
            return MultiSignature(tuple(proofs)).encode()
        return _encode_v0(proofs)


def _encode_v0(proofs: Sequence[SignerProof]) -> bytes:
    w = Writer()
    w.uint(len(proofs))
    for proof in proofs:
        w.uint(0)  # no patch
        w.uint(proof.signer)
        w.fixed64(proof.signature)
    w.uint(0)
    return w.bytes()


def _patched(tree: TreeBatch, patch: Sequence[Node], length: int) -> TreeBatch:
    """The longer tree that was signed, reached from ``tree`` by the ``patch`` nodes."""
    nodes = {node.index: node for node in patch}
    grown = tree.copy()
    for index in upgrade_positions(2 * tree.length, 2 * (tree.length + length)):
        if index not in nodes:
            raise ProtocolError("signature lacks a patch node")
        grown.append_root(nodes[index])
    return grown
