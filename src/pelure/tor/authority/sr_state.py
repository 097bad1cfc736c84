"""The ``sr-state`` file: the shared random protocol's state on disk (srv-spec 4.3), as C tor writes it."""

from __future__ import annotations

from pelure.errors import DirectoryError
from pelure.tor.authority.shared_random import Commit, SharedRandomState, phase_of
from pelure.tor.directory.consensus import SharedRandomValue
from pelure.tor.directory.tokenizer import decode_base64, format_time, parse_int, parse_time
from pelure.tor.directory.vote_encode import format_shared_random

FILE_NAME = "sr-state"
_MAX_REVEALS = 1 << 31


def encode_state(state: SharedRandomState) -> bytes:
    """The file's content. It holds our unrevealed value: a secret until the reveal phase."""
    lines = [
        "# Shared random state. Times are in UTC. Do not edit: an authority that changes its",
        "# commitment within a run is left out of it.",
        "Version 1",
        "TorVersion pelure",
        f"ValidAfter {format_time(state.valid_after)}",
        f"ValidUntil {format_time(state.valid_until)}",
        *(f"Commit {commit.arguments}" for commit in state.commits.values()),
    ]
    if state.previous is not None:
        lines.append(f"SharedRandPreviousValue {format_shared_random(state.previous)}")
    if state.current is not None:
        lines.append(f"SharedRandCurrentValue {format_shared_random(state.current)}")
    return ("\n".join(lines) + "\n").encode()


def decode_state(data: bytes, now: float, interval: int) -> SharedRandomState:
    """Parse an ``sr-state`` file. Raises ``DirectoryError`` if it is malformed or of a run that is over.

    Commitments of an unknown version or algorithm are dropped, as C tor does.
    """
    state = SharedRandomState()
    state.valid_after = int(now)  # as C tor takes a file that does not say
    version = ""
    for line in data.decode("utf-8", "replace").splitlines():
        keyword, _, rest = line.partition(" ")
        if keyword == "Version":
            version = rest.strip()
        elif keyword == "ValidAfter":
            state.valid_after = int(parse_time(rest))
        elif keyword == "ValidUntil":
            state.valid_until = int(parse_time(rest))
        elif keyword == "Commit":
            _take_commit(state, rest.split())
        elif keyword == "SharedRandPreviousValue":
            state.previous = _parse_value(rest, state.previous)
        elif keyword == "SharedRandCurrentValue":
            state.current = _parse_value(rest, state.current)
    if version != "1":
        raise DirectoryError("the shared random state is of an unknown version")
    if state.valid_until < now or state.valid_after >= state.valid_until:
        raise DirectoryError("the shared random state is of a protocol run that is over")
    state.phase = phase_of(state.valid_after, interval)
    return state


def _take_commit(state: SharedRandomState, words: list[str]) -> None:
    try:
        commit = Commit.parse(words)
    except DirectoryError:
        return
    state.commits[commit.identity] = commit


def _parse_value(text: str, seen: SharedRandomValue | None) -> SharedRandomValue:
    words = text.split()
    if seen is not None or len(words) < 2:
        raise DirectoryError("the shared random state has a malformed or repeated value")
    return SharedRandomValue(parse_int(words[0], 0, _MAX_REVEALS), decode_base64(words[1], 32))
