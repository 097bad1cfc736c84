"""Who has to sign a tree, and what passes for a signature of several (HYPER-FACTS §10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from pelure.errors import CryptoError, ProtocolError
from pelure.hyper.core.hashing import leaf_hash
from pelure.hyper.core.manifest import Manifest, Prologue, Signer
from pelure.hyper.core.signer import KeyPair, MultiSignature, SignerProof, Verifier
from pelure.hyper.core.tree import TreeBatch
from pelure.hyper.wire.parts import Node

PAIRS = [KeyPair.from_seed(bytes([number]) * 32) for number in (1, 2, 3)]
SIGNERS = tuple(Signer(pair.public_key) for pair in PAIRS)


def tree(length: int = 3, fork: int = 0) -> TreeBatch:
    made = TreeBatch((), 0, fork)
    made.append_leaves([1] * length, [leaf_hash(bytes([number])) for number in range(length)])
    return made


def verifier(version: int = 1, quorum: int = 2, *, allow_patch: bool = False) -> Verifier:
    manifest = Manifest(version, SIGNERS, quorum, allow_patch)
    return Verifier(manifest.key(), manifest)


def proofs(made: Verifier, *numbers: int) -> list[SignerProof]:
    """The proof of each signer, as they would make it by themselves."""
    alone = Verifier(made.key, replace(made.manifest, quorum=1))
    found: list[SignerProof] = []
    for number in numbers:
        signature = MultiSignature.decode(alone.sign(tree(), [PAIRS[number]]), made.manifest.version)
        found += signature.proofs
    return found


def assert_refused(made: Verifier, of: TreeBatch, given: Sequence[SignerProof]) -> None:
    with pytest.raises(CryptoError):
        made.verify(of, MultiSignature(tuple(given)).encode())


@pytest.mark.parametrize("numbers", [(0, 1), (0, 2), (2, 1), (0, 1, 2)])
def test_any_quorum_will_do(numbers: tuple[int, ...]) -> None:
    made = verifier()
    made.verify(tree(), MultiSignature(tuple(proofs(made, *numbers))).encode())


def test_one_signer_is_no_quorum_of_two_however_often() -> None:
    made = verifier()
    (alone,) = proofs(made, 0)
    assert_refused(made, tree(), [alone])
    assert_refused(made, tree(), [alone, alone])
    assert_refused(made, tree(), [alone, replace(alone, signer=1)])
    assert_refused(made, tree(), [alone, replace(alone, signer=3)])
    assert_refused(made, tree(), [])


def test_all_of_the_quorum_have_to_have_signed() -> None:
    made = verifier()
    good, other = proofs(made, 0, 1)
    forged = replace(other, signature=bytes(64))
    assert_refused(made, tree(), [good, forged])
    assert_refused(made, tree(), [forged, good])


def test_a_manifest_that_nobody_has_to_sign_is_signed_by_nobody() -> None:
    made = verifier(quorum=0)
    assert_refused(made, tree(), [])
    assert not made.can_sign(PAIRS)


@pytest.mark.parametrize("other", [tree(2), tree(4), tree(3, fork=1)])
def test_a_signature_is_for_one_tree(other: TreeBatch) -> None:
    made = verifier()
    assert_refused(made, other, proofs(made, 0, 1))
    with pytest.raises(CryptoError):
        made.verify(tree(), None)


def test_a_signature_is_for_one_core() -> None:
    made = verifier()
    elsewhere = Verifier(verifier(quorum=1).key, made.manifest)
    assert_refused(elsewhere, tree(), proofs(made, 0, 1))


def test_a_longer_tree_counts_only_where_the_manifest_allows_it() -> None:
    shown, signed = tree(3), tree(4)
    for allowed in (True, False):
        made = verifier(quorum=1, allow_patch=allowed)
        signature = MultiSignature.decode(made.sign(signed, PAIRS), 1)
        patched = tuple(replace(proof, patch=1) for proof in signature.proofs)
        missing = Node(6, 1, leaf_hash(bytes([3])))
        good = MultiSignature(patched, (missing,)).encode()
        if allowed:
            made.verify(shown, good)
            with pytest.raises(ProtocolError, match="patch node"):
                made.verify(shown, MultiSignature(patched).encode())
            with pytest.raises(CryptoError):
                made.verify(shown, MultiSignature(patched, (replace(missing, size=2),)).encode())
        else:
            with pytest.raises(CryptoError):
                made.verify(shown, good)


def test_a_fixed_beginning_needs_no_signature_and_bears_no_other() -> None:
    manifest = Manifest(1, SIGNERS[:1], 1, prologue=Prologue(tree(3).hash(), 3))
    made = Verifier(manifest.key(), manifest)
    made.verify(tree(3), None)
    other = TreeBatch((), 0, 0)
    other.append_leaves([1] * 3, [leaf_hash(b"other")] * 3)
    for wrong in (other, tree(2)):
        with pytest.raises(CryptoError):
            made.verify(wrong, made.sign(wrong, PAIRS))
    made.verify(tree(4), made.sign(tree(4), PAIRS))
    with pytest.raises(CryptoError):
        made.verify(tree(4), None)


def test_the_form_for_manifests_of_version_0() -> None:
    """The bytes are those that npm's ``assemblev0`` makes of the same signatures."""
    ones, twos = "01" * 64, "02" * 64
    made = verifier(version=0)
    signature = made.sign(tree(), PAIRS)
    first, second = proofs(made, 0, 1)
    assert signature.hex() == f"020000{first.signature.hex()}0001{second.signature.hex()}00"
    made.verify(tree(), signature)
    nodes = "0a14" + "0a" * 32 + "0c16" + "0c" * 32
    patched = MultiSignature.decode(bytes.fromhex(f"020000{ones}0102{twos}0702020001" + "02" + nodes), 0)
    assert patched.proofs == (SignerProof(0, b"\1" * 64), SignerProof(2, b"\2" * 64, 2))
    assert patched.patch == (Node(10, 20, b"\x0a" * 32), Node(12, 22, b"\x0c" * 32))


def test_a_lone_signer_of_version_0_signs_bare() -> None:
    manifest = Manifest(0, SIGNERS[:1], 1)
    made = Verifier(manifest.key(), manifest)
    signature = made.sign(tree(), PAIRS)
    assert len(signature) == 64
    made.verify(tree(), signature)
    for wrong in (signature[:-1], signature + b"\0", bytes(64)):
        with pytest.raises(CryptoError):
            made.verify(tree(), wrong)
