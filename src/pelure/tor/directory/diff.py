"""Consensus diffs (proposal 140, dir-spec 4.5): the restricted ed script, applied and made.

A diff names its base by the SHA3-256 of the base's signed part and its result by the SHA3-256 of the whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from pelure.errors import DirectoryError
from pelure.tor.directory.consensus import MAX_CONSENSUS_LENGTH, signed_part
from pelure.tor.directory.tokenizer import parse_hex

DIFF_HEADER = b"network-status-diff-version 1"
MAX_MATCHED_LINES = 200
_COMMAND = re.compile(rb"([0-9]{1,8})(?:,([0-9]{1,8}|\$))?([acd])")


@dataclass(frozen=True, slots=True)
class DiffDigests:
    """What a diff goes from (SHA3-256 of the base's signed part) and to (SHA3-256 of the whole result)."""

    base: bytes
    result: bytes


@dataclass(frozen=True, slots=True)
class _Edit:
    """Replace lines ``start``..``end`` (zero-based, end exclusive) of the base by ``lines``."""

    start: int
    end: int
    lines: list[bytes]


def is_diff(document: bytes) -> bool:
    """Whether ``document`` is a consensus diff rather than a consensus."""
    return document.startswith(DIFF_HEADER)


def diff_digests(diff: bytes) -> DiffDigests:
    """The digests in a diff's first two lines. Raises ``DirectoryError``."""
    header, _, rest = diff.partition(b"\n")
    words = rest.partition(b"\n")[0].decode("latin-1").split(" ")
    if header != DIFF_HEADER or len(words) != 3 or words[0] != "hash":
        raise DirectoryError("malformed consensus diff header")
    return DiffDigests(parse_hex(words[1], 32), parse_hex(words[2], 32))


def base_digest(consensus: bytes) -> bytes:
    """The digest by which diffs name ``consensus`` as their base."""
    return hashlib.sha3_256(signed_part(consensus)).digest()


def apply_diff(base: bytes, diff: bytes) -> bytes:
    """The consensus that ``diff`` makes of ``base``. Raises ``DirectoryError`` if anything doesn't match."""
    if len(diff) > MAX_CONSENSUS_LENGTH:
        raise DirectoryError("the consensus diff is too large")
    digests = diff_digests(diff)
    if base_digest(base) != digests.base:
        raise DirectoryError("the consensus diff is for another base")
    lines = _lines(base)
    script = _lines(diff)[2:]
    pieces: list[list[bytes]] = []
    upper = len(lines)
    for edit in _parse_script(script, len(lines)):
        if edit.end > upper:
            raise DirectoryError("the consensus diff's commands are not in reverse order")
        pieces.append(lines[edit.end : upper])
        pieces.append(edit.lines)
        upper = edit.start
    pieces.append(lines[:upper])
    result = b"".join(line + b"\n" for piece in reversed(pieces) for line in piece)
    if len(result) > MAX_CONSENSUS_LENGTH or hashlib.sha3_256(result).digest() != digests.result:
        raise DirectoryError("the consensus diff does not lead to the consensus it promises")
    return result


def _lines(document: bytes) -> list[bytes]:
    if not document.endswith(b"\n"):
        raise DirectoryError("a document to diff must end with a newline")
    return document[:-1].split(b"\n")


def _parse_script(script: list[bytes], base_length: int) -> Iterator[_Edit]:
    position = 0
    while position < len(script):
        match = _COMMAND.fullmatch(script[position])
        position += 1
        if match is None:
            raise DirectoryError("unknown command in a consensus diff")
        start, end, action = int(match.group(1)), match.group(2), match.group(3)
        if (end == b"$" and action != b"d") or (end is not None and action == b"a"):
            raise DirectoryError("a command in a consensus diff has a range it may not have")
        last = start if end is None else base_length if end == b"$" else int(end)
        if last < start or last > base_length or (start == 0 and action != b"a"):
            raise DirectoryError("a line range in a consensus diff is out of bounds")
        added: list[bytes] = []
        if action in b"ac":
            stop = _find_dot(script, position)
            added = script[position:stop]
            position = stop + 1
        yield _Edit(start, start, added) if action == b"a" else _Edit(start - 1, last, added)


def _find_dot(script: list[bytes], start: int) -> int:
    try:
        stop = script.index(b".", start)
    except ValueError:
        raise DirectoryError("a consensus diff inserts lines without an end") from None
    if stop == start:
        raise DirectoryError("a consensus diff inserts no lines")
    return stop


def make_diff(base: bytes, result: bytes) -> bytes:
    """A diff from ``base`` to ``result``, both consensuses. Raises ``DirectoryError`` if it can't be made.

    Router entries are matched by their ``r`` line's identity, which the format keeps sorted, so the work is
    linear. The base's signatures are deleted to the end, however many a client may hold.
    """
    old, new = _lines(base), _lines(result)
    if b"." in new:
        raise DirectoryError("a consensus with a line of a single dot can't be put in a diff")
    signatures, new_signatures = _first_signature(old), _first_signature(new)
    old_body, new_body = old[:signatures], new[:new_signatures]
    edits = [edit for pair in _pair_blocks(old_body, new_body) for edit in _edits(old_body, new_body, *pair)]
    edits.append(_Edit(signatures, signatures, new[new_signatures:]))
    script = [b"%d,$d" % (signatures + 1)]
    for edit in reversed(_merge(edits)):
        script += _format_edit(edit)
    hashes = f"hash {base_digest(base).hex().upper()} {hashlib.sha3_256(result).hexdigest().upper()}"
    return b"".join(line + b"\n" for line in [DIFF_HEADER, hashes.encode(), *script])


def _first_signature(lines: list[bytes]) -> int:
    """The index of the first signature's line. Raises ``DirectoryError`` if there is none."""
    for index, line in enumerate(lines):
        if line.startswith(b"directory-signature "):
            return index
    raise DirectoryError("a consensus without a signature can't be put in a diff")


_Block = tuple[int, int]


def _blocks(lines: list[bytes]) -> tuple[list[bytes], list[int]]:
    """Identities of the ``r`` lines in order, and the line each block starts at (with header and footer)."""
    keys: list[bytes] = []
    starts = [0]
    end = len(lines)
    for number, line in enumerate(lines):
        if line.startswith(b"r "):
            words = line.split(b" ", 3)
            keys.append(words[2] if len(words) > 2 else b"")
            starts.append(number)
        elif line == b"directory-footer":
            end = number
            break
    return keys, [*starts, end, len(lines)]


def _pair_blocks(old: list[bytes], new: list[bytes]) -> Iterator[tuple[_Block, _Block]]:
    """Match header with header, entries by identity, footer with footer; unmatched ones pair with nothing."""
    old_keys, old_starts = _blocks(old)
    new_keys, new_starts = _blocks(new)
    common = set(old_keys) & set(new_keys)
    yield (0, old_starts[1]), (0, new_starts[1])
    i = j = 0
    while i < len(old_keys) or j < len(new_keys):
        old_at, new_at = old_starts[i + 1], new_starts[j + 1]
        if i < len(old_keys) and old_keys[i] not in common:
            i += 1
            yield (old_at, old_starts[i + 1]), (new_at, new_at)
        elif j < len(new_keys) and new_keys[j] not in common:
            j += 1
            yield (old_at, old_at), (new_at, new_starts[j + 1])
        else:
            # Both sides hold the same identities in the same sorted order from here.
            i, j = min(i + 1, len(old_keys)), min(j + 1, len(new_keys))
            yield (old_at, old_starts[i + 1]), (new_at, new_starts[j + 1])
    yield (old_starts[-2], old_starts[-1]), (new_starts[-2], new_starts[-1])


def _edits(old: list[bytes], new: list[bytes], old_block: _Block, new_block: _Block) -> list[_Edit]:
    """The edits between two blocks; in long ones only their common head and tail are left out."""
    (start, end), (new_start, new_end) = old_block, new_block
    while start < end and new_start < new_end and old[start] == new[new_start]:
        start, new_start = start + 1, new_start + 1
    while start < end and new_start < new_end and old[end - 1] == new[new_end - 1]:
        end, new_end = end - 1, new_end - 1
    if start == end and new_start == new_end:
        return []
    shorter, longer = sorted((end - start, new_end - new_start))
    if shorter <= 1 or longer > MAX_MATCHED_LINES:
        return [_Edit(start, end, new[new_start:new_end])]
    matcher = SequenceMatcher(None, old[start:end], new[new_start:new_end], autojunk=False)
    return [
        _Edit(start + one, start + two, new[new_start + three : new_start + four])
        for kind, one, two, three, four in matcher.get_opcodes()
        if kind != "equal"
    ]


def _merge(edits: list[_Edit]) -> list[_Edit]:
    """Join edits that touch each other: an ed script may not visit a line twice."""
    merged: list[_Edit] = []
    for edit in edits:
        if merged and merged[-1].end == edit.start:
            last = merged.pop()
            edit = _Edit(last.start, edit.end, last.lines + edit.lines)
        merged.append(edit)
    return merged


def _format_edit(edit: _Edit) -> list[bytes]:
    first, last = edit.start + 1, edit.end
    if edit.start == edit.end:
        return [b"%da" % edit.start, *edit.lines, b"."]
    span = b"%d" % first if first == last else b"%d,%d" % (first, last)
    if not edit.lines:
        return [span + b"d"]
    return [span + b"c", *edit.lines, b"."]
