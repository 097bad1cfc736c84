"""SipHash as HashX uses it, over whole arrays of inputs (HashX specification; proposal 327 section 2.2.1).

SipHash-1-3 of a counter feeds the generator of programs; SipHash-2-4, drawn out to eight words, makes the
first registers of a hash. Inputs are single 64-bit words and no length is mixed in. Keys are the four words
of the state, not the usual 128 bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Keys = tuple[int, int, int, int]

SHIFTS: tuple[Words, ...] = tuple(np.array(n, np.uint64) for n in range(65))
"""Amounts to shift by. As arrays without dimensions: each operation saves a microsecond of conversion."""


def sip_round(state: Words, scratch: Words) -> None:
    """One SipRound on ``state``, of shape (4, n), in place; ``scratch``, n words, is overwritten."""
    v0, v1, v2, v3 = state
    v0 += v1
    _rotate(v1, 13, scratch)
    v1 ^= v0
    _rotate(v0, 32, scratch)
    v2 += v3
    _rotate(v3, 16, scratch)
    v3 ^= v2
    v0 += v3
    _rotate(v3, 21, scratch)
    v3 ^= v0
    v2 += v1
    _rotate(v1, 17, scratch)
    v1 ^= v2
    _rotate(v2, 32, scratch)


def _rotate(words: Words, left: int, scratch: Words) -> None:
    np.right_shift(words, SHIFTS[64 - left], out=scratch)
    np.left_shift(words, SHIFTS[left], out=words)
    words |= scratch


def siphash13(keys: Keys, inputs: Words) -> Words:
    """SipHash-1-3 of each word of ``inputs``."""
    state, scratch = _state(keys, len(inputs)), np.empty_like(inputs)
    state[3] ^= inputs
    sip_round(state, scratch)
    state[0] ^= inputs
    state[2] ^= np.uint64(0xFF)
    for _ in range(3):
        sip_round(state, scratch)
    hashed: Words = np.bitwise_xor.reduce(state)
    return hashed


def _state(keys: Keys, n: int) -> Words:
    return np.repeat(np.array(keys, np.uint64)[:, None], n, axis=1)


def siphash24_registers(keys: Keys, inputs: Words, scratch: Words) -> Words:
    """SipHash-2-4 of each of n inputs, drawn out to 512 bits: an array of shape (8, n)."""
    registers = np.empty((8, len(inputs)), np.uint64)
    first, second = registers[:4], registers[4:]
    first[:] = _state(keys, len(inputs))
    first[1] ^= np.uint64(0xEE)
    first[3] ^= inputs
    for _ in range(2):
        sip_round(first, scratch)
    first[0] ^= inputs
    first[2] ^= np.uint64(0xEE)
    for _ in range(4):
        sip_round(first, scratch)
    second[:] = first
    second[1] ^= np.uint64(0xDD)
    for _ in range(4):
        sip_round(second, scratch)
    return registers
