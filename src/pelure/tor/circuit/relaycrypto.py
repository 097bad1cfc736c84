"""Relay cell encryption by the run (tor-spec §5.5 and §6.1; rend-spec-v3 §4.2.1 for onion service hops).

Every hop has four secrets: a key and a digest seed for each direction. *Forward* is away from the circuit's
origin, *backward* towards it. All bodies here are the 509 bytes after a cell's header, as C-contiguous,
writable ``(n, 509)`` uint8 arrays; whole cells are ``(n, 514)`` arrays (see ``pelure.tor.cell.framing.Run``).
One cipher call handles a run whatever its length; only the running digest has to look at each cell.

The body of a *lone* cell is a ``bytearray`` of 509 bytes, and has methods of its own (``…_one``): a process
that sleeps between cells finds numpy's code gone from the processor's caches, and pays 50 µs and more for
what takes 15 with bytes. Both kinds advance the same ciphers and digests, and may follow one another at will.

Who uses what:

* a circuit's origin: :class:`OriginCrypto`, all hops at once;
* a relay: :class:`RelayCrypto`, one hop: :meth:`~RelayCrypto.forward` for cells from the origin's side,
  :meth:`~RelayCrypto.backward` for cells passed on towards it, :meth:`~RelayCrypto.originate` for its own.

A *tag* is the running digest after a cell; an authenticated SENDME (proposal 289) quotes its first 20 bytes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from pelure.errors import ProtocolError

Cells = NDArray[np.uint8]
"""``(n, 514)``: whole cells."""
Bodies = NDArray[np.uint8]
"""``(n, 509)``: relay cell bodies, encrypted or plain."""

BODY_LEN = 509
CELL_HEADER_LEN = 5
TAG_LEN = 20
RECOGNIZED = slice(1, 3)
DIGEST = slice(5, 9)
_DIGEST_LEN = 4
_ZEROS = bytes(2)
_NO_DIGEST = bytes(_DIGEST_LEN)
_BLOCK_LEN = 16
_BUILDING_BYTES = 4 * BODY_LEN
"""A relay passes on, in each direction, at most so much of a circuit that is built and not used."""
_UNRECOGNIZED = "a relay cell came in that no hop of the circuit recognizes"
_NO_ROWS: NDArray[np.intp] = np.empty(0, np.intp)


class _Hash(Protocol):
    def update(self, data: bytearray | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...
    def copy(self) -> _Hash: ...


@dataclass(frozen=True)
class HopKeys:
    """The secrets of one hop: ``wide`` ones are of an onion service hop (AES-256, SHA3-256)."""

    forward_seed: bytes = field(repr=False)
    backward_seed: bytes = field(repr=False)
    forward_key: bytes = field(repr=False)
    backward_key: bytes = field(repr=False)
    wide: bool = False

    @classmethod
    def tor1(cls, material: bytes) -> HopKeys:
        """Cut 72 bytes of handshake output: Df(20) Db(20) Kf(16) Kb(16) (tor-spec §5.2)."""
        if len(material) < 72:
            raise ProtocolError("a hop needs 72 bytes of key material")
        return cls(material[:20], material[20:40], material[40:56], material[56:72])

    @classmethod
    def service(cls, material: bytes) -> HopKeys:
        """Cut 128 bytes of hs-ntor output: Df(32) Db(32) Kf(32) Kb(32) (rend-spec-v3 §4.2.1)."""
        if len(material) < 128:
            raise ProtocolError("a service hop needs 128 bytes of key material")
        return cls(material[:32], material[32:64], material[64:96], material[96:128], wide=True)

    def swapped(self) -> HopKeys:
        """The same secrets seen from the other end: the service's side of a joined circuit."""
        return HopKeys(self.backward_seed, self.forward_seed, self.backward_key, self.forward_key, self.wide)


class _LayerCipher:
    """AES-CTR from counter 0, which keeps its position.

    Most circuits of a relay only ever carry the messages that build them. The library's context, a kilobyte,
    is kept once a direction has carried more than ``keep_after`` bytes; until then each call makes one anew,
    in 3 µs. Origins, who have few circuits and wait for their cells, keep it from the first.
    """

    __slots__ = ("_keep_after", "_key", "_position", "_update_into")

    def __init__(self, key: bytes, keep_after: int) -> None:
        self._key = key
        self._keep_after = keep_after
        self._position = 0
        self._update_into: Callable[..., object] | None = None

    def apply(self, buffer: bytearray | memoryview) -> None:
        """En- or decrypt in place."""
        update_into = self._update_into or self._context(memoryview(buffer).nbytes)
        update_into(buffer, buffer)

    def _context(self, size: int) -> Callable[..., object]:
        """A context for the next ``size`` bytes."""
        block, used = divmod(self._position, _BLOCK_LEN)
        mode = modes.CTR(block.to_bytes(_BLOCK_LEN))
        update_into = Cipher(algorithms.AES(self._key), mode).encryptor().update_into
        update_into(bytes(used), bytearray(used))
        self._position += size
        if self._position > self._keep_after:
            self._update_into = update_into
        return update_into


