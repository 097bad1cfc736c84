"""The bodies of cells on a link (tor-spec 4, 5.1, 5.4; padding-spec 2.5).

Each class has the ``command`` of its cell, ``encode`` to the body's bytes, ``decode`` from them (raising
``ProtocolError``; zero padding behind a body is ignored) and ``cell`` to make the whole cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pelure.errors import ProtocolError
from pelure.tor.cell.addresses import encode_ip, read_ip
from pelure.tor.cell.codec import Reader, vector
from pelure.tor.cell.commands import CellCommand
from pelure.tor.cell.framing import Cell

AUTH_METHOD_ED25519_SHA256_RFC5705 = 3
"""The only method of AUTHENTICATE in use (tor-spec 4.4.2)."""


class CellMessage:
    """What all bodies share."""

    __slots__ = ()
    command: ClassVar[CellCommand]

    def encode(self) -> bytes:
        """The body's bytes, without padding."""
        raise TypeError(f"{type(self).__name__} has no body")

    def cell(self, circ_id: int = 0) -> Cell:
        """The whole cell."""
        return Cell(circ_id, self.command, self.encode())


@dataclass(frozen=True, slots=True)
class Versions(CellMessage):
    """VERSIONS: the link protocol versions this side speaks."""

    command: ClassVar[CellCommand] = CellCommand.VERSIONS
    versions: tuple[int, ...]

    def encode(self) -> bytes:
        return b"".join(version.to_bytes(2, "big") for version in self.versions)

    @classmethod
    def decode(cls, body: bytes) -> Versions:
        if len(body) % 2:
            raise ProtocolError("VERSIONS has an odd length")
        return cls(tuple(int.from_bytes(body[i : i + 2], "big") for i in range(0, len(body), 2)))


@dataclass(frozen=True, slots=True)
class Certs(CellMessage):
    """CERTS: ``(type, certificate)`` pairs; the types are those of :class:`~.certs.CertType`."""

    command: ClassVar[CellCommand] = CellCommand.CERTS
    certificates: tuple[tuple[int, bytes], ...]

    def encode(self) -> bytes:
        pairs = (bytes([kind]) + vector(data, 2) for kind, data in self.certificates)
        return bytes([len(self.certificates)]) + b"".join(pairs)

    @classmethod
    def decode(cls, body: bytes) -> Certs:
        """Raises ``ProtocolError`` also for two certificates of one type."""
        reader = Reader(body, "CERTS")
        certificates = tuple((reader.u8(), reader.vector(2)) for _ in range(reader.u8()))
        if len({kind for kind, _ in certificates}) < len(certificates):
            raise ProtocolError("CERTS has two certificates of one type")
        return cls(certificates)

    def get(self, kind: int) -> bytes | None:
        """The certificate of type ``kind``, if there is one."""
        return dict(self.certificates).get(kind)


@dataclass(frozen=True, slots=True)
class AuthChallenge(CellMessage):
    """AUTH_CHALLENGE: 32 random bytes and the methods the responder takes."""

    command: ClassVar[CellCommand] = CellCommand.AUTH_CHALLENGE
    challenge: bytes
    methods: tuple[int, ...] = (AUTH_METHOD_ED25519_SHA256_RFC5705,)

    def encode(self) -> bytes:
        methods = b"".join(method.to_bytes(2, "big") for method in self.methods)
        return self.challenge + len(self.methods).to_bytes(2, "big") + methods

    @classmethod
    def decode(cls, body: bytes) -> AuthChallenge:
        reader = Reader(body, "AUTH_CHALLENGE")
        return cls(reader.take(32), tuple(reader.u16() for _ in range(reader.u16())))


@dataclass(frozen=True, slots=True)
class Authenticate(CellMessage):
    """AUTHENTICATE: the method and its authentication, built and checked by ``pelure.tor.net``."""

    command: ClassVar[CellCommand] = CellCommand.AUTHENTICATE
    method: int
    authentication: bytes

    def encode(self) -> bytes:
        return self.method.to_bytes(2, "big") + vector(self.authentication, 2)

    @classmethod
    def decode(cls, body: bytes) -> Authenticate:
        reader = Reader(body, "AUTHENTICATE")
        return cls(reader.u16(), reader.vector(2))


