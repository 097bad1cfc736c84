"""Small commits survive without the database; torn and outdated records do not count."""

from __future__ import annotations

import shutil
from pathlib import Path

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
