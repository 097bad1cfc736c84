"""The shared random protocol (srv-spec): vectors of C tor's reference scripts, whole runs, the state file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DirectoryError
from pelure.tor.authority.shared_random import (
    ROUNDS_A_RUN,
    Commit,
    Phase,
    SharedRandomState,
    compute,
    phase_of,
    run_end,
)
from pelure.tor.authority.sr_state import decode_state, encode_state
from pelure.tor.directory.consensus import SharedRandomValue
from pelure.tor.directory.vote import SharedRandomCommit

INTERVAL = 10
RUN = ROUNDS_A_RUN * INTERVAL
START = 1_700_000_160 // RUN * RUN


def rng_of(seed: str) -> Callable[[int], bytes]:
    counter = iter(range(1_000_000))
    return lambda n: hashlib.shake_256(f"{seed}{next(counter)}".encode()).digest(n)


def test_commit_and_reveal_encoding() -> None:
    """Values printed by C tor's src/test/sr_commit_calc_ref.py."""
    commit = Commit.generate(bytes(20), 1454333590, b"A" * 32)
    assert commit.reveal == "AAAAAFavXpZJxbwTupvaJCTeIUCQmOPxAMblc7ChL5H2nZKuGchdaA=="
    assert commit.commit == "AAAAAFavXpbkBMzMQG7aNoaGLFNpm2Wkk1ozXhuWWqL//GynltxVAg=="
    assert commit.reveal_matches()


def test_value_of_three_reveals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value printed by C tor's src/test/sr_srv_calc_ref.py, whose commitments are not encoded ones."""
    commits = [Commit(20 * letter, chr(letter[0]) * 56, chr(letter[0]) * 56) for letter in (b"B", b"C", b"A")]
    monkeypatch.setattr(Commit, "hashed_reveal", property(lambda self: self.identity))
    value = compute(commits, SharedRandomValue(1, b"Z" * 32))
    assert value.value.hex().upper() == "2A9B1D6237DAB312A40F575DA85C147663E7ED3F80E9555395F15B515C74253D"
    assert value.reveals == 3


def test_value_without_a_previous_one() -> None:
    commits = [Commit.generate(bytes([n]) * 20, START, bytes([n]) * 32) for n in (1, 2)]
    assert compute(commits, None) == compute(commits[::-1], SharedRandomValue(0, bytes(32)))
    hidden = Commit(bytes([3]) * 20, commits[0].commit)
    assert compute([*commits, hidden], None) == compute(commits, None)


@pytest.mark.parametrize(
    "words",
    [
        ["2", "sha3-256"],
        ["1", "sha256"],
        ["1", "sha3-256", "00" * 19],
        ["1", "sha3-256", "x" * 40],
        ["1", "sha3-256", "00" * 20, "AAAA"],
        ["1", "sha3-256", "00" * 20, "", "AAAA"],
        ["1", "sha3-256", "00" * 20, "trailing"],
    ],
)
def test_commitments_that_are_not_read(words: list[str]) -> None:
    made = Commit.generate(bytes(20), START, bytes(32))
    good = ["1", "sha3-256", "00" * 20, made.commit, made.reveal]
    assert Commit.parse(good) == made and Commit.parse(good[:4]) == Commit(bytes(20), made.commit)
    with pytest.raises(DirectoryError):
        Commit.parse([word or good[index] for index, word in enumerate(words)] + good[len(words) :])
    with pytest.raises(DirectoryError):
        Commit.parse(good[:3])
    with pytest.raises(DirectoryError):
        Commit.parse([*good[:3], made.commit + "*"])


def test_a_reveal_of_another_time_is_none() -> None:
    """It has the digest that was committed to, but the time of another run."""
    reveal = Commit.generate(bytes(20), START + 1, bytes(32)).reveal
    digest = hashlib.sha3_256(reveal.encode()).digest()
    commit = base64.b64encode(START.to_bytes(8, "big") + digest).decode()
    assert not Commit(bytes(20), commit, reveal).reveal_matches()
    same_time = base64.b64encode((START + 1).to_bytes(8, "big") + digest).decode()
    assert Commit(bytes(20), same_time, reveal).reveal_matches()


