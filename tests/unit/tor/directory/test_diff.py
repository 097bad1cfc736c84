"""Consensus diffs (proposal 140): made and applied, and refused when they don't fit."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DirectoryError
from pelure.tor.directory.consensus import parse_consensus
from pelure.tor.directory.diff import apply_diff, base_digest, diff_digests, is_diff, make_diff
from unit.tor.directory.support import FakeNetwork, damaged, vector

BASE = vector("cached-microdesc-consensus")
CHANGED = (
    BASE.replace(b"Bandwidth=58", b"Bandwidth=99")
    .replace(b"valid-after 2000-01-01 00:02:20", b"valid-after 2000-01-01 00:02:21")
    .replace(b"\nv Tor 0.4.9.6\npr", b"\npr", 1)
)
DIFF = make_diff(BASE, CHANGED)


def without_router(document: bytes, index: int) -> bytes:
    pieces = document.split(b"\nr ")
    if index == len(pieces) - 1:
        pieces[-1] = pieces[-1][pieces[-1].index(b"directory-footer") :]
        return b"\nr ".join(pieces[:-1]) + b"\n" + pieces[-1]
    return b"\nr ".join(pieces[:index] + pieces[index + 1 :])


def test_there_and_back() -> None:
    assert is_diff(DIFF) and not is_diff(BASE)
    assert diff_digests(DIFF).base == base_digest(BASE) == parse_consensus(BASE).sha3_signed
    assert apply_diff(BASE, DIFF) == CHANGED
    assert apply_diff(CHANGED, make_diff(CHANGED, BASE)) == BASE


def signatures(document: bytes) -> bytes:
    return document[document.index(b"directory-signature ") :]


def test_a_diff_of_nothing_holds_the_signatures_only() -> None:
    diff = make_diff(BASE, BASE)
    assert apply_diff(BASE, diff) == BASE
    assert diff.count(b"\n") == 5 + signatures(BASE).count(b"\n")


def test_whatever_signatures_the_base_has() -> None:
    first = BASE.index(b"directory-signature ")
    second = BASE.index(b"directory-signature ", first + 1)
    assert apply_diff(BASE[:second], DIFF) == CHANGED
    assert apply_diff(BASE + BASE[second:], DIFF) == CHANGED


def test_a_small_change_makes_a_small_diff() -> None:
    one, two = BASE.replace(b"Bandwidth=58", b"Bandwidth=99"), BASE.replace(b"cc_alg=2", b"cc_alg=0")
    two = two.replace(b"\nvote-digest 0F", b"\nvote-digest 00").replace(
        b"\nvote-digest 28", b"\nvote-digest 00"
    )
    assert make_diff(BASE, one).count(b"\n") - make_diff(BASE, BASE).count(b"\n") == 3
    assert make_diff(BASE, two).count(b"\n") - make_diff(BASE, BASE).count(b"\n") == 9


def test_relays_come_and_go() -> None:
    smaller = without_router(BASE, 3)
    assert apply_diff(BASE, make_diff(BASE, smaller)) == smaller
    assert apply_diff(smaller, make_diff(smaller, BASE)) == BASE
    last_gone = without_router(BASE, 7)
    assert apply_diff(last_gone, make_diff(last_gone, BASE)) == BASE


def test_consensuses_of_two_rounds() -> None:
    network = FakeNetwork(relays=4)
    one = network.consensus()
    other = network.consensus(valid_after=network.now + 60)
    assert apply_diff(one, make_diff(one, other)) == other


def test_another_base_is_refused() -> None:
    with pytest.raises(DirectoryError, match="another base"):
        apply_diff(CHANGED, DIFF)


def script(*lines: bytes) -> bytes:
    return b"\n".join([*DIFF.split(b"\n")[:2], *lines]) + b"\n"


@pytest.mark.parametrize(
    "lines",
    [
        (b"1x",),
        (b"0d",),
        (b"5,3d",),
        (b"1,99999d",),
        (b"3,$c", b"x", b"."),
        (b"2,4a", b"x", b"."),
        (b"3a", b"."),
        (b"3a", b"x"),
        (b"3d", b"5d"),
        (b"5d", b"5d"),
        (b"99999999999d",),
    ],
)
def test_scripts_that_are_no_good(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(DirectoryError):
        apply_diff(BASE, script(*lines))


@pytest.mark.parametrize(
    "head", [b"", b"network-status-diff-version 2\n", b"network-status-diff-version 1\nhash A B\n"]
)
def test_malformed_headers(head: bytes) -> None:
    with pytest.raises(DirectoryError):
        apply_diff(BASE, head)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 1 << 32))
def test_random_edits(seed: int) -> None:
    rng = random.Random(seed)
    changed = BASE
    for _ in range(rng.randrange(1, 5)):
        kind = rng.randrange(3)
        if kind == 0 and changed.count(b"\nr ") > 1:
            changed = without_router(changed, rng.randrange(1, changed.count(b"\nr ") + 1))
        elif kind == 1:
            changed = changed.replace(b"Unmeasured=1", b"Unmeasured=1 X=%d" % rng.randrange(100), 1)
        else:
            changed = changed.replace(b"\ns ", b"\nx %d\ns " % rng.randrange(9), rng.randrange(1, 4))
    assert apply_diff(BASE, make_diff(BASE, changed)) == changed
    assert apply_diff(changed, make_diff(changed, BASE)) == BASE


@settings(deadline=None, max_examples=100)
@given(damaged(DIFF))
def test_damaged_diffs(diff: bytes) -> None:
    try:
        assert apply_diff(BASE, diff) == CHANGED
    except DirectoryError:
        pass
