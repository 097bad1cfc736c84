"""Relay messages of the rendezvous (rend-spec-v3 3 and 4).

Same shape as ``relay_messages``: ``command``, ``encode``, ``decode`` (raising ``ProtocolError``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Self

from pelure.errors import CryptoError, ProtocolError
from pelure.tor.cell.codec import Reader, vector
from pelure.tor.cell.commands import RelayCommand
from pelure.tor.cell.extensions import Extension, encode_extensions, read_extensions
from pelure.tor.cell.linkspec import LinkSpecifier, encode_specifiers, read_specifiers
from pelure.tor.cell.relay_messages import RelayMessageBody
from pelure.tor.crypto.digests import equal, hs_mac
from pelure.tor.crypto.keys import Ed25519KeyPair, ed25519_verify

COOKIE_LEN = 20
AUTH_KEY_ED25519 = 2
ONION_KEY_NTOR = 1

_LEGACY_KEY_ID = bytes(20)
_SIGNATURE_PREFIX = b"Tor establish-intro cell v1"


class IntroduceStatus(IntEnum):
    """The status of INTRODUCE_ACK."""

    SUCCESS = 0
    UNKNOWN_ID = 1
    BAD_FORMAT = 2
    CANNOT_RELAY = 3


def _read_auth_key(reader: Reader) -> bytes:
    """The Ed25519 authentication key (32 bytes) with its type and length."""
    kind, key = reader.u8(), reader.vector(2)
    if kind != AUTH_KEY_ED25519 or len(key) != 32:
        raise ProtocolError(f"{reader.what} without an Ed25519 authentication key")
    return key


def _encode_auth_key(key: bytes) -> bytes:
    return bytes([AUTH_KEY_ED25519]) + vector(key, 2)


@dataclass(frozen=True, slots=True)
class EstablishIntro(RelayMessageBody):
    """ESTABLISH_INTRO: make this circuit's end the introduction point of ``auth_key``."""

    command: ClassVar[RelayCommand] = RelayCommand.ESTABLISH_INTRO
    auth_key: bytes
    extensions: tuple[Extension, ...]
    handshake_auth: bytes
    signature: bytes

    @classmethod
    def create(
        cls, auth_key: Ed25519KeyPair, kh: bytes, extensions: Sequence[Extension] = ()
    ) -> EstablishIntro:
        """Build and sign it for a circuit whose last hop's handshake gave ``kh`` (20 bytes)."""
        unsigned = _encode_auth_key(auth_key.public) + encode_extensions(extensions)
        mac = hs_mac(kh, unsigned)
        signature = auth_key.sign(_SIGNATURE_PREFIX + unsigned + mac)
        return cls(auth_key.public, tuple(extensions), mac, signature)

    def _authenticated(self) -> bytes:
        return _encode_auth_key(self.auth_key) + encode_extensions(self.extensions)

    def encode(self) -> bytes:
        return self._authenticated() + self.handshake_auth + vector(self.signature, 2)

    @classmethod
    def decode(cls, data: bytes) -> EstablishIntro:
        reader = Reader(data, "ESTABLISH_INTRO")
        auth_key, extensions = _read_auth_key(reader), read_extensions(reader)
        return cls(auth_key, extensions, reader.take(32), reader.vector(2))

    def verify(self, kh: bytes) -> None:
        """Check the MAC for this circuit's ``kh`` and the signature; raises ``CryptoError``."""
        authenticated = self._authenticated()
        if not equal(hs_mac(kh, authenticated), self.handshake_auth):
            raise CryptoError("ESTABLISH_INTRO is not for this circuit")
        signed = _SIGNATURE_PREFIX + authenticated + self.handshake_auth
        ed25519_verify(self.auth_key, self.signature, signed)


@dataclass(frozen=True, slots=True)
class IntroEstablished(RelayMessageBody):
    """INTRO_ESTABLISHED: the introduction point agrees."""

    command: ClassVar[RelayCommand] = RelayCommand.INTRO_ESTABLISHED
    extensions: tuple[Extension, ...] = ()

    def encode(self) -> bytes:
        return encode_extensions(self.extensions)

    @classmethod
    def decode(cls, data: bytes) -> IntroEstablished:
        return cls(read_extensions(Reader(data, "INTRO_ESTABLISHED")) if data else ())


@dataclass(frozen=True, slots=True)
class Introduce1(RelayMessageBody):
    """INTRODUCE1: the client's request, for the service whose introduction point has ``auth_key``."""

    command: ClassVar[RelayCommand] = RelayCommand.INTRODUCE1
    auth_key: bytes
    extensions: tuple[Extension, ...]
    encrypted: bytes

    @property
    def header(self) -> bytes:
        """Everything before ENCRYPTED; the MAC of hs-ntor covers it."""
        return _LEGACY_KEY_ID + _encode_auth_key(self.auth_key) + encode_extensions(self.extensions)

    def encode(self) -> bytes:
        return self.header + self.encrypted

    @classmethod
    def decode(cls, data: bytes) -> Self:
        reader = Reader(data, cls.command.name)
        if reader.take(20) != _LEGACY_KEY_ID:
            raise ProtocolError(f"{reader.what} in the format of version 2 services")
        auth_key, extensions, encrypted = _read_auth_key(reader), read_extensions(reader), reader.rest()
        if not encrypted:
            raise ProtocolError(f"{reader.what} that says nothing to the service")
        return cls(auth_key, extensions, encrypted)