def test_phases_of_a_run() -> None:
    phases = [phase_of(START + n * INTERVAL, INTERVAL) for n in range(ROUNDS_A_RUN)]
    assert phases == [Phase.COMMIT] * 12 + [Phase.REVEAL] * 12
    assert run_end(START + 13 * INTERVAL, INTERVAL) == START + RUN


def exchange(states: dict[bytes, SharedRandomState], absent: bytes = b"") -> None:
    """One round's votes: every authority but ``absent`` hears every other."""
    votes = {who: state.vote_commits() for who, state in states.items() if who != absent}
    for state in states.values():
        for voter, commits in votes.items():
            state.receive(commits, voter, states)


def test_three_authorities_agree_on_a_value() -> None:
    states = {bytes([n]) * 20: SharedRandomState() for n in (1, 2, 3)}
    rngs = {who: rng_of(who.hex()) for who in states}
    for number in range(ROUNDS_A_RUN + 1):
        for who, state in states.items():
            assert state.prepare(START + number * INTERVAL, INTERVAL, who, rngs[who])
        if number < ROUNDS_A_RUN:
            exchange(states)
    values = {state.current for state in states.values()}
    assert len(values) == 1
    (value,) = values
    assert value is not None and value.reveals == 3
    assert all(state.fresh for state in states.values())
    assert all(len(state.commits) == 1 for state in states.values()), "a new run has begun"


def test_an_authority_silent_in_the_reveal_phase_is_left_out() -> None:
    states = {bytes([n]) * 20: SharedRandomState() for n in (1, 2, 3)}
    silent = bytes([3]) * 20
    for number in range(ROUNDS_A_RUN + 1):
        for who, state in states.items():
            state.prepare(START + number * INTERVAL, INTERVAL, who, rng_of(f"{who.hex()}{number}"))
        if number < ROUNDS_A_RUN:
            exchange(states, absent=silent if number >= 12 else b"")
    values = {state.current for who, state in states.items() if who != silent}
    assert {value.reveals for value in values if value} == {2} and len(values) == 1


def test_what_is_ignored() -> None:
    me, other, stranger = (bytes([n]) * 20 for n in (1, 2, 3))
    state = SharedRandomState()
    state.prepare(START, INTERVAL, me, rng_of("me"))
    made = Commit.generate(other, START, bytes(32))
    theirs = SharedRandomCommit(other, made.commit, made.reveal)
    hidden = SharedRandomCommit(other, made.commit)
    known = (me, other)
    assert not state.receive([hidden], me, known), "not the voter's own"
    assert not state.receive([SharedRandomCommit(stranger, made.commit)], stranger, known), "not an authority"
    assert not state.receive([theirs], other, known), "revealed in the commit phase"
    assert state.receive([hidden], other, known)
    unlike = Commit.generate(other, START, b"x" * 32)
    changed = SharedRandomCommit(other, unlike.commit, unlike.reveal)
    assert not state.receive([SharedRandomCommit(other, unlike.commit)], other, known), "a second commitment"
    assert not state.receive([SharedRandomCommit(other, "AAAA")], other, known), "malformed"
    state.prepare(START + 12 * INTERVAL, INTERVAL, me, rng_of("me"))
    assert not state.receive([changed], other, known), "another commitment in the reveal phase"
    assert not state.receive([SharedRandomCommit(other, made.commit, unlike.reveal)], other, known), (
        "a false reveal"
    )
    assert not state.receive([hidden], other, known), "no reveal"
    assert state.receive([theirs], other, known)
    assert not state.receive([theirs], other, known), "a known reveal"
    late = Commit.generate(stranger, START, bytes(32))
    revealed = SharedRandomCommit(stranger, late.commit, late.reveal)
    assert not state.receive([revealed], stranger, (*known, stranger)), "no commitment in time"
    assert set(state.commits) == {me, other}


