"""The checksum of a private link: it finds *where* a link was mistyped, not only that it was.

A Reed–Solomon code over GF(1024): two base-32 characters are one 10-bit symbol, four check symbols
(eight characters) follow the data. One wrong symbol (one or two neighbouring characters) is located;
any three are noticed for certain, anything else but for one case in 2**40.
"""

from __future__ import annotations

from collections.abc import Sequence

CHECK_SYMBOLS = 4
FIELD = 1024
MAX_SYMBOLS = FIELD - 1
_PRIMITIVE_POLYNOMIAL = 0x409  # x^10 + x^3 + 1


def _tables() -> tuple[list[int], list[int]]:
    power, logarithm = [0] * (2 * MAX_SYMBOLS), [0] * FIELD
    value = 1
    for exponent in range(MAX_SYMBOLS):
        power[exponent] = power[exponent + MAX_SYMBOLS] = value
        logarithm[value] = exponent
        value <<= 1
        if value & FIELD:
            value ^= _PRIMITIVE_POLYNOMIAL
    return power, logarithm


_POWER, _LOG = _tables()


def _multiply(a: int, b: int) -> int:
    return _POWER[_LOG[a] + _LOG[b]] if a and b else 0


def _generator() -> list[int]:
    """Coefficients of (x - α^0)(x - α^1)…, highest power first."""
    polynomial = [1]
    for exponent in range(CHECK_SYMBOLS):
        root = _POWER[exponent]
        shifted = [*polynomial, 0]
        for index, coefficient in enumerate(polynomial):
            shifted[index + 1] ^= _multiply(coefficient, root)
        polynomial = shifted
    return polynomial


_GENERATOR = _generator()


def check_symbols(data: Sequence[int]) -> list[int]:
    """The four check symbols (0..1023) of ``data`` (symbols of 0..1023, at most 1019 of them)."""
    if len(data) + CHECK_SYMBOLS > MAX_SYMBOLS:
        raise ValueError("too many symbols for one checksum")
    remainder = [0] * CHECK_SYMBOLS
    for symbol in data:
        lead = symbol ^ remainder[0]
        remainder = [*remainder[1:], 0]
        for index in range(CHECK_SYMBOLS):
            remainder[index] ^= _multiply(_GENERATOR[index + 1], lead)
    return remainder


def syndromes(symbols: Sequence[int]) -> list[int]:
    """All zero exactly if ``symbols`` (data, then check symbols) are a valid codeword."""
    result = []
    for exponent in range(CHECK_SYMBOLS):
        root, value = _POWER[exponent], 0
        for symbol in symbols:
            value = _multiply(value, root) ^ symbol
        result.append(value)
    return result


def locate_error(symbols: Sequence[int]) -> tuple[int, int] | None:
    """If one changed symbol explains the damage: its index and what it should be; else None."""
    values = syndromes(symbols)
    if not all(values):
        return None
    steps = {(_LOG[values[i + 1]] - _LOG[values[i]]) % MAX_SYMBOLS for i in range(CHECK_SYMBOLS - 1)}
    if len(steps) != 1:
        return None
    index = len(symbols) - 1 - steps.pop()
    if not 0 <= index < len(symbols):
        return None
    return index, symbols[index] ^ values[0]
