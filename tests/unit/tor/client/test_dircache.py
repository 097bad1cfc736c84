"""The microdescriptors on disk: added to as they come, read back whole, rewritten when many are stale."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from pelure.tor.client.dircache import MICRODESCRIPTORS_FILE, DirectoryCache
from pelure.tor.net.statefile import StateFolder

TEXTS = [b"onion-key\nntor-onion-key %s\n" % (letter * 43) for letter in (b"A", b"E", b"I", b"M")]
DIGESTS = [hashlib.sha256(text).digest() for text in TEXTS]


@pytest.fixture
def cache(tmp_path: Path) -> DirectoryCache:
    return DirectoryCache(StateFolder(tmp_path / "state"))


def stored(cache: DirectoryCache) -> bytes:
    return (cache.folder.path / MICRODESCRIPTORS_FILE).read_bytes()


def test_what_is_wanted_of_a_run_is_kept(cache: DirectoryCache) -> None:
    found = cache.take_microdescriptors(b"".join(TEXTS), DIGESTS[:2])
    assert list(found) == DIGESTS[:2]
    found = cache.take_microdescriptors(TEXTS[3], DIGESTS)
    assert list(found) == [DIGESTS[3]]
    assert stored(cache) == TEXTS[0] + TEXTS[1] + TEXTS[3]
    assert list(cache.load_microdescriptors()) == [DIGESTS[0], DIGESTS[1], DIGESTS[3]]
    assert stat.S_IMODE((cache.folder.path / MICRODESCRIPTORS_FILE).stat().st_mode) == 0o600


def test_nothing_was_stored(cache: DirectoryCache) -> None:
    assert cache.load_microdescriptors() == {}
    cache.folder.write(MICRODESCRIPTORS_FILE, b"")
    assert cache.load_microdescriptors() == {}


def test_what_a_crash_cut_short_costs_one_more_at_the_most(cache: DirectoryCache) -> None:
    cache.take_microdescriptors(TEXTS[0] + TEXTS[1], DIGESTS)
    cache.folder.write(MICRODESCRIPTORS_FILE, stored(cache)[:-20])
    cache.take_microdescriptors(TEXTS[2] + TEXTS[3], DIGESTS)
    found = cache.load_microdescriptors()
    assert DIGESTS[0] in found and DIGESTS[3] in found and DIGESTS[1] not in found


def test_unlisted_ones_are_dropped_once_they_are_many(cache: DirectoryCache) -> None:
    cache.take_microdescriptors(b"".join(TEXTS), DIGESTS)
    cache.drop_microdescriptors(DIGESTS[1:])
    assert stored(cache) == b"".join(TEXTS)
    cache.drop_microdescriptors(DIGESTS[2:])
    assert stored(cache) == TEXTS[2] + TEXTS[3]
    again = DirectoryCache(cache.folder)
    again.load_microdescriptors()
    again.drop_microdescriptors(DIGESTS[3:])
    assert stored(cache) == TEXTS[3]


def test_members_of_a_family_share_its_list(cache: DirectoryCache) -> None:
    line = b"family $%s $%s\n" % (b"A" * 40, b"B" * 40)
    texts = [text + line for text in TEXTS]
    found = cache.take_microdescriptors(b"".join(texts), [hashlib.sha256(text).digest() for text in texts])
    first, *others = (one.family for one in found.values())
    assert len(others) == 3 and first == {"$" + "A" * 40, "$" + "B" * 40}
    assert all(family is first for family in others)