def test_a_late_start_takes_part_from_the_next_run() -> None:
    me = bytes(20)
    state = SharedRandomState()
    state.prepare(START + 15 * INTERVAL, INTERVAL, me, rng_of("me"))
    assert state.phase is Phase.REVEAL and not state.commits
    assert state.vote_commits() == []
    state.prepare(START + RUN, INTERVAL, me, rng_of("me"))
    assert state.current is not None and state.current.reveals == 0
    assert list(state.commits) == [me]


def test_a_run_without_a_reveal_phase_computes_nothing() -> None:
    """Whoever sleeps from the commit phase to the next run must not make up a value of its own."""
    me = bytes(20)
    known = SharedRandomValue(3, b"c" * 32)
    state = SharedRandomState(current=known)
    state.prepare(START + INTERVAL, INTERVAL, me, rng_of("me"))
    before = dict(state.commits)
    state.prepare(START + RUN, INTERVAL, me, rng_of("later"))
    assert state.current == known and not state.fresh
    assert list(state.commits) == [me] and state.commits != before, "another run needs another commitment"


def test_who_is_no_authority_any_more_does_not_count() -> None:
    me, other = bytes(20), bytes([1]) * 20
    state = SharedRandomState()
    state.prepare(START, INTERVAL, me, rng_of("me"))
    mine = state.commits[me]
    state.commits[other] = Commit.generate(other, START, bytes(32))
    state.keep_only([me])
    assert state.commits == {me: mine}


def test_the_consensus_has_the_last_word() -> None:
    state = SharedRandomState()
    state.prepare(START + 15 * INTERVAL, INTERVAL, bytes(20), rng_of("me"))
    state.prepare(START + RUN, INTERVAL, bytes(20), rng_of("me"))
    assert state.fresh
    previous, current = SharedRandomValue(1, b"p" * 32), SharedRandomValue(2, b"c" * 32)
    state.accept_consensus(previous, current)
    assert (state.previous, state.current, state.fresh) == (previous, current, False)


def test_a_gap_of_a_whole_run_computes_nothing() -> None:
    me = bytes(20)
    state = SharedRandomState()
    state.prepare(START + 15 * INTERVAL, INTERVAL, me, rng_of("me"))
    state.prepare(START + 2 * RUN, INTERVAL, me, rng_of("me"))
    assert state.current is None and list(state.commits) == [me]


def test_state_file_round_trip() -> None:
    me = bytes(range(20))
    state = SharedRandomState(
        previous=SharedRandomValue(2, b"p" * 32), current=SharedRandomValue(3, b"c" * 32)
    )
    state.prepare(START + 3 * INTERVAL, INTERVAL, me, rng_of("me"))
    again = decode_state(encode_state(state), START + 4 * INTERVAL, INTERVAL)
    assert again == state
    assert not again.prepare(START + 3 * INTERVAL, INTERVAL, me, rng_of("other")), "the same round"
    again.prepare(START + 4 * INTERVAL, INTERVAL, me, rng_of("other"))
    assert again.commits == state.commits, "a restart never changes the commitment"


