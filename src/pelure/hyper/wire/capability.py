"""Names and proofs of Hypercore keys on a stream (npm ``hypercore`` 11 ``lib/caps.js``).

A core is named by its discovery key, which does not give its key away; the capability proves to the
other side of one particular stream that the key is known.
"""

from __future__ import annotations

from hashlib import blake2b

_NAMESPACE = blake2b(b"hypercore", digest_size=32).digest()
_ROLE = {
    True: blake2b(_NAMESPACE + b"\x01", digest_size=32).digest(),
    False: blake2b(_NAMESPACE + b"\x02", digest_size=32).digest(),
}


def discovery_key(key: bytes) -> bytes:
    """The 32-byte name under which a core is spoken of to those who may not know its ``key``."""
    return blake2b(b"hypercore", key=key, digest_size=32).digest()


def capability(key: bytes, handshake_hash: bytes, initiator: bool) -> bytes:
    """Return the 32-byte proof that the ``initiator`` (or else the responder) of a stream knows ``key``."""
    return blake2b(_ROLE[initiator] + key, key=handshake_hash, digest_size=32).digest()
