"""Answers of peers: good ones are stored, and of bad ones nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pelure.errors import PelureError, ProtocolError
from pelure.hyper.core import flat_tree
from pelure.hyper.core.bitfield import MAX_LENGTH, PAGE_BITS
from pelure.hyper.core.core import Core
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.hashing import leaf_hash
from pelure.hyper.core.manifest import Manifest, Prologue, single_signer
from pelure.hyper.core.proof import make as make_proof
from pelure.hyper.core.proof import verify_upgrade
from pelure.hyper.core.signer import KeyPair, MultiSignature, Verifier
from pelure.hyper.core.tree import NotAvailable, TreeBatch
from pelure.hyper.encoding.compact import Reader
from pelure.hyper.wire.messages import Data, Request
from pelure.hyper.wire.parts import (
    BlockRequest,
    DataBlock,
    DataUpgrade,
    HashRequest,
    Node,
    SeekRequest,
    UpgradeRequest,
)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Core]:
    store = Corestore(tmp_path / "writer")
    core = store.get(name="core")
    core.append([f"block {i}".encode() * (i + 1) for i in range(30)])
    yield core
    store.close()


@pytest.fixture
def reader(tmp_path: Path, writer: Core) -> Iterator[Core]:
    store = Corestore(tmp_path / "reader")
    yield store.get(key=writer.key)
    store.close()


def state(core: Core) -> tuple[object, ...]:
    nodes = core.storage.node_indexes()
    return core.fork, core.length, nodes, [core.has(i) for i in range(40)], core.manifest, core.signature


def ask(writer: Core, **parts: object) -> Data:
    data = writer.proof(Request(1, writer.fork, **parts))  # type: ignore[arg-type]
    assert data is not None
    return Data.decode(Reader(data.encode()))


def upgrade(writer: Core, reader: Core) -> None:
    request = UpgradeRequest(reader.length, writer.length - reader.length)
    reader.verify_and_store([ask(writer, upgrade=request, manifest=True)])


def follow(writer: Core, reader: Core) -> int:
    """Take ``reader`` to the fork of ``writer``; return how often it had to ask."""
    reorg = reader.reorg(ask(writer, upgrade=UpgradeRequest(0, writer.length), manifest=True))
    rounds = 1
    while wanted := reorg.wanted():
        for request in wanted:
            reorg.add(ask(writer, hash=request))
        rounds += 1
    reorg.apply()
    return rounds


def block(writer: Core, reader: Core, index: int) -> None:
    climb = reader.missing_nodes(2 * index)
    reader.verify_and_store([ask(writer, block=BlockRequest(index, climb))])


def test_sparse_reader(writer: Core, reader: Core) -> None:
    upgrade(writer, reader)
    assert reader.manifest == writer.manifest and reader.length == 30
    for index in (17, 3, 16, 29, 0):
        block(writer, reader, index)
        assert reader.get_local(index) == writer.get_local(index)
    assert reader.missing_nodes(2 * 2) == 0  # known as a sibling
    assert reader.contiguous_length == 1
    writer.append([b"more"])
    upgrade(writer, reader)
    assert reader.length == 31
    assert not reader.can_upgrade(5) and reader.can_upgrade(30) and reader.can_upgrade(0)


def test_a_reader_serves_what_it_has(writer: Core, reader: Core, tmp_path: Path) -> None:
    upgrade(writer, reader)
    block(writer, reader, 17)
    assert reader.proof(Request(1, 0, block=BlockRequest(16, 0))) is None
    assert reader.proof(Request(1, 1, block=BlockRequest(17, 0))) is None
    third_store = Corestore(tmp_path / "third")
    third = third_store.get(key=writer.key)
    upgrade(reader, third)
    block(reader, third, 17)
    assert third.get_local(17) == writer.get_local(17)
    third_store.close()


REQUESTS = [
    {"upgrade": UpgradeRequest(0, 30), "manifest": True},
    {"upgrade": UpgradeRequest(0, 20), "manifest": True},
    {"upgrade": UpgradeRequest(0, 30), "block": BlockRequest(11, 0), "manifest": True},
    {"upgrade": UpgradeRequest(0, 30), "seek": SeekRequest(500, 0), "manifest": True},
]


@pytest.mark.parametrize("parts", REQUESTS, ids=lambda parts: "+".join(parts))
def test_damaged_answers_change_nothing(writer: Core, reader: Core, parts: dict[str, object]) -> None:
    good = ask(writer, **parts).encode()
    before = state(reader)
    rng = random.Random(1)
    for _ in range(300):
        damaged = bytearray(good)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(damaged)) :]
        try:
            data = Data.decode(Reader(bytes(damaged)))
            data.request = 1
            reader.verify_and_store([data])
        except ProtocolError:
            pass
        if state(reader) != before:  # only a change that says the same may be taken
            assert reader.length == 30 and reader.batch().hash() == writer.batch().hash()
            return


@pytest.mark.parametrize("index", [0, 3, 15, 16, 21, 24, 27, 28, 29])
def test_a_byte_is_found_in_the_answer_for_it(writer: Core, reader: Core, index: int) -> None:
    position = sum(len(f"block {i}") * (i + 1) for i in range(index)) + 1
    whole = UpgradeRequest(0, 30)
    reader.verify_and_store([ask(writer, upgrade=whole, seek=SeekRequest(position, 0), manifest=True)])
    found = reader.find(position)
    assert (found.found, found.start, found.offset) == (True, index, 1)


def test_an_upgrade_is_what_was_asked_for_and_no_more(writer: Core, reader: Core) -> None:
    batch = reader.batch()
    proof = ask(writer, upgrade=UpgradeRequest(0, 30), manifest=True).upgrade
    assert proof is not None
    for start, length in ((1, 29), (0, 0), (0, 31)):
        with pytest.raises(ProtocolError):
            verify_upgrade(reader.batch(), replace(proof, start=start, length=length), None, None)
    with pytest.raises(ProtocolError, match="too many"):
        verify_upgrade(reader.batch(), replace(proof, nodes=[*proof.nodes, proof.nodes[0]]), None, None)
    assert verify_upgrade(batch, proof, None, None)
    assert batch.hash() == writer.batch().hash()
    with pytest.raises(ProtocolError, match="does not start"):
        verify_upgrade(batch, proof, None, None)


def test_a_changed_block_or_node_is_refused(writer: Core, reader: Core) -> None:
    upgrade(writer, reader)
    before = state(reader)
    data = ask(writer, block=BlockRequest(5, reader.missing_nodes(10)))
    assert data.block is not None
    data.block.value = data.block.value[:-1] + b"x"
    with pytest.raises(ProtocolError):
        reader.verify_and_store([data])
    data = ask(writer, block=BlockRequest(5, reader.missing_nodes(10)))
    assert data.block is not None
    data.block.nodes[1] = replace(data.block.nodes[1], hash=bytes(32))
    with pytest.raises(ProtocolError):
        reader.verify_and_store([data])
    other = ask(writer, block=BlockRequest(6, reader.missing_nodes(12)))
    assert other.block is not None
    other.block.index = 5
    with pytest.raises(ProtocolError):
        reader.verify_and_store([other])
    assert state(reader) == before
    good = ask(writer, block=BlockRequest(6, reader.missing_nodes(12)))
    assert reader.verify_and_store([good, other]) == 1
    assert reader.has(6) and not reader.has(5)


def test_requests_without_sense(writer: Core) -> None:
    for parts in (
        {"upgrade": UpgradeRequest(0, 31)},
        {"upgrade": UpgradeRequest(30, 0)},
        {"block": BlockRequest(3, 60)},
        {"block": BlockRequest(2**50, 0)},
        {"hash": HashRequest(2**50 + 1, 3)},
        {"hash": HashRequest(7, 0), "seek": SeekRequest(10**9, 0)},
        {"block": BlockRequest(3, 0), "upgrade": UpgradeRequest(0, 30), "seek": SeekRequest(1, 0)},
    ):
        with pytest.raises(ProtocolError):
            writer.proof(Request(1, 0, **parts))  # type: ignore[arg-type]


async def test_a_block_below_zero_is_not_there(writer: Core) -> None:
    writer.append([b"x"] * PAGE_BITS)  # a whole page of the bitfield
    for core in (writer, writer.snapshot()):
        with pytest.raises(NotAvailable):
            await core.get(-1)


def test_stale_answers_are_left_out(writer: Core, reader: Core) -> None:
    late = ask(writer, upgrade=UpgradeRequest(0, 30), manifest=True)
    upgrade(writer, reader)
    before = state(reader)
    assert reader.verify_and_store([late]) == 1
    writer.truncate(10)
    old = ask(writer, upgrade=UpgradeRequest(0, 10))
    old.fork = 0
    reader.verify_and_store([old])
    assert state(reader) == before


def test_a_reader_follows_a_truncation_and_keeps_what_is_shared(writer: Core, reader: Core) -> None:
    upgrade(writer, reader)
    for index in range(30):
        block(writer, reader, index)
    view = reader.snapshot()
    writer.truncate(20)
    writer.append([b"new %d" % index for index in range(20, 45)])
    follow(writer, reader)
    assert (reader.fork, reader.length, reader.contiguous_length) == (1, 45, 20)
    assert [reader.get_local(i) for i in range(20)] == [writer.get_local(i) for i in range(20)]
    assert not any(map(reader.has, range(20, 45)))
    for index in range(20):
        reader.proof(Request(1, 1, block=BlockRequest(index, 0)))  # can be proved to others, too
    for index in range(20, 45):
        block(writer, reader, index)
    assert [reader.get_local(i) for i in range(45)] == [writer.get_local(i) for i in range(45)]
    assert max(map(flat_tree.right_span, reader.storage.node_indexes())) < 90
    with pytest.raises(NotAvailable):
        reader.check_version(view.fork, view.length)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_two_forks_share_is_found(writer: Core, reader: Core, data: st.DataObject) -> None:
    """However long, wherever it was cut, whatever is held: exactly the shared blocks stay, in few rounds."""
    fork = writer.fork
    old = data.draw(st.integers(1, 200))
    cut = data.draw(st.integers(0, old))
    new = data.draw(st.integers(max(cut, 1), 200))
    held = data.draw(st.sets(st.integers(0, old - 1), max_size=8))
    writer.truncate(0)
    writer.append([b"old %d %d" % (fork, index) for index in range(old)], durable=False)
    follow(writer, reader)
    for index in held:
        block(writer, reader, index)
    writer.truncate(cut)
    writer.append([b"new %d %d" % (fork, index) for index in range(cut, new)], durable=False)
    assert follow(writer, reader) <= 4
    assert (reader.fork, reader.length) == (writer.fork, new)
    assert reader.batch().hash() == writer.batch().hash()
    assert {index for index in range(new) if reader.has(index)} == {index for index in held if index < cut}
    for index in {*range(0, new, 7), *held} - {*range(new, old)}:
        block(writer, reader, index)
        assert reader.get_local(index) == writer.get_local(index)


def test_forks_that_are_not_proved(writer: Core, reader: Core) -> None:
    upgrade(writer, reader)
    for index in range(30):
        block(writer, reader, index)
    before = state(reader)
    writer.truncate(20)
    writer.append([b"new %d" % index for index in range(20, 45)])
    good = ask(writer, upgrade=UpgradeRequest(0, 45))
    bad_fork, bad_signature, late_start = (Data.decode(Reader(good.encode())) for _ in range(3))
    bad_fork.fork = 7
    bad_signature.upgrade.signature = bytes(64)
    late_start.upgrade.start = 1
    for data in (bad_fork, bad_signature, late_start, ask(writer, hash=HashRequest(0, 5))):
        with pytest.raises(ProtocolError):
            reader.reorg(data)
    reorg = reader.reorg(good)
    branch = ask(writer, hash=reorg.wanted()[0])
    branch.hash.nodes[0].hash = bytes(32)
    with pytest.raises(ProtocolError):
        reorg.add(branch)
    assert state(reader) == before


def test_survives_reopening(writer: Core, tmp_path: Path) -> None:
    path = tmp_path / "again"
    store = Corestore(path)
    core = store.get(key=writer.key)
    upgrade(writer, core)
    for index in (0, 1, 7, 29):
        block(writer, core, index)
    before = state(core)
    store.close()
    store = Corestore(path)
    core = store.get(key=writer.key)
    assert state(core) == before
    assert core.get_local(7) == writer.get_local(7)
    store.close()


def test_random_bytes_as_manifests_and_signatures() -> None:
    rng = random.Random(2)
    for _ in range(3000):
        data = bytes([rng.randrange(4)]) + rng.randbytes(rng.randrange(200))
        for decode in (Manifest.decode, lambda raw: MultiSignature.decode(raw, raw[0])):
            try:
                decode(data)
            except PelureError as error:
                assert isinstance(error, ProtocolError)


def made_up(writer: Core, length: int, block: bytes) -> Data:
    """The writer's proof of a tree of ``length`` blocks, a power of two and one, with the last block."""
    root = Node(flat_tree.node_at(length.bit_length() - 1, 0), 1 << 30, bytes(32))
    leaf = Node(2 * length - 2, len(block), leaf_hash(block))
    tree = TreeBatch([], 0, 0)
    tree.append_root(root)
    tree.append_root(leaf)
    assert tree.length == length and writer.verifier is not None
    signature = writer.verifier.sign(tree, writer.key_pairs)
    upgrade = DataUpgrade(0, length, [root], [], signature)
    manifest = writer.verifier.manifest.encode()
    return Data(1, 0, DataBlock(length - 1, block, []), upgrade=upgrade, manifest=manifest)


