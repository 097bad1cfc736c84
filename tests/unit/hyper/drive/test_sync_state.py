"""What is remembered of files that are the same in a folder and in a drive."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from pelure.hyper.blobs.blob_id import BlobId
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive.entry import DriveEntry
from pelure.hyper.drive.local import LocalEntry
from pelure.hyper.drive.sync_state import SyncState

LONG_AGO = 10**18
BLOB = BlobId(7, 100, 1, 5)
ENTRY = DriveEntry("/a", 3, blob=BLOB)
LOCAL = LocalEntry("/a", 0, blob=BlobId(0, 0, 1, 5), mtime_ns=LONG_AGO)
LINK = LocalEntry("/a", 0, linkname="b", mtime_ns=LONG_AGO)


@pytest.fixture
def state(store: Corestore, tmp_path: Path) -> SyncState:
    return SyncState(store.get(name="db").storage, tmp_path)


def changed(*, size: int = 5, mtime_ns: int = LONG_AGO) -> LocalEntry:
    return replace(LOCAL, blob=BlobId(0, 0, 1, size), mtime_ns=mtime_ns)


def test_a_file_agrees_while_neither_side_changes(state: SyncState) -> None:
    assert not state.agrees(LOCAL, ENTRY) and not state.came_from_drive(LOCAL)
    state.agree(LOCAL, ENTRY, read=True)
    assert state.agrees(LOCAL, ENTRY) and state.came_from_drive(LOCAL)
    for other in (changed(size=6), changed(mtime_ns=LONG_AGO + 1), LINK):
        assert not state.agrees(other, ENTRY)
    for other in (changed(size=6), changed(mtime_ns=LONG_AGO + 1)):
        assert not state.came_from_drive(other)
    for blob in (replace(BLOB, block_offset=8), replace(BLOB, byte_offset=99), None):
        assert not state.agrees(LOCAL, replace(ENTRY, blob=blob))


def test_another_file_and_another_folder_are_not_meant(state: SyncState, store: Corestore) -> None:
    state.agree(LOCAL, ENTRY)
    assert state.get("/b") is None
    assert SyncState(store.get(name="db").storage, Path("/elsewhere")).get("/a") is None


@pytest.mark.parametrize(("age", "relied_on"), [(-60 * 10**9, False), (10**9, True)])
def test_the_time_of_a_file_that_was_written_just_now_is_not_relied_on(
    state: SyncState, age: int, relied_on: bool
) -> None:
    """It may be written once more within the same tick of the clock."""
    local = changed(mtime_ns=time.time_ns() - age)
    state.agree(local, ENTRY, read=True)
    assert state.agrees(local, ENTRY) == relied_on
    assert state.came_from_drive(local)
    state.agree(local, ENTRY)  # pelure wrote it itself
    assert state.agrees(local, ENTRY)


def test_the_time_of_a_file_whose_blocks_a_map_lists_is_not_relied_on(state: SyncState) -> None:
    mapped = replace(ENTRY, blob=replace(BLOB, block_map=True))
    state.agree(LOCAL, mapped)
    assert not state.agrees(LOCAL, mapped) and not state.agrees(LOCAL, ENTRY)
    assert state.came_from_drive(LOCAL)


def test_links_are_known_but_always_looked_at(state: SyncState) -> None:
    state.agree(LINK, replace(ENTRY, blob=None, linkname="b"))
    assert state.came_from_drive(LINK)
    assert not state.agrees(LINK, replace(ENTRY, blob=None, linkname="b"))
    assert not state.came_from_drive(LOCAL)


def test_what_is_saved_stays_and_what_is_forgotten_is_gone(tmp_path: Path) -> None:
    store = Corestore(tmp_path / "s")
    state = SyncState(store.get(name="db").storage, tmp_path)
    state.agree(LOCAL, ENTRY)
    state.agree(replace(LOCAL, path="/b"), replace(ENTRY, path="/b"))
    state.forget("/b")
    state.save()
    assert not store.store._pending  # it is durable already
    store.close()
    store = Corestore(tmp_path / "s")
    state = SyncState(store.get(name="db").storage, tmp_path)
    assert state.agrees(LOCAL, ENTRY) and state.get("/b") is None
    store.close()
