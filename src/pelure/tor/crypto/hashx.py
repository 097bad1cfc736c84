"""HashX: hash functions that are programs, each drawn from a seed (HashX specification; proposal 327).

A function is run over many inputs at once: one numpy array for each of its eight registers, one operation on
whole arrays for each of its 512 instructions. The one branch that a run may take is taken by some inputs
only: their registers go back through the instructions on copies of their own.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

import numpy as np

from pelure.tor.crypto.hashx_program import Instruction, Op, generate_program
from pelure.tor.crypto.siphash import SHIFTS, Keys, Words, sip_round, siphash24_registers

_SALT = b"HashX v1"
_LANES = 1 << 14
"""So many inputs are run at once: their registers fit a processor's second cache."""
_SCRATCH_ROWS = 5
_LOW = np.array(0xFFFFFFFF, np.uint64)
_SIGN = np.array(63, np.int64)
_HALF, _WORD_BITS = SHIFTS[32], SHIFTS[64]


class HashX:
    """The hash function of a seed (any bytes). Raises :class:`CryptoError` for one seed in many thousands."""

    def __init__(self, seed: bytes) -> None:
        words = struct.unpack("<8Q", hashlib.blake2b(seed, digest_size=64, salt=_SALT).digest())
        self._keys: Keys = words[4:]
        self._pieces = _split(generate_program(words[:4]))

    def hash(self, inputs: Words) -> Words:
        """The first 64 bits of the hash of each input, as little-endian words."""
        out = np.empty_like(inputs)
        for start in range(0, len(inputs), _LANES):
            out[start : start + _LANES] = self._hash(inputs[start : start + _LANES])
        return out

    def _hash(self, inputs: Words) -> Words:
        scratch = np.empty((_SCRATCH_ROWS, len(inputs)), np.uint64)
        registers = siphash24_registers(self._keys, inputs, scratch[0])
        self._run(registers, scratch)
        for register, key in zip((0, 1, 6, 7), self._keys, strict=True):
            registers[register] += np.uint64(key)
        sip_round(registers[:4], scratch[0])
        sip_round(registers[4:], scratch[0])
        hashed: Words = registers[0] ^ registers[4]
        return hashed

    def _run(self, registers: Words, scratch: Words) -> None:
        """Run the program on ``registers``, of shape (8, n), in place."""
        product = np.zeros(registers.shape[1], np.uint64)
        may_jump = np.ones(registers.shape[1], np.bool_)
        for piece in self._pieces:
            _execute(piece.steps, registers, product, scratch)
            jumping = np.flatnonzero(((product & piece.mask) == 0) & may_jump)
            if piece.mask and len(jumping):
                may_jump[jumping] = False
                theirs, their_product = registers[:, jumping], product[jumping]
                _execute(piece.repeated, theirs, their_product, scratch[:, : len(jumping)])
                registers[:, jumping], product[jumping] = theirs, their_product


class _Step(NamedTuple):
    """An instruction that is no branch, its constant ready for use."""

    op: Op
    dst: int
    src: int
    constant: Words


class _Piece(NamedTuple):
    """Steps up to a branch; inputs with no bit of ``mask`` in their last wide product repeat some of them."""

    steps: list[_Step]
    mask: int
    repeated: list[_Step]


def _split(program: list[Instruction]) -> list[_Piece]:
    pieces, steps, repeated = [], list[_Step](), list[_Step]()
    for one in program:
        if one.op == Op.TARGET:
            repeated = []
        elif one.op == Op.BRANCH:
            pieces.append(_Piece(steps, one.imm, repeated.copy()))
            steps = []
        else:
            constant = np.array(_sign_extended(one.imm), np.uint64)
            steps.append(_Step(one.op, one.dst, one.src, constant))
            repeated.append(steps[-1])
    return [*pieces, _Piece(steps, 0, [])]


def _execute(steps: list[_Step], registers: Words, product: Words, scratch: Words) -> None:
    """Run straight code; ``product`` takes the result of each wide multiplication."""
    rows, spare = list(registers), scratch[0]
    for op, dst, src, constant in steps:
        row = rows[dst]
        if op == Op.MUL:
            np.multiply(row, rows[src], out=row)
        elif op == Op.XOR_C:
            np.bitwise_xor(row, constant, out=row)
        elif op == Op.ADD_C:
            np.add(row, constant, out=row)
        elif op == Op.ROR:
            np.right_shift(row, constant, out=spare)
            np.left_shift(row, _WORD_BITS - constant, out=row)
            np.bitwise_or(row, spare, out=row)
        elif op == Op.SUB:
            np.subtract(row, rows[src], out=row)
        elif op == Op.XOR:
            np.bitwise_xor(row, rows[src], out=row)
        elif op == Op.ADD_RS:
            np.left_shift(rows[src], constant, out=spare)
            np.add(row, spare, out=row)
        elif op == Op.UMULH:
            _high_product(row, rows[src], product, scratch)
            row[:] = product
        else:
            _signed_high_product(row, rows[src], product, scratch)
            row[:] = product


def _sign_extended(imm: int) -> int:
    return imm | 0xFFFFFFFF00000000 if imm >> 31 else imm


def _high_product(one: Words, other: Words, out: Words, scratch: Words) -> None:
    """The high 64 bits of the products, by halves of 32 bits."""
    low, high, other_low, other_high, spare = scratch[:5]
    np.bitwise_and(one, _LOW, out=low)
    np.right_shift(one, _HALF, out=high)
    np.bitwise_and(other, _LOW, out=other_low)
    np.right_shift(other, _HALF, out=other_high)
    np.multiply(low, other_low, out=spare)
    np.right_shift(spare, _HALF, out=spare)
    low *= other_high
    other_low *= high
    other_low += spare
    np.bitwise_and(other_low, _LOW, out=spare)
    low += spare
    np.multiply(high, other_high, out=out)
    other_low >>= _HALF
    low >>= _HALF
    out += other_low
    out += low


def _signed_high_product(one: Words, other: Words, out: Words, scratch: Words) -> None:
    """The same for two's complement numbers: each that is negative takes the other one off."""
    _high_product(one, other, out, scratch)
    spare = scratch[0]
    for sign, factor in ((one, other), (other, one)):
        np.right_shift(sign.view(np.int64), _SIGN, out=spare.view(np.int64))
        np.bitwise_and(spare, factor, out=spare)
        np.subtract(out, spare, out=out)
