"""Revision counters: the seconds since a descriptor's SRV began, encrypted in order (rend-spec-v3 App. F.2).

As C tor does it: each 16-bit word of the AES-CTR stream counts one more than the specification says, so
that counters grow strictly.
"""

from __future__ import annotations

import numpy as np

from pelure.errors import ProtocolError
from pelure.tor.crypto.ciphers import aes_ctr
from pelure.tor.crypto.digests import sha3_256

OPE_INPUT_MAX = 1 << 18


def revision_key(blinded_secret: bytes) -> bytes:
    """Return the 32-byte key of revision counters from the 64-byte expanded blinded secret key.

    The prefix ends in a NUL byte, as C tor hashes it: a service moved between the two keeps counting upwards.
    """
    return sha3_256(b"rev-counter-generation\0" + blinded_secret)


def encrypt_order_preserving(key: bytes, value: int) -> int:
    """Encrypt ``value`` (1 to 2**18) so that greater values give greater results.

    Raises :class:`ProtocolError` outside that range.
    """
    if not 1 <= value <= OPE_INPUT_MAX:
        raise ProtocolError("a revision counter's time is out of range")
    stream = aes_ctr(key, bytes(2 * value))
    return int(np.frombuffer(stream, dtype="<u2").sum(dtype=np.uint64)) + value


def revision_counter(key: bytes, srv_start: float, now: float) -> int:
    """Return the counter of a descriptor built ``now`` whose shared random value began at ``srv_start``.

    A clock that is off by more than the range allows gives the range's end, as C tor does.
    """
    elapsed = int(now) - int(srv_start) + 1
    return encrypt_order_preserving(key, min(max(elapsed, 1), OPE_INPUT_MAX))
