"""Virtual time and seeded randomness for a whole process: import this before anything of pelure.

From :func:`install` on the clocks of ``time`` stand still but for :meth:`Clock.advance`, and ``os.urandom``,
``random`` and new RSA keys follow from the seed. What OpenSSL draws for itself (in TLS sessions) does not;
nothing depends on it.
"""

from __future__ import annotations

import os
import random
import time
from math import gcd

from cryptography.hazmat.primitives.asymmetric import rsa

EPOCH = 1_800_000_000.0
"""When simulations begin: 2027-01-15, 08:00 UTC."""
EXPONENT = 65537
SHARED_BITS = 2048
SHARED_KEYS = 8
"""So many keys of ``SHARED_BITS`` are made, then they are used again: TLS takes many."""


class Clock:
    """Seconds since the simulation began."""

    def __init__(self) -> None:
        self.now = 0.0

    def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now += seconds

    def time(self) -> float:
        """Seconds since 1970."""
        return EPOCH + self.now

    def monotonic(self) -> float:
        """What ``time.monotonic`` says: an origin of its own."""
        return 1000.0 + self.now


def install(seed: int) -> Clock:
    """Take over time and randomness; returns the clock that everything goes by."""
    clock = Clock()
    time.time = clock.time
    time.monotonic = clock.monotonic
    time.perf_counter = clock.monotonic
    random.seed(f"random {seed}")
    os.urandom = random.Random(f"urandom {seed}").randbytes
    rsa.generate_private_key = RsaKeys(random.Random(f"rsa {seed}")).make
    return clock


class RsaKeys:
    """Makes RSA keys from a seed, which OpenSSL can't."""

    def __init__(self, source: random.Random) -> None:
        self._source = source
        self._shared: list[rsa.RSAPrivateKey] = []
        self._taken = 0
        sieve = bytearray(b"\1") * 50_000
        for number in range(2, 224):
            sieve[number * number :: number] = bytes(len(sieve[number * number :: number]))
        self._primes = [number for number in range(3, len(sieve)) if sieve[number]]

    def make(self, public_exponent: int, key_size: int, backend: object = None) -> rsa.RSAPrivateKey:
        """In the place of ``rsa.generate_private_key``."""
        if key_size != SHARED_BITS:
            return self._fresh(key_size)
        if len(self._shared) < SHARED_KEYS:
            self._shared.append(self._fresh(key_size))
            return self._shared[-1]
        self._taken += 1
        return self._shared[self._taken % SHARED_KEYS]

    def _fresh(self, bits: int) -> rsa.RSAPrivateKey:
        while True:
            p, q = self._prime(bits // 2), self._prime(bits // 2)
            phi = (p - 1) * (q - 1)
            if p != q and gcd(EXPONENT, phi) == 1:
                break
        d = pow(EXPONENT, -1, phi)
        crt = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
        return rsa.RSAPrivateNumbers(p, q, d, *crt, rsa.RSAPublicNumbers(EXPONENT, p * q)).private_key()

    def _prime(self, bits: int) -> int:
        """A prime whose two highest bits are set; Fermat's test is good enough for numbers at random."""
        start = self._source.getrandbits(bits) | 3 << bits - 2 | 1
        remainders = [(prime, start % prime) for prime in self._primes]
        for step in range(0, 1 << 16, 2):
            if all((rest + step) % prime for prime, rest in remainders):
                number = start + step
                if pow(2, number - 1, number) == 1:
                    return number
        return self._prime(bits)