@dataclass(frozen=True, slots=True)
class Netinfo(CellMessage):
    """NETINFO: the sender's clock (seconds), how it sees the other side, and its own addresses.

    An address of a type nobody knows is ``None`` (other side) or left out (own addresses); a client sends
    no addresses of its own and timestamp 0.
    """

    command: ClassVar[CellCommand] = CellCommand.NETINFO
    timestamp: int
    other_address: str | None
    my_addresses: tuple[str, ...] = ()

    def encode(self) -> bytes:
        other = encode_ip(self.other_address if self.other_address is not None else "0.0.0.0")
        mine = b"".join(encode_ip(host) for host in self.my_addresses)
        return self.timestamp.to_bytes(4, "big") + other + bytes([len(self.my_addresses)]) + mine

    @classmethod
    def decode(cls, body: bytes) -> Netinfo:
        reader = Reader(body, "NETINFO")
        timestamp, other = reader.u32(), read_ip(reader)
        mine = [read_ip(reader) for _ in range(reader.u8())]
        return cls(timestamp, other, tuple(host for host in mine if host is not None))


@dataclass(frozen=True, slots=True)
class Create2(CellMessage):
    """CREATE2: a handshake of some type (2 ntor, 3 ntor-v3)."""

    command: ClassVar[CellCommand] = CellCommand.CREATE2
    handshake_type: int
    handshake: bytes

    def encode(self) -> bytes:
        return self.handshake_type.to_bytes(2, "big") + vector(self.handshake, 2)

    @classmethod
    def decode(cls, body: bytes) -> Create2:
        reader = Reader(body, "CREATE2")
        return cls(reader.u16(), reader.vector(2))


@dataclass(frozen=True, slots=True)
class Created2(CellMessage):
    """CREATED2: the answer to CREATE2."""

    command: ClassVar[CellCommand] = CellCommand.CREATED2
    handshake: bytes

    def encode(self) -> bytes:
        return vector(self.handshake, 2)

    @classmethod
    def decode(cls, body: bytes) -> Created2:
        return cls(Reader(body, "CREATED2").vector(2))


@dataclass(frozen=True, slots=True)
class CreateFast(CellMessage):
    """CREATE_FAST: the client's 20 bytes."""

    command: ClassVar[CellCommand] = CellCommand.CREATE_FAST
    x: bytes

    def encode(self) -> bytes:
        return self.x

    @classmethod
    def decode(cls, body: bytes) -> CreateFast:
        return cls(Reader(body, "CREATE_FAST").take(20))


@dataclass(frozen=True, slots=True)
class CreatedFast(CellMessage):
    """CREATED_FAST: the relay's 20 bytes and its proof KH (20 bytes)."""

    command: ClassVar[CellCommand] = CellCommand.CREATED_FAST
    y: bytes
    kh: bytes

    def encode(self) -> bytes:
        return self.y + self.kh

    @classmethod
    def decode(cls, body: bytes) -> CreatedFast:
        reader = Reader(body, "CREATED_FAST")
        return cls(reader.take(20), reader.take(20))


@dataclass(frozen=True, slots=True)
class Destroy(CellMessage):
    """DESTROY: the circuit is gone; ``reason`` is a :class:`~.commands.DestroyReason` or unknown."""

    command: ClassVar[CellCommand] = CellCommand.DESTROY
    reason: int = 0

    def encode(self) -> bytes:
        return bytes([self.reason])

    @classmethod
    def decode(cls, body: bytes) -> Destroy:
        return cls(Reader(body, "DESTROY").u8())


@dataclass(frozen=True, slots=True)
class PaddingNegotiate(CellMessage):
    """PADDING_NEGOTIATE: start or stop link padding; the times are milliseconds, 0 for the default."""

    command: ClassVar[CellCommand] = CellCommand.PADDING_NEGOTIATE
    STOP: ClassVar[int] = 1
    START: ClassVar[int] = 2
    action: int
    ito_low_ms: int = 0
    ito_high_ms: int = 0

    def encode(self) -> bytes:
        times = self.ito_low_ms.to_bytes(2, "big") + self.ito_high_ms.to_bytes(2, "big")
        return bytes([0, self.action]) + times

    @classmethod
    def decode(cls, body: bytes) -> PaddingNegotiate:
        reader = Reader(body, "PADDING_NEGOTIATE")
        if reader.u8() != 0:
            raise ProtocolError("PADDING_NEGOTIATE of an unknown version")
        action = reader.u8()
        if action not in (cls.STOP, cls.START):
            raise ProtocolError("PADDING_NEGOTIATE with an unknown action")
        return cls(action, reader.u16(), reader.u16())