@dataclass(frozen=True, slots=True)
class Introduce2(Introduce1):
    """INTRODUCE2: the same bytes, passed on to the service."""

    command: ClassVar[RelayCommand] = RelayCommand.INTRODUCE2


@dataclass(frozen=True, slots=True)
class IntroducePayload:
    """The plaintext of INTRODUCE1's encrypted part: where and how to meet.

    ``onion_key`` is the rendezvous point's ntor key (32 bytes), ``specifiers`` name it.
    """

    cookie: bytes = field(repr=False)
    extensions: tuple[Extension, ...]
    onion_key: bytes
    specifiers: tuple[LinkSpecifier, ...]

    def encode(self, padded_to: int = 0) -> bytes:
        """The plaintext, padded with zeros to ``padded_to`` bytes if it is shorter."""
        onion_key = bytes([ONION_KEY_NTOR]) + vector(self.onion_key, 2)
        plaintext = (
            self.cookie + encode_extensions(self.extensions) + onion_key + encode_specifiers(self.specifiers)
        )
        return plaintext.ljust(padded_to, b"\0")

    @classmethod
    def decode(cls, plaintext: bytes) -> IntroducePayload:
        """Raises ``ProtocolError``; padding is ignored."""
        reader = Reader(plaintext, "the payload of INTRODUCE2")
        cookie, extensions = reader.take(COOKIE_LEN), read_extensions(reader)
        kind, onion_key = reader.u8(), reader.vector(2)
        if kind != ONION_KEY_NTOR or len(onion_key) != 32:
            raise ProtocolError("an introduction without an ntor key for its rendezvous point")
        return cls(cookie, extensions, onion_key, read_specifiers(reader))


@dataclass(frozen=True, slots=True)
class IntroduceAck(RelayMessageBody):
    """INTRODUCE_ACK: what became of INTRODUCE1; ``status`` is an :class:`IntroduceStatus` or unknown."""

    command: ClassVar[RelayCommand] = RelayCommand.INTRODUCE_ACK
    status: int
    extensions: tuple[Extension, ...] = ()

    def encode(self) -> bytes:
        return self.status.to_bytes(2, "big") + encode_extensions(self.extensions)

    @classmethod
    def decode(cls, data: bytes) -> IntroduceAck:
        reader = Reader(data, "INTRODUCE_ACK")
        return cls(reader.u16(), read_extensions(reader) if reader.remaining else ())


@dataclass(frozen=True, slots=True)
class EstablishRendezvous(RelayMessageBody):
    """ESTABLISH_RENDEZVOUS: wait here for the service that knows ``cookie`` (20 bytes)."""

    command: ClassVar[RelayCommand] = RelayCommand.ESTABLISH_RENDEZVOUS
    cookie: bytes = field(repr=False)

    def encode(self) -> bytes:
        return self.cookie

    @classmethod
    def decode(cls, data: bytes) -> EstablishRendezvous:
        return cls(Reader(data, "ESTABLISH_RENDEZVOUS").take(COOKIE_LEN))


@dataclass(frozen=True, slots=True)
class RendezvousEstablished(RelayMessageBody):
    """RENDEZVOUS_ESTABLISHED: the rendezvous point waits."""

    command: ClassVar[RelayCommand] = RelayCommand.RENDEZVOUS_ESTABLISHED

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, data: bytes) -> RendezvousEstablished:
        return cls()


@dataclass(frozen=True, slots=True)
class Rendezvous1(RelayMessageBody):
    """RENDEZVOUS1: the service's answer, for the circuit that waits with ``cookie``."""

    command: ClassVar[RelayCommand] = RelayCommand.RENDEZVOUS1
    cookie: bytes = field(repr=False)
    handshake_info: bytes

    def encode(self) -> bytes:
        return self.cookie + self.handshake_info

    @classmethod
    def decode(cls, data: bytes) -> Rendezvous1:
        reader = Reader(data, "RENDEZVOUS1")
        return cls(reader.take(COOKIE_LEN), reader.rest())


@dataclass(frozen=True, slots=True)
class Rendezvous2(RelayMessageBody):
    """RENDEZVOUS2: the service's answer on the client's side of the joined circuits."""

    command: ClassVar[RelayCommand] = RelayCommand.RENDEZVOUS2
    handshake_info: bytes

    def encode(self) -> bytes:
        return self.handshake_info

    @classmethod
    def decode(cls, data: bytes) -> Rendezvous2:
        return cls(data)
