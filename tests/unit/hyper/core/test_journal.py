"""Small commits survive without the database; torn and outdated records do not count."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.hyper.core import journal
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.core.journal import Journal


@given(st.dictionaries(st.binary(max_size=20), st.none() | st.binary(max_size=300), max_size=20))
@settings(deadline=None, max_examples=60)
def test_records_round_trip(changes: dict[bytes, bytes | None]) -> None:
    assert journal.decode(journal.encode(changes)) == changes


def test_records_up_to_the_first_that_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    log = Journal(path)
    for number in range(5):
        log.append(7, journal.encode({b"key": b"%d" % number}))
    log.close()
    log = Journal(path)
    assert [found[b"key"] for found in log.read(7)] == [b"0", b"1", b"2", b"3", b"4"]
    assert list(log.read(8)) == []
    log.close()
    data = bytearray(path.read_bytes())
    size = len(data[: data.rindex(b"4") + 1]) // 5
    data[3 * size - 1] ^= 1  # the third record's last byte
    path.write_bytes(data)
    log = Journal(path)
    assert len(list(log.read(7))) == 2
    log.append(7, journal.encode({b"key": b"after"}))
    assert [found[b"key"] for found in log.read(7)][:3] == [b"0", b"1", b"after"]
    log.restart()
    log.append(8, journal.encode({b"key": b"new"}))
    assert [found[b"key"] for found in log.read(8)] == [b"new"]
    log.close()


def test_a_journal_is_filled_to_its_end_and_no_further(tmp_path: Path) -> None:
    log = Journal(tmp_path / "journal")
    head = journal._HEAD.size
    first = journal.encode({b"key": bytes(1000)})
    log.append(3, first)
    rest = journal.SIZE - 2 * head - len(first)
    assert log.fits(bytes(rest)) and not log.fits(bytes(rest + 1))
    log.append(3, journal.encode({b"k": bytes(rest - journal._ITEM.size - 1)}))
    assert not log.fits(b"")
    assert (tmp_path / "journal").stat().st_size == journal.SIZE
    assert len(list(log.read(3))) == 2
    log.close()


def test_what_was_written_in_part_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Journal(tmp_path / "journal")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, at: len(data) - 1)
        with pytest.raises(OSError, match="could be written"):
            log.append(1, journal.encode({b"key": b"lost"}))
    log.append(1, journal.encode({b"key": b"kept"}))
    assert list(log.read(1)) == [{b"key": b"kept"}]
    log.close()


def test_all_is_on_the_disk_before_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long blocks first, then what refers to them: after a power cut either both are there or neither."""
    synced: list[str] = []

    def noting(sync: Callable[[int], None]) -> Callable[[int], None]:
        def note(fd: int) -> None:
            synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
            sync(fd)

        return note

    store = Corestore(tmp_path / "store")
    core = store.get(name="core")
    assert store.store._database._env.flags()["sync"] and store.store._database._env.flags()["metasync"]
    monkeypatch.setattr(os, "fdatasync", noting(os.fdatasync))
    monkeypatch.setattr(os, "fsync", noting(os.fsync))
    told: list[list[str]] = []
    core.on_change(lambda change: told.append(synced[:]))
    core.append([bytes(10_000)])
    core.append([b"short"])
    core.append([bytes(10_000)])
    core.append([bytes(1000)] * 500)  # too much for the journal
    long, first, last = ["blocks-0", "journal"], ["blocks-0", "store", "journal"], ["blocks-0"]
    assert told[0] == first and told[1] == [*first, "journal"]
    assert told[2] == told[3] == [*first, "journal", *long]
    core.append([bytes(10_000), *([bytes(1000)] * 500)])
    assert told[4] == [*told[3], *last]
    store.close()


def copy_of(store: Corestore, path: Path) -> Corestore:
    """What is on the disk now, as after a crash."""
    shutil.copytree(store.path, path)
    return Corestore(path)


def test_a_store_that_was_never_closed(tmp_path: Path) -> None:
    store = Corestore(tmp_path / "store")
    core = store.get(name="core")
    for i in range(50):
        core.append([b"block %d" % i * 30])
    crashed = copy_of(store, tmp_path / "first copy")
    core.append([bytes(1000)] * 500)  # too much for the journal: the database takes over all of it
    core.append([b"last"])
    again = copy_of(store, tmp_path / "second copy")
    found = crashed.get(name="core")
    assert found.length == 50 and found.get_local(49) == b"block 49" * 30
    found.append([b"on"])
    found = again.get(name="core")
    assert found.length == 551 and found.get_local(550) == b"last" and found.get_local(3) == b"block 3" * 30
    for opened in (store, crashed, again):
        opened.close()
    reopened = Corestore(tmp_path / "first copy")
    assert reopened.get(name="core").get_local(50) == b"on"
    reopened.close()


def test_what_was_deleted_stays_deleted(tmp_path: Path) -> None:
    store = Corestore(tmp_path / "store")
    core = store.get(name="core")
    core.append([b"x"] * 10)
    store.close()
    store = Corestore(tmp_path / "store")
    core = store.get(name="core")
    core.clear(2, 5)
    crashed = copy_of(store, tmp_path / "copy")
    found = crashed.get(name="core")
    assert [found.has(i) for i in range(6)] == [True, True, False, False, False, True]
    assert found.get_inline(0, 10).keys() == {0, 1, 5, 6, 7, 8, 9}
    crashed.close()
    store.close()