def test_a_block_of_a_tree_that_nobody_could_hold_takes_no_memory(writer: Core, reader: Core) -> None:
    """A hostile writer may sign any length; a reader begins with the last block."""
    length = (MAX_LENGTH >> 1) + 1
    assert reader.verify_and_store([made_up(writer, length, b"the head")]) == 1
    assert reader.length == length and reader.get_local(length - 1) == b"the head"
    assert not reader.has(length - 2) and reader.contiguous_length == 0
    reader.storage.store.commit()
    assert reader.storage.load_bitfield().first_set(0) == length - 1


def test_a_tree_longer_than_can_be_kept(writer: Core, reader: Core) -> None:
    before = state(reader)
    with pytest.raises(ProtocolError):
        reader.verify_and_store([made_up(writer, MAX_LENGTH + 1, b"the head")])
    assert state(reader) == before


def test_another_s_manifest_and_signature_are_not_the_core_s(writer: Core, reader: Core) -> None:
    """Whoever brings a manifest of their own can sign anything under it."""
    before = state(reader)
    forger = KeyPair.from_seed(bytes(32))
    manifest = single_signer(forger.public_key)
    answer = ask(writer, upgrade=UpgradeRequest(0, 30))
    tree = TreeBatch([], 0, 0)
    assert answer.upgrade is not None
    verify_upgrade(tree, answer.upgrade, None, None)
    answer.upgrade.signature = Verifier(reader.key, manifest).sign(tree, [forger])
    answer.manifest = manifest.encode()
    with pytest.raises(ProtocolError, match="manifest"):
        reader.verify_and_store([answer])
    assert state(reader) == before