def test_state_file_of_c_tor() -> None:
    text = (
        b"# Tor shared random state file last generated on 2023-11-14 22:16:41 local time\n"
        b"# Other times below are in UTC\n\nTorVersion 0.4.9.11\n"
        b"Commit 1 sha3-256 0123456789ABCDEF0123456789ABCDEF01234567 "
        b"AAAAAFavXpbkBMzMQG7aNoaGLFNpm2Wkk1ozXhuWWqL//GynltxVAg==\n"
        b"SharedRandPreviousValue 3 EugwwyfYg9bJSWist8LfUSVvlMP4k+zFmZNj0w0Z/5E=\n"
        b"ValidAfter 2023-11-14 22:16:40\nValidUntil 2023-11-14 22:20:00\nVersion 1\n"
    )
    state = decode_state(text, 1_700_000_210, INTERVAL)
    assert state.previous is not None and state.previous.reveals == 3 and state.current is None
    assert [commit.identity[:2] for commit in state.commits.values()] == [b"\x01\x23"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Version 1\n", b"Version 2\n"),
        (b"Version 1\n", b""),
        (b"ValidUntil ", b"After "),
        (b"ValidAfter ", b"ValidAfter 2099-01-01 00:00:00\n# "),
        (b"SharedRandPreviousValue 2 ", b"SharedRandPreviousValue "),
        (b"SharedRandPreviousValue 2 ", b"SharedRandPreviousValue -1 "),
        (b"SharedRandCurrentValue ", b"SharedRandPreviousValue "),
    ],
)
def test_state_files_that_are_refused(old: bytes, new: bytes) -> None:
    state = SharedRandomState(
        previous=SharedRandomValue(2, b"p" * 32), current=SharedRandomValue(0, b"c" * 32)
    )
    state.prepare(START + 13 * INTERVAL, INTERVAL, bytes(20), rng_of("me"))
    document = encode_state(state)
    again = decode_state(document, START + 14 * INTERVAL, INTERVAL)
    assert again == state and again.phase is Phase.REVEAL
    assert document.count(old) == 1
    with pytest.raises(DirectoryError):
        decode_state(document.replace(old, new), START + 14 * INTERVAL, INTERVAL)


def test_a_state_that_does_not_say_since_when_holds_since_now() -> None:
    state = SharedRandomState(current=SharedRandomValue(3, b"c" * 32))
    state.prepare(START + 13 * INTERVAL, INTERVAL, bytes(20), rng_of("me"))
    document = encode_state(state).replace(b"ValidAfter ", b"Before ")
    found = decode_state(document, START + 14 * INTERVAL, INTERVAL)
    assert (found.valid_after, found.phase) == (START + 14 * INTERVAL, Phase.REVEAL)
    assert found.current == state.current


def test_a_commit_phase_after_a_reveal_phase_is_a_new_run_whatever_the_file_says() -> None:
    """C tor goes by the phases: an authority that goes by the time would have another value than it."""
    me, known = bytes(20), SharedRandomValue(3, b"c" * 32)
    state = SharedRandomState(current=known)
    state.prepare(START + 13 * INTERVAL, INTERVAL, me, rng_of("me"))
    state.valid_until = START + 100 * RUN
    again = decode_state(encode_state(state), START + 14 * INTERVAL, INTERVAL)
    again.prepare(START + RUN, INTERVAL, me, rng_of("me"))
    assert again.fresh and again.previous == known and again.current not in (None, known)
    assert list(again.commits) == [me]


def test_a_commitment_that_is_not_understood_is_dropped_from_the_state() -> None:
    state = SharedRandomState()
    state.prepare(START, INTERVAL, bytes(20), rng_of("me"))
    document = encode_state(state) + b"Commit 2 sha3-256 " + b"11" * 20 + b" AAAA\n"
    assert decode_state(document, START, INTERVAL).commits == state.commits


def test_state_of_a_past_run_is_refused() -> None:
    state = SharedRandomState()
    state.prepare(START, INTERVAL, bytes(20), rng_of("me"))
    with pytest.raises(DirectoryError):
        decode_state(encode_state(state), START + RUN + 1, INTERVAL)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300))
def test_state_file_of_random_bytes(data: bytes) -> None:
    for document in (data, b"Version 1\nValidUntil 2099-01-01 00:00:00\n" + data):
        try:
            decode_state(document, START, INTERVAL)
        except DirectoryError:
            pass


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(max_size=60), max_size=6))
def test_commit_of_random_words(words: list[str]) -> None:
    for arguments in (words, ["1", "sha3-256", "00" * 20, *words]):
        try:
            Commit.parse(arguments)
        except DirectoryError:
            pass


def test_our_reveal_is_not_in_the_repr() -> None:
    commit = Commit.generate(bytes(20), START, b"A" * 32)
    assert commit.reveal not in repr(commit)
