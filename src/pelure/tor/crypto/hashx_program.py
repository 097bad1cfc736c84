"""The generator of HashX programs (HashX specification; proposal 327 section 2.2.1).

A program is 512 instructions on eight 64-bit registers, drawn from a random stream so that a superscalar
processor with three execution ports (Intel's Ivy Bridge: P0, P1, P5) would run it without a stall. The
generator simulates that processor: which ports are taken in which cycle, and when a register's value is
ready. Every draw and every rule counts: another implementation must come to the same program.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from itertools import count
from typing import NamedTuple

import numpy as np

from pelure.errors import CryptoError
from pelure.tor.crypto.siphash import Keys, siphash13

PROGRAM_LEN = 512
REGISTERS = 8

_TARGET_CYCLE = 192
_CYCLES = _TARGET_CYCLE + 4
_REQUIRED_MULTIPLICATIONS = 192
_REQUIRED_LATENCY = 194
_BRANCH_MASK_BITS = 4
_NO_PARAMETER = 0xFFFFFFFF
_NOT_ADDED_TO = 5
"""This register can't be the destination of ADD_RS (x86's ``lea`` could not encode it)."""
_RANDOM_BLOCK = 1024


class Op(IntEnum):
    """The instructions. MULH: the high half of a 128-bit product, unsigned or signed."""

    UMULH = 0
    SMULH = 1
    MUL = 2
    SUB = 3
    XOR = 4
    ADD_RS = 5
    ROR = 6
    ADD_C = 7
    XOR_C = 8
    TARGET = 9
    BRANCH = 10


class Instruction(NamedTuple):
    """``dst`` and ``src`` are registers (0 where there is none), ``imm`` the 32-bit constant as drawn."""

    op: Op
    dst: int
    src: int
    imm: int


_P0, _P1, _P5 = 1, 2, 4
_P01, _P05, _P015 = _P0 | _P1, _P0 | _P5, _P0 | _P1 | _P5
_PREFERRED_PORT = (0, _P0, _P1, _P0, _P5, _P5, _P5, _P5)
"""Which of a set of free ports is taken: P5 before P0 before P1, to keep P1 for multiplications."""


class _Kind(NamedTuple):
    """What the generator knows of an instruction.

    ``latency``: cycles. ``ports``, ``more_ports``: where its one or two micro-operations can run.
    ``imm_mask``: the bits of its constant, 0 for none. ``group``: instructions that could be merged with it
    if they came in a row.
    """

    op: Op
    group: Op
    latency: int
    ports: int
    more_ports: int = 0
    imm_mask: int = 0
    imm_may_be_0: bool = False
    has_src: bool = True
    has_dst: bool = True

    @property
    def wide(self) -> bool:
        """Whether it is one of the two multiplications that give the high half."""
        return self.op <= Op.SMULH


_UMULH = _Kind(Op.UMULH, Op.UMULH, 4, _P1, _P5)
_SMULH = _Kind(Op.SMULH, Op.SMULH, 4, _P1, _P5)
_MUL = _Kind(Op.MUL, Op.MUL, 3, _P1)
_SUB = _Kind(Op.SUB, Op.ADD_RS, 1, _P015)
_XOR = _Kind(Op.XOR, Op.XOR, 1, _P015)
_ADD_RS = _Kind(Op.ADD_RS, Op.ADD_RS, 1, _P01, imm_mask=3, imm_may_be_0=True)
_ROR = _Kind(Op.ROR, Op.ROR, 1, _P05, imm_mask=63, has_src=False)
_ADD_C = _Kind(Op.ADD_C, Op.ADD_C, 1, _P015, imm_mask=0xFFFFFFFF, has_src=False)
_XOR_C = _Kind(Op.XOR_C, Op.XOR_C, 1, _P015, imm_mask=0xFFFFFFFF, has_src=False)
_TARGET = _Kind(Op.TARGET, Op.TARGET, 1, _P015, _P015, has_src=False, has_dst=False)
_BRANCH = _Kind(Op.BRANCH, Op.BRANCH, 1, _P015, _P015, has_src=False, has_dst=False)

_ANY = (_ROR, _XOR_C, _ADD_C, _ADD_C, _SUB, _XOR, _XOR_C, _ADD_RS)
_NEEDS_NO_SOURCE = _ANY[:4]
_WIDE = (_SMULH, _UMULH)

_LAYOUT: tuple[tuple[_Kind, ...], ...] = tuple(
    {"m": (_MUL,), "t": (_TARGET,), "b": (_BRANCH,), "w": _WIDE, "a": _ANY}[letter]
    for letter in "mta maa maa maa waa maa mba maa waa maa maa maa".replace(" ", "")
)
"""What stands in each of the three slots of twelve cycles, over and over."""


class _Random:
    """The random stream of a key: bytes and 32-bit words, each taken from 64-bit words, high end first."""

    def __init__(self, keys: Keys) -> None:
        words = self._words(keys)
        self.byte = self._pieces(words, 8).__next__
        self.word = self._pieces(words, 32).__next__

    @staticmethod
    def _words(keys: Keys) -> Iterator[int]:
        for start in count(0, _RANDOM_BLOCK):
            yield from siphash13(keys, np.arange(start, start + _RANDOM_BLOCK, dtype=np.uint64)).tolist()

    @staticmethod
    def _pieces(words: Iterator[int], bits: int) -> Iterator[int]:
        mask = (1 << bits) - 1
        for word in words:
            for shift in range(64 - bits, -1, -bits):
                yield word >> shift & mask


class _Ports:
    """Which execution ports are taken in each cycle of the simulated processor."""

    def __init__(self) -> None:
        self._free = [_P015] * _CYCLES

    def find(self, ports: int, cycle: int) -> int:
        """The first cycle from ``cycle`` on in which one of ``ports`` is free, -1 if there is none."""
        for later in range(cycle, _CYCLES):
            if self._free[later] & ports:
                return later
        return -1

    def find_for(self, kind: _Kind, cycle: int) -> int:
        """The first cycle in which ``kind`` can run, both of its micro-operations at once; -1 for none.

        The two are looked at one by one: a single free port that both can use counts for both.
        """
        first = self.find(kind.ports, cycle)
        while kind.more_ports and first >= 0:
            second = self.find(kind.more_ports, cycle)
            if second == first or second < 0:
                return second
            cycle += 1
            first = self.find(kind.ports, cycle)
        return first

    def take_for(self, kind: _Kind, cycle: int) -> None:
        """Take the ports for ``kind``, from ``cycle`` on, which :meth:`find_for` found."""
        for ports in (kind.ports, kind.more_ports):
            later = self.find(ports, cycle) if ports else -1
            if later >= 0:
                self._free[later] &= ~_PREFERRED_PORT[self._free[later] & ports]


class _Generator:
    """Draws one program; see the module."""

    def __init__(self, keys: Keys) -> None:
        self._random = _Random(keys)
        self._ports = _Ports()
        self._ready = [0] * REGISTERS
        self._last_use: list[tuple[int, int]] = [(-1, _NO_PARAMETER)] * REGISTERS
        self._slot = 0
        self._latency = 0
        self._last_group = -1

    def run(self) -> list[Instruction]:
        """Raises :class:`CryptoError` if the key is one of few whose program would be too simple."""
        program: list[Instruction] = []
        retrying = False
        while len(program) < PROGRAM_LEN:
            kind = self._choose(retrying)
            imm = self._constant(kind)
            parameter = self._random.word() if kind.wide else _NO_PARAMETER
            cycle = self._ports.find_for(kind, self._slot // 3)
            if cycle < 0:
                break
            operands = self._operands(kind, parameter, cycle, retrying)
            if operands is None:
                if retrying:
                    self._slot += 3
                retrying = not retrying
                continue
            retrying = False
            dst, src, parameter = operands
            self._ports.take_for(kind, cycle)
            if cycle >= _TARGET_CYCLE:
                break
            if kind.has_dst:
                self._ready[dst] = cycle + kind.latency
                self._last_use[dst] = kind.group, parameter
                self._latency = max(self._latency, self._ready[dst])
            program.append(Instruction(kind.op, dst, src, imm))
            self._slot += 2 if kind.more_ports else 1
        multiplications = sum(one.op <= Op.MUL for one in program)
        if (len(program), multiplications, self._latency) != (
            PROGRAM_LEN,
            _REQUIRED_MULTIPLICATIONS,
            _REQUIRED_LATENCY,
        ):
            raise CryptoError("this key gives no HashX program")
        return program

    def _choose(self, retrying: bool) -> _Kind:
        kinds = _LAYOUT[self._slot % len(_LAYOUT)]
        if len(kinds) == 1:
            kind = kinds[0]
        elif kinds is _WIDE:
            kind = kinds[self._random.byte() & 1]
        else:
            mask = len(_NEEDS_NO_SOURCE) - 1 if retrying else len(kinds) - 1
            kind = kinds[self._random.byte() & mask]
            while kind.group == self._last_group:
                kind = kinds[self._random.byte() & mask]
        self._last_group = kind.group
        return kind

    def _constant(self, kind: _Kind) -> int:
        if kind.op == Op.BRANCH:
            return self._branch_mask()
        if not kind.imm_mask:
            return 0
        constant = self._random.word() & kind.imm_mask
        while not constant and not kind.imm_may_be_0:
            constant = self._random.word() & kind.imm_mask
        return constant

    def _branch_mask(self) -> int:
        """Four different bits of 32: a branch is taken with probability 1/16."""
        mask = 0
        while mask.bit_count() < _BRANCH_MASK_BITS:
            mask |= 1 << self._random.byte() % 32
        return mask

    def _operands(
        self, kind: _Kind, parameter: int, cycle: int, retrying: bool
    ) -> tuple[int, int, int] | None:
        """Choose (destination, source, parameter) among registers that are ready; None if there are none."""
        src = dst = 0
        ready = [register for register in range(REGISTERS) if self._ready[register] <= cycle]
        if kind.has_src:
            if len(ready) == 2 and kind.op == Op.ADD_RS and _NOT_ADDED_TO in ready:
                src = _NOT_ADDED_TO
            elif ready:
                src = self._pick(ready)
            else:
                return None
            if not kind.wide:
                parameter = src
        if kind.has_dst:
            use = kind.group, parameter
            multiplied = kind.op == Op.MUL and not retrying
            targets = [
                register
                for register in ready
                if self._last_use[register] != use
                and not (register == src and kind.has_src and not kind.wide)
                and not (multiplied and self._last_use[register][0] == Op.MUL)
                and not (register == _NOT_ADDED_TO and kind.op == Op.ADD_RS)
            ]
            if not targets:
                return None
            dst = self._pick(targets)
        return dst, src, parameter

    def _pick(self, registers: list[int]) -> int:
        if len(registers) == 1:
            return registers[0]
        return registers[self._random.word() % len(registers)]


def generate_program(keys: Keys) -> list[Instruction]:
    """The program of a key (the four words of a SipHash state).

    Raises :class:`CryptoError` for the fewer than one key in 10,000 that gives none.
    """
    return _Generator(keys).run()