BEGINNING = [b"fixed", b"from", b"the start"]


@pytest.fixture
def fixed(tmp_path: Path) -> Iterator[Core]:
    """A core whose first blocks are fixed by its manifest, and two more."""
    tree = TreeBatch([], 0, 0)
    tree.append_leaves([len(block) for block in BEGINNING], [leaf_hash(block) for block in BEGINNING])
    pair = KeyPair.from_seed(bytes(32))
    signers = single_signer(pair.public_key).signers
    manifest = Manifest(1, signers, 1, prologue=Prologue(tree.hash(), len(BEGINNING)))
    store = Corestore(tmp_path / "fixed")
    core = store.get(manifest=manifest, key_pairs=(pair,))
    core.append(BEGINNING)
    core.append([b"more"] * 2)
    yield core
    store.close()


def test_a_fixed_beginning_is_always_proved_as_a_whole(fixed: Core, tmp_path: Path) -> None:
    store = Corestore(tmp_path / "another")
    reader = store.get(key=fixed.key)
    for start, length in ((0, 1), (0, 2), (2, 1)):  # answered alike, whatever part is asked for
        answer = ask(fixed, upgrade=UpgradeRequest(start, length), manifest=True)
        assert answer.upgrade is not None
        assert (answer.upgrade.start, answer.upgrade.length) == (0, 3)
    reader.verify_and_store([answer])
    assert reader.length == 5  # the nodes up to the signed head come along
    assert (later := ask(fixed, upgrade=UpgradeRequest(3, 1)).upgrade) is not None
    assert (later.start, later.length) == (3, 1)
    store.close()