class RunningDigest:
    """The digest over everything one side has said on a hop, with the digest fields taken as zero."""

    __slots__ = ("_hash",)

    def __init__(self, seed: bytes, wide: bool) -> None:
        self._hash: _Hash = hashlib.sha3_256(seed) if wide else hashlib.sha1(seed)

    def seal(self, bodies: Bodies) -> list[bytes]:
        """Fill in the recognized and digest fields of plain bodies; return the digest after each cell."""
        bodies[:, RECOGNIZED] = 0
        bodies[:, DIGEST] = 0
        digests = self._absorb(bodies)
        bodies[:, DIGEST] = np.frombuffer(_fields(digests), np.uint8).reshape(-1, _DIGEST_LEN)
        return digests

    def check(self, bodies: Bodies) -> list[bytes] | None:
        """Check a run of which every cell claims to be for this hop.

        Returns the digest after each cell, or None, with nothing changed, when any one does not verify.
        """
        claimed = bodies[:, DIGEST].tobytes()
        before = self._hash.copy()
        bodies[:, DIGEST] = 0
        digests = self._absorb(bodies)
        if hmac.compare_digest(_fields(digests), claimed):
            return digests
        bodies[:, DIGEST] = np.frombuffer(claimed, np.uint8).reshape(-1, _DIGEST_LEN)
        self._hash = before
        return None

    def seal_one(self, body: bytearray) -> bytes:
        """:meth:`seal` for a lone cell; returns the digest after it."""
        body[RECOGNIZED] = _ZEROS
        body[DIGEST] = _NO_DIGEST
        self._hash.update(body)
        digest = self._hash.digest()
        body[DIGEST] = digest[:_DIGEST_LEN]
        return digest

    def check_one(self, body: bytearray) -> bytes | None:
        """:meth:`check` for a lone cell; returns the digest after it, or None."""
        claimed = body[DIGEST]
        after = self._hash.copy()
        body[DIGEST] = _NO_DIGEST
        after.update(body)
        digest = after.digest()
        if hmac.compare_digest(digest[:_DIGEST_LEN], claimed):
            self._hash = after
            return digest
        body[DIGEST] = claimed
        return None

    def _absorb(self, bodies: Bodies) -> list[bytes]:
        update, digest = self._hash.update, self._hash.digest
        data = bodies.reshape(-1).data
        digests: list[bytes] = []
        note = digests.append
        for start in range(0, len(data), BODY_LEN):
            update(data[start : start + BODY_LEN])
            note(digest())
        return digests


def _fields(digests: Sequence[bytes]) -> bytes:
    """The digest fields of the cells that have these digests, one after the other."""
    return b"".join([digest[:_DIGEST_LEN] for digest in digests])


@dataclass(frozen=True)
class Recognized:
    """Cells of a run that turned out to be for one hop: which, their plain bodies, their digests."""

    hop: int
    rows: NDArray[np.intp]
    bodies: Bodies
    tags: list[bytes]


class _Opener:
    """One direction of one hop: decrypts what comes and picks out the cells meant for this end."""

    __slots__ = ("_digest", "cipher")

    def __init__(self, key: bytes, seed: bytes, wide: bool, keep_after: int) -> None:
        self.cipher = _LayerCipher(key, keep_after)
        self._digest = RunningDigest(seed, wide)

    def recognize(self, bodies: Bodies) -> tuple[NDArray[np.intp], list[bytes]]:
        """Rows of decrypted ``bodies`` that are for this hop, and the digest after each."""
        recognized = bodies[:, RECOGNIZED].tobytes()
        if _ZEROS not in recognized:
            return _NO_ROWS, []
        if recognized.count(0) == len(recognized):
            digests = self._digest.check(bodies)
            if digests is not None:
                return np.arange(len(bodies)), digests
        # A cell for somebody else looks recognized once in 65536: each has to be tried for itself.
        candidates = np.flatnonzero(~bodies[:, RECOGNIZED].any(axis=1))
        rows, tags = [], []
        for row in candidates:
            digests = self._digest.check(bodies[row : row + 1])
            if digests is not None:
                rows.append(row)
                tags += digests
        return np.array(rows, dtype=np.intp), tags

    def open_one(self, body: bytearray) -> bytes | None:
        """Decrypt a lone cell; returns the digest after it if it is for this hop, else None."""
        self.cipher.apply(body)
        return self._digest.check_one(body) if body[RECOGNIZED] == _ZEROS else None


