"""The store: one user at a time, durable, honest about damage, and giving space back."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pelure.errors import DriveError
from pelure.hyper.core.blockfile import BlockFile
from pelure.hyper.core.core_storage import INLINE_LIMIT, CoreStorage
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.flat_tree import right_span
from pelure.hyper.core.hashing import leaf_hash
from pelure.hyper.core.linked import LinkedFile, LinkedFileChanged
from pelure.hyper.core.manifest import Manifest, Signer
from pelure.hyper.core.signer import KeyPair
from pelure.hyper.core.state import PlacedBlock
from pelure.hyper.core.storage import _FORMAT_KEY, Store
from pelure.hyper.wire.messages import Request
from pelure.hyper.wire.parts import UpgradeRequest


def test_a_second_user_is_refused_here_and_in_another_process(tmp_path: Path) -> None:
    store = Corestore(tmp_path)
    with pytest.raises(DriveError, match="in use"):
        Corestore(tmp_path)
    code = f"from pelure.hyper.core.corestore import Corestore; Corestore({str(tmp_path)!r})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert other.returncode == 1 and "in use" in other.stderr
    store.close()
    Corestore(tmp_path).close()


@pytest.mark.parametrize("broken", ["journal", "db/data.mdb", "primary-key"])
def test_a_store_that_can_not_be_opened_is_left_as_it_was(tmp_path: Path, broken: str) -> None:
    """Nothing stays open, nor locked: it opens once what was in the way is gone."""
    (tmp_path / broken).mkdir(parents=True)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with pytest.raises((DriveError, OSError)) as refused:
            Corestore(tmp_path)
        assert "in use" not in str(refused.value)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    (tmp_path / broken).rmdir()
    Corestore(tmp_path).close()


def test_a_full_disk_leaves_no_store_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    descriptors = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            Corestore(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    Corestore(tmp_path).close()


def test_a_store_of_another_version_is_refused_and_not_held(tmp_path: Path) -> None:
    store = Corestore(tmp_path)
    store.store.put(_FORMAT_KEY, b"another")
    store.close()
    for _ in range(2):
        with pytest.raises(DriveError, match="another version"):
            Corestore(tmp_path)


def test_files_are_private(tmp_path: Path) -> None:
    store = Corestore(tmp_path / "store")
    store.get(name="core").append([b"x" * 10_000])
    store.close()
    for path in [tmp_path / "store", *(tmp_path / "store").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_names_and_namespaces_give_different_keys_that_stay(tmp_path: Path) -> None:
    store = Corestore(tmp_path, primary_key=bytes(32))
    keys = {
        store.get(name="one").key,
        store.get(name="other").key,
        store.namespace("space").get(name="one").key,
        store.namespace("space").namespace("space").get(name="one").key,
    }
    assert len(keys) == 4
    assert store.get(name="one") is store.get(key=store.get(name="one").key)
    store.get(name="one").append([b"x"])
    key = store.get(name="one").key
    store.close()
    store = Corestore(tmp_path)
    assert store.get(key=key).writable
    assert {head.key for head in store.stored()} == keys
    store.close()
    with pytest.raises(DriveError):
        Corestore(tmp_path, primary_key=bytes([1]) * 32)


def test_damage_is_noticed(tmp_path: Path) -> None:
    store = Corestore(tmp_path)
    core = store.get(name="core")
    core.append([os.urandom(INLINE_LIMIT + 1), os.urandom(50_000), b"short"])
    store.close()
    (file,) = tmp_path.glob("blocks-*")
    data = bytearray(file.read_bytes())
    data[INLINE_LIMIT + 100] ^= 1
    file.write_bytes(data[:-1])
    store = Corestore(tmp_path)
    core = store.get(name="core")
    assert core.get_local(0) is not None and core.get_local(2) == b"short"
    for read in (core.get_local, core.get_stored):
        with pytest.raises(DriveError, match="damaged"):
            read(1)
    store.close()
    (tmp_path / "db" / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(DriveError, match="damaged"):
        Corestore(tmp_path)
    (tmp_path / "primary-key").write_bytes(b"short")


def test_a_damaged_page_of_the_database_is_an_error_of_ours(tmp_path: Path) -> None:
    store = Corestore(tmp_path)
    store.get(name="core").append([bytes([number]) * 100 for number in range(200)])
    store.close()
    file = tmp_path / "db" / "data.mdb"
    meta = 2 * os.sysconf("SC_PAGESIZE")
    file.write_bytes(file.read_bytes()[:meta] + bytes(file.stat().st_size - meta))
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with pytest.raises(DriveError, match="damaged"):
            Corestore(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_key_and_a_manifest_that_do_not_belong_together(tmp_path: Path) -> None:
    store = Corestore(tmp_path)
    one, other = store.get(name="one"), store.get(name="other")
    for _ in range(2):
        with pytest.raises(DriveError, match="manifest"):
            store.get(key=bytes(32), manifest=one.manifest)
    assert store.get(key=other.key, manifest=other.manifest) is other
    store.close()


def test_a_primary_key_that_changed_is_noticed(tmp_path: Path) -> None:
    store = Corestore(tmp_path)
    key = store.get(name="core").key
    store.close()
    file = tmp_path / "primary-key"
    right = file.read_bytes()
    file.write_bytes(bytes([right[0] ^ 1]) + right[1:])
    for _ in range(2):
        with pytest.raises(DriveError, match="damaged"):
            Corestore(tmp_path)
    file.write_bytes(right)
    store = Corestore(tmp_path)
    assert store.get(name="core").key == key
    store.close()


def test_a_store_that_lost_its_database_does_not_begin_anew(tmp_path: Path) -> None:
    """A core of the same keys would get a second history."""
    store = Corestore(tmp_path)
    store.get(name="core").append([b"x"])
    store.close()
    (tmp_path / "db" / "data.mdb").rename(tmp_path / "kept")
    (tmp_path / "db" / "lock.mdb").unlink()
    for _ in range(2):
        with pytest.raises(DriveError, match="lost its database"):
            Corestore(tmp_path)
    (tmp_path / "kept").rename(tmp_path / "db" / "data.mdb")
    store = Corestore(tmp_path)
    assert store.get(name="core").length == 1
    store.close()


def test_what_is_cut_off_is_gone_for_good(tmp_path: Path) -> None:
    store = Corestore(tmp_path)
    core = store.get(name="core")
    core.append([bytes([number]) * 3000 for number in range(13)])
    core.truncate(5)
    assert (core.length, core.fork, core.contiguous_length) == (5, 1, 5)
    assert [core.has(index) for index in (4, 5, 12)] == [True, False, False]
    assert [core.storage.get_block(index) for index in (5, 12)] == [None, None]
    assert all(right_span(index) < 10 for index in core.storage.node_indexes())
    core.append([b"another"] * 3)
    key = core.key
    store.close()
    store = Corestore(tmp_path)
    core = store.get(key=key)
    assert (core.length, core.fork, core.get_local(4), core.get_local(7)) == (
        8,
        1,
        bytes([4]) * 3000,
        b"another",
    )
    core.truncate(8, fork=9)
    assert (core.length, core.fork) == (8, 9)
    for wrong in ({"length": 9}, {"length": -1}, {"length": 3, "fork": 9}):
        with pytest.raises(DriveError):
            core.truncate(**wrong)
    assert (core.length, core.fork) == (8, 9)
    reader = store.get(key=bytes(32))
    for change in (lambda: reader.truncate(0), lambda: reader.append([b"x"])):
        with pytest.raises(DriveError, match="read-only"):
            change()
    store.close()


def test_a_block_that_is_too_long_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pelure.hyper.core.state.MAX_BLOCK", 10)
    store = Corestore(tmp_path)
    core = store.get(name="core")
    with pytest.raises(DriveError, match="too long"):
        core.append([b"x", b"y" * 11])
    assert core.length == 0
    core.append([b"y" * 10])
    store.close()


def test_clearing_and_purging_give_space_back(tmp_path: Path) -> None:
    store = Corestore(tmp_path)
    core = store.get(name="core")
    core.append([os.urandom(1 << 20) for _ in range(8)])
    (file,) = tmp_path.glob("blocks-*")
    full = file.stat().st_blocks
    assert core.clear(0, 6) == 6 << 20
    assert file.stat().st_blocks < full / 2
    assert core.get_local(0) is None and core.get_local(7) is not None
    assert core.contiguous_length == 0
    core.purge()
    assert not file.exists() and not store.stored()
    again = store.get(name="core")
    assert again.length == 0 and again is not core
    again.append([b"a new beginning"])
    store.close()


def test_space_that_lies_together_is_given_back_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[tuple[int, int]] = []
    monkeypatch.setattr(BlockFile, "release", lambda _, position, size: released.append((position, size)))
    store = Corestore(tmp_path)
    core = store.get(name="core")
    core.append([os.urandom(50_000) for _ in range(8)])
    core.clear(1, 6)
    assert released == [(50_000, 250_000)]
    core.clear(0, 8)
    assert released[1:] == [(0, 50_000), (300_000, 100_000)]
    store.close()


async def test_received_blocks_become_durable_by_themselves(tmp_path: Path) -> None:
    store = Corestore(tmp_path)
    core = store.get(name="core")
    core.append([b"one"], durable=False)
    store.store.commit_soon(1)
    core.append([b"two" * 5000], durable=False)
    store.store.commit_soon(100 << 20)
    for _ in range(500):
        if not store.store._pending and not store.store._writing:
            break
        await asyncio.sleep(0.02)
    assert not store.store._pending and not store.store._writing
    assert core.get_local(0) == b"one" and core.get_local(1) == b"two" * 5000
    store.close()


async def test_nobody_is_told_of_what_could_not_be_written_until_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(changes: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(tmp_path)
    told: list[str] = []
    store.when_durable(lambda: told.append("nothing to wait for"))
    assert told == ["nothing to wait for"]
    with monkeypatch.context() as patch:
        patch.setattr(store._database, "write", full)
        store.put(b"key", b"value")
        store.when_durable(lambda: told.append("first"))
        async with asyncio.timeout(30):
            while not store._writing or not store._awaiting:  # noqa: ASYNC110 - until it has failed
                await asyncio.sleep(0.01)
        store.when_durable(lambda: told.append("second"))
        assert store.get(b"key") == b"value" and len(told) == 1
    async with asyncio.timeout(30):
        await store.durable()
    assert told[1:] == ["first", "second"]
    store.close()
    store = Store(tmp_path)
    assert store.get(b"key") == b"value"
    store.close()


def test_keys_from_a_first_up_to_a_last(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in (b"a", b"b", b"d"):
        store.put(key, b"x")
    store.commit()
    store.delete(b"b")
    store.put(b"c", b"x")
    for _ in range(2):
        assert store.keys(b"a", b"d") == [b"a", b"c"]
        assert store.keys(b"b", b"e") == [b"c", b"d"]
        store.commit()
    store.close()
    store = Store(tmp_path)  # by now the database itself has it all
    assert store.keys(b"a", b"e") == [b"a", b"c", b"d"] and store.get(b"b") is None
    assert list(store._database.scan(b"a", b"e")) == [(key, b"x") for key in (b"a", b"c", b"d")]
    store.close()


def test_a_linked_file_that_changes_is_never_served_as_the_old_one(tmp_path: Path) -> None:
    store = Corestore(tmp_path / "store")
    core = store.get(name="core")
    source = tmp_path / "source"
    content = os.urandom(100_000)
    source.write_bytes(content)
    link = core.storage.add_link(LinkedFile.of(str(source), source.stat()))
    core.append_placed(
        [
            PlacedBlock(65536, leaf_hash(content[:65536]), 0, link),
            PlacedBlock(34464, leaf_hash(content[65536:]), 65536, link),
        ]
    )
    assert core.get_local(0) == content[:65536] and core.get_stored(1) == content[65536:]
    (file,) = core.storage.links()
    assert file.unchanged()
    with source.open("r+b") as changed:
        changed.seek(70_000)
        changed.write(b"changed")
    assert core.get_local(0) == content[:65536]
    for read in (core.get_local, core.get_stored):
        with pytest.raises(LinkedFileChanged, match="import it again"):
            read(1)
    source.write_bytes(content[:80_000])
    with pytest.raises(LinkedFileChanged):
        core.get_local(1)
    source.unlink()
    store.store.open_files.close()
    with pytest.raises(LinkedFileChanged):
        core.get_local(0)
    assert not file.unchanged()
    source.write_bytes(content)
    assert core.get_local(1) == content[65536:]
    store.close()


def test_several_signers(tmp_path: Path) -> None:
    store = Corestore(tmp_path)
    pairs = tuple(KeyPair.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
    manifest = Manifest(1, tuple(Signer(pair.public_key) for pair in pairs), 2)
    core = store.get(manifest=manifest)
    assert not core.writable
    with pytest.raises(DriveError, match="read-only"):
        core.append([b"x"])
    store.close()
    store = Corestore(tmp_path)
    core = store.get(manifest=manifest, key_pairs=pairs[1:])
    assert core.writable
    core.append([b"x", b"y"])
    assert core.verifier is not None
    core.verifier.verify(core.batch(), core.signature)
    store.close()


def test_a_signature_is_on_the_disk_before_it_is_told(tmp_path: Path) -> None:
    """And it is made only when somebody asks: whoever opens the store later makes the same."""
    store = Corestore(tmp_path / "store")
    core = store.get(name="core")
    core.append([b"one", b"two"])
    shutil.copytree(tmp_path / "store", tmp_path / "before")  # what the disk has, were the power cut now
    answer = core.proof(Request(1, 0, upgrade=UpgradeRequest(0, 2)))
    assert answer is not None and answer.upgrade is not None
    told = answer.upgrade.signature
    shutil.copytree(tmp_path / "store", tmp_path / "after")
    for name, known in (("before", None), ("after", told)):
        later = Corestore(tmp_path / name)
        head = CoreStorage.peek(later.store, core.discovery_key)
        assert head is not None and (head.length, head.signature) == (2, known)
        assert later.get(name="core").signature == told
        later.close()
    store.close()


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    store = Corestore(tmp_path)
    core = store.get(name="core")
    (pair,) = core.key_pairs
    shown = repr(pair) + repr(core._head) + repr(core)
    assert pair.seed.hex() not in shown and repr(pair.seed) not in shown
    store.close()