def shown(core: Core, length: int) -> Data:
    """The proof of all of ``core``, of which ``length`` blocks are shown as asked for."""
    nodes = make_proof(core.get_node, core.length, Request(1, 0, upgrade=UpgradeRequest(0, length)))
    upgrade = DataUpgrade(0, length, nodes.upgrade, nodes.additional, core.signature)
    assert core.manifest is not None
    return Data(1, 0, upgrade=upgrade, manifest=core.manifest.encode())


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_a_fixed_beginning_is_taken_as_a_whole_or_not_at_all(
    fixed: Core, tmp_path: Path, length: int
) -> None:
    store = Corestore(tmp_path / "another")
    reader = store.get(key=fixed.key)
    if length != len(BEGINNING):
        with pytest.raises(ProtocolError, match="fixed beginning"):
            reader.verify_and_store([shown(fixed, length)])
        assert reader.length == 0
    else:
        assert reader.verify_and_store([shown(fixed, length)]) == 1
    store.close()


def test_a_signer_is_held_to_the_fixed_beginning(fixed: Core, tmp_path: Path) -> None:
    store = Corestore(tmp_path / "another")
    forged = store.get(manifest=fixed.manifest, key_pairs=fixed.key_pairs)
    forged.append([b"other", b"from", b"the start", b"more"])
    other = Corestore(tmp_path / "reader")
    reader = other.get(key=fixed.key)
    with pytest.raises(ProtocolError, match="another beginning"):
        reader.verify_and_store([shown(forged, 3)])
    assert reader.length == 0
    other.close()
    store.close()