class RelayCrypto:
    """A relay's view of a circuit: one hop."""

    __slots__ = ("_cipher", "_digest", "_opener")

    def __init__(self, keys: HopKeys) -> None:
        self._opener = _Opener(keys.forward_key, keys.forward_seed, keys.wide, _BUILDING_BYTES)
        self._cipher = _LayerCipher(keys.backward_key, _BUILDING_BYTES)
        self._digest = RunningDigest(keys.backward_seed, keys.wide)

    def forward(self, cells: Cells) -> Recognized | None:
        """Take this relay's layer off ``cells`` (in place), which came from the origin's side.

        Returns the cells meant for this relay (``rows`` index ``cells``), or None when all of them are to be
        passed on, which is what nearly every run is.
        """
        bodies = np.ascontiguousarray(cells[:, CELL_HEADER_LEN:])
        self._opener.cipher.apply(bodies.data)
        cells[:, CELL_HEADER_LEN:] = bodies
        rows, tags = self._opener.recognize(bodies)
        if not len(rows):
            return None
        return Recognized(0, rows, bodies if len(rows) == len(bodies) else bodies[rows], tags)

    def backward(self, cells: Cells) -> None:
        """Put this relay's layer on ``cells`` (in place), which go on towards the origin."""
        bodies = np.ascontiguousarray(cells[:, CELL_HEADER_LEN:])
        self._cipher.apply(bodies.data)
        cells[:, CELL_HEADER_LEN:] = bodies

    def originate(self, bodies: Bodies) -> list[bytes]:
        """Seal and encrypt this relay's own plain ``bodies`` in place; returns the digest after each cell."""
        digests = self._digest.seal(bodies)
        self._cipher.apply(bodies.data)
        return digests

    def forward_one(self, body: bytearray) -> bytes | None:
        """:meth:`forward` for a lone cell: the digest after it if it is for this relay, else None."""
        return self._opener.open_one(body)

    def backward_one(self, body: bytearray) -> None:
        """:meth:`backward` for a lone cell."""
        self._cipher.apply(body)

    def originate_one(self, body: bytearray) -> bytes:
        """:meth:`originate` for a lone cell; returns the digest after it."""
        digest = self._digest.seal_one(body)
        self._cipher.apply(body)
        return digest


class OriginCrypto:
    """The origin's view of a circuit: every hop, nearest first."""

    def __init__(self) -> None:
        self._ciphers: list[_LayerCipher] = []
        self._seal: list[RunningDigest] = []
        self._openers: list[_Opener] = []

    def __len__(self) -> int:
        return len(self._openers)

    def add_hop(self, keys: HopKeys) -> None:
        """Add a hop behind the last one."""
        self._ciphers.append(_LayerCipher(keys.forward_key, 0))
        self._seal.append(RunningDigest(keys.forward_seed, keys.wide))
        self._openers.append(_Opener(keys.backward_key, keys.backward_seed, keys.wide, 0))

    def encrypt(self, hop: int, bodies: Bodies) -> list[bytes]:
        """Seal plain ``bodies`` for ``hop`` and put the layers on, in place; returns each cell's digest."""
        digests = self._seal[hop].seal(bodies)
        for layer in self._ciphers[hop::-1]:
            layer.apply(bodies.data)
        return digests

    def decrypt(self, bodies: Bodies) -> list[Recognized]:
        """Take the layers off a run that came in (``bodies`` is used up) until every cell is recognized.

        Returns consecutive cells of one hop together, in the order they came. Raises ``ProtocolError`` when
        a cell is recognized by no hop: the circuit must be closed.
        """
        found: list[Recognized] = []
        index = np.arange(len(bodies))
        for hop, opener in enumerate(self._openers):
            opener.cipher.apply(bodies.data)
            rows, tags = opener.recognize(bodies)
            if not len(rows):
                continue
            if len(rows) == len(bodies):
                found.append(Recognized(hop, index, bodies, tags))
                return found if len(found) == 1 else _in_order(found)
            found.append(Recognized(hop, index[rows], bodies[rows], tags))
            rest = np.ones(len(bodies), dtype=bool)
            rest[rows] = False
            bodies, index = bodies[rest], index[rest]
        raise ProtocolError(_UNRECOGNIZED)

    def encrypt_one(self, hop: int, body: bytearray) -> bytes:
        """:meth:`encrypt` for a lone cell; returns the digest after it."""
        digest = self._seal[hop].seal_one(body)
        for layer in self._ciphers[hop::-1]:
            layer.apply(body)
        return digest

    def decrypt_one(self, body: bytearray) -> tuple[int, bytes]:
        """:meth:`decrypt` for a lone cell, in place; returns its hop and the digest after it."""
        for hop, opener in enumerate(self._openers):
            digest = opener.open_one(body)
            if digest is not None:
                return hop, digest
        raise ProtocolError(_UNRECOGNIZED)


def _in_order(found: Sequence[Recognized]) -> list[Recognized]:
    """Cut the finds of several hops into pieces that are in the order in which the cells came."""
    hop_of = {int(row): (part, at) for part in found for at, row in enumerate(part.rows)}
    pieces: list[Recognized] = []
    start = 0
    rows = sorted(hop_of)
    for end in range(1, len(rows) + 1):
        part, first = hop_of[rows[start]]
        if end < len(rows) and hop_of[rows[end]][0] is part:
            continue
        span = slice(first, first + end - start)
        pieces.append(Recognized(part.hop, part.rows[span], part.bodies[span], part.tags[span]))
        start = end
    return pieces
