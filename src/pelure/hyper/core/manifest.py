"""Manifests: what a core's key stands for (HYPER-FACTS §3).

A manifest names the signers of a core and how many of them have to sign (the quorum). The key of a core is
the hash of its manifest, except for *compat* cores (made by Hypercore before version 11), whose key is the
public key of their only signer.
"""

from __future__ import annotations

from dataclasses import dataclass

from pelure.errors import ProtocolError
from pelure.hyper.core.hashing import DEFAULT_NAMESPACE, MANIFEST, blake2b_256
from pelure.hyper.encoding.compact import Reader, Writer

_SIGNER_SIZE = 65
_ALLOW_PATCH, _PROLOGUE, _LINKED, _USER_DATA = 1, 2, 4, 8
_STATIC, _SINGLE, _MULTIPLE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Signer:
    """One who may sign: an Ed25519 public key and the 32-byte name space of the signatures."""

    public_key: bytes
    namespace: bytes = DEFAULT_NAMESPACE


@dataclass(frozen=True, slots=True)
class Prologue:
    """A beginning that is fixed: a tree of ``length`` blocks with this tree hash needs no signature."""

    hash: bytes
    length: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of a core; ``version`` 0 to 3."""

    version: int
    signers: tuple[Signer, ...]
    quorum: int
    allow_patch: bool = False
    prologue: Prologue | None = None
    linked: tuple[bytes, ...] = ()
    user_data: bytes | None = None

    def key(self) -> bytes:
        """The core key that this manifest stands for (not for compat cores)."""
        return blake2b_256(MANIFEST, self.encode())

    def matches(self, key: bytes) -> bool:
        """Whether the core with this ``key`` may have this manifest."""
        return self.is_compat(key) or self.key() == key

    def is_compat(self, key: bytes) -> bool:
        """Whether ``key`` is simply the only signer's public key."""
        return len(self.signers) == 1 and self.signers[0].public_key == key

    def encode(self) -> bytes:
        w = Writer()
        w.uint(self.version)
        if self.version == 0:
            self._encode_v0(w)
            return w.bytes()
        w.uint(
            self.allow_patch * _ALLOW_PATCH
            | (self.prologue is not None) * _PROLOGUE
            | bool(self.linked) * _LINKED
            | (self.user_data is not None) * _USER_DATA
        )
        w.uint(0)  # hash: BLAKE2b
        w.uint(self.quorum)
        _write_signers(w, self.signers)
        if self.prologue is not None:
            w.fixed32(self.prologue.hash)
            w.uint(self.prologue.length)
        if self.linked:
            w.uint(len(self.linked))
            for key in self.linked:
                w.fixed32(key)
        if self.user_data is not None:
            w.buffer(self.user_data)
        return w.bytes()

    def _encode_v0(self, w: Writer) -> None:
        w.uint(0)  # hash: BLAKE2b
        if self.prologue is not None and not self.signers:
            w.uint(_STATIC)
            w.fixed32(self.prologue.hash)
        elif self.quorum == 1 and len(self.signers) == 1 and not self.allow_patch:
            w.uint(_SINGLE)
            _write_signer(w, self.signers[0])
        else:
            w.uint(_MULTIPLE)
            w.uint(self.allow_patch * 1)
            w.uint(self.quorum)
            _write_signers(w, self.signers)

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Raises :class:`~pelure.errors.ProtocolError` for anything malformed."""
        r = Reader(data)
        version = r.uint()
        if version > 3:
            raise ProtocolError(f"manifest has unknown version {version}")
        manifest = cls._decode_v0(r) if version == 0 else cls._decode_v1(r, version)
        if r.remaining:
            raise ProtocolError("manifest is followed by other bytes")
        if manifest.quorum > len(manifest.signers):
            raise ProtocolError("manifest wants more signatures than it has signers")
        return manifest

    @classmethod
    def _decode_v0(cls, r: Reader) -> Manifest:
        _expect_blake2b(r)
        kind = r.uint()
        if kind == _STATIC:
            return cls(0, (), 0, prologue=Prologue(r.fixed32(), 0))
        if kind == _SINGLE:
            return cls(0, (_read_signer(r),), 1)
        if kind == _MULTIPLE:
            flags, quorum = r.uint(), r.uint()
            return cls(0, _read_signers(r), quorum, allow_patch=bool(flags & 1))
        raise ProtocolError(f"manifest has unknown type {kind}")

    @classmethod
    def _decode_v1(cls, r: Reader, version: int) -> Manifest:
        flags = r.uint()
        _expect_blake2b(r)
        quorum = r.uint()
        signers = _read_signers(r)
        prologue = Prologue(r.fixed32(), r.uint()) if flags & _PROLOGUE else None
        linked: tuple[bytes, ...] = ()
        if flags & _LINKED:
            linked = tuple(r.fixed32() for _ in range(r.count(32)))
        user_data = r.buffer() if flags & _USER_DATA else None
        return cls(version, signers, quorum, bool(flags & _ALLOW_PATCH), prologue, linked, user_data)


def single_signer(public_key: bytes, version: int = 1) -> Manifest:
    """The manifest of an ordinary core with one writer."""
    return Manifest(version, (Signer(public_key),), 1)


def _write_signer(w: Writer, signer: Signer) -> None:
    w.uint(0)  # Ed25519
    w.fixed32(signer.namespace)
    w.fixed32(signer.public_key)


def _write_signers(w: Writer, signers: tuple[Signer, ...]) -> None:
    w.uint(len(signers))
    for signer in signers:
        _write_signer(w, signer)


def _read_signer(r: Reader) -> Signer:
    if r.uint() != 0:
        raise ProtocolError("signer uses an unknown kind of signature")
    namespace = r.fixed32()
    return Signer(r.fixed32(), namespace)


def _read_signers(r: Reader) -> tuple[Signer, ...]:
    return tuple(_read_signer(r) for _ in range(r.count(_SIGNER_SIZE)))


def _expect_blake2b(r: Reader) -> None:
    if r.uint() != 0:
        raise ProtocolError("manifest uses an unknown hash")
