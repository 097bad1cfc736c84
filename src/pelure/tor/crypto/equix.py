"""Equi-X: a puzzle that takes a search of all of HashX's 65,536 values to solve and eight to check.

Equihash<60,3> over the HashX function of a challenge (Equi-X; proposal 327 section 2.2.1): find eight indices
whose hashes add up to 0 modulo 2^60, such that pairs of them do modulo 2^15 and halves modulo 2^30. The order
of the indices within pairs, halves and whole is fixed, so that a solution has one form only. A challenge has
two solutions on average.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from pelure.errors import CryptoError
from pelure.tor.crypto.hashx import HashX
from pelure.tor.crypto.siphash import SHIFTS, Words

SOLUTION_LEN = 16
INDICES = 8

_HASHES = 1 << 16
_KEY_BITS = 15
_KEY_MASK = np.array((1 << _KEY_BITS) - 1, np.uint64)
_MIDDLE = 1 << _KEY_BITS - 1
_MAX_PAIRS = 4 * _HASHES
"""Pairs that are followed up: most challenges have about 65,536, one made for it could have far more."""

Positions = NDArray[np.intp]


def solve(challenge: bytes) -> list[bytes]:
    """All solutions (16 bytes each: little-endian indices of 16 bits), in ascending order; often none.

    Raises :class:`CryptoError` for the few challenges that give no hash function.
    """
    parts = np.arange(_HASHES, dtype=np.uint64)
    sums = HashX(challenge).hash(parts)
    for width in (1, 2):
        left, right, sums = _join(parts, sums)
        parts = left | right << SHIFTS[16 * width]
    left, right, sums = _join(parts, sums)
    solved = (sums & _KEY_MASK) == 0
    halves = zip(left[solved].tolist(), right[solved].tolist(), strict=True)
    return sorted({struct.pack("<2Q", *both) for both in halves})


def verify(challenge: bytes, solution: bytes) -> None:
    """Raises :class:`CryptoError` if ``solution`` (16 bytes) is none of ``challenge``."""
    indices = struct.unpack(f"<{INDICES}H", solution)
    if not _in_order(solution):
        raise CryptoError("an Equi-X solution's indices are out of order")
    sums = HashX(challenge).hash(np.array(indices, np.uint64))
    for bits in (_KEY_BITS, 2 * _KEY_BITS, 4 * _KEY_BITS):
        sums = sums[::2] + sums[1::2]
        if np.any(sums & np.uint64((1 << bits) - 1)):
            raise CryptoError("an Equi-X solution's hashes do not add up")


def _in_order(solution: bytes) -> bool:
    """Whether the left part of each pair, half and whole is the smaller one as a little-endian number."""
    for size in (2, 4, 8):
        parts = [int.from_bytes(solution[at : at + size], "little") for at in range(0, SOLUTION_LEN, size)]
        if any(left > right for left, right in zip(parts[::2], parts[1::2], strict=True)):
            return False
    return True


def _join(parts: Words, sums: Words) -> tuple[Words, Words, Words]:
    """Pair the parts whose sums add up to 0 in their low 15 bits.

    A part is the little-endian number of its indices. Returns the left parts, which are the smaller ones,
    the right ones, and the sums of each pair without those bits.
    """
    one, other = _complements((sums & _KEY_MASK).astype(np.uint16))
    pair_sums = sums[one]
    pair_sums += sums[other]
    pair_sums >>= SHIFTS[_KEY_BITS]
    return np.minimum(parts[one], parts[other]), np.maximum(parts[one], parts[other]), pair_sums


def _complements(keys: NDArray[np.uint16]) -> tuple[Positions, Positions]:
    """The positions of all pairs of ``keys`` that add up to 0 modulo 2^15, each pair once."""
    by_key = np.argsort(keys, kind="stable")
    counts = np.bincount(keys, minlength=1 << _KEY_BITS)
    ends = np.cumsum(counts)
    first = by_key[: ends[_MIDDLE]]  # the keys up to the middle; their complements are from it on, or 0
    wanted = -keys[first] & _KEY_MASK
    matches = counts[wanted]
    behind = np.cumsum(matches)
    taken = int(np.searchsorted(behind, _MAX_PAIRS, side="right"))
    first, matches, behind = first[:taken], matches[:taken], behind[:taken]
    offsets = (ends - counts)[wanted[:taken]] - behind + matches
    total = int(behind[-1]) if taken else 0
    one = np.repeat(first, matches)
    other = by_key[np.repeat(offsets, matches) + np.arange(total)]
    once = (one <= other) | (keys[one] != keys[other])
    return one[once], other[once]
