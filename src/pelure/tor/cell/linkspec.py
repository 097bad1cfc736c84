"""Link specifiers: how EXTEND2 and INTRODUCE1 name a relay (tor-spec 5.1.2)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pelure.errors import ProtocolError
from pelure.tor.cell.codec import Reader, vector

IPV4 = 0
IPV6 = 1
RSA_ID = 2
ED25519_ID = 3

_LENGTHS = {IPV4: 6, IPV6: 18, RSA_ID: 20, ED25519_ID: 32}


@dataclass(frozen=True, slots=True)
class LinkSpecifier:
    """One specifier as it stands in the message; types nobody knows are kept, to be passed on."""

    type: int
    data: bytes

    @classmethod
    def address(cls, host: str, port: int) -> LinkSpecifier:
        """The specifier of an IPv4 or IPv6 address and TCP port; raises ``ValueError`` for another host."""
        ip = ipaddress.ip_address(host)
        return cls(IPV4 if ip.version == 4 else IPV6, ip.packed + port.to_bytes(2, "big"))

    @classmethod
    def rsa(cls, identity: bytes) -> LinkSpecifier:
        """The specifier of a 20-byte RSA identity."""
        return cls(RSA_ID, identity)

    @classmethod
    def ed25519(cls, identity: bytes) -> LinkSpecifier:
        """The specifier of a 32-byte Ed25519 identity."""
        return cls(ED25519_ID, identity)

    def endpoint(self) -> tuple[str, int]:
        """Host and port of an address specifier."""
        return str(ipaddress.ip_address(self.data[:-2])), int.from_bytes(self.data[-2:], "big")


@dataclass(frozen=True, slots=True)
class RelayIds:
    """A relay's identities: ``rsa`` (20 bytes) always, ``ed`` (32 bytes) where it is known."""

    rsa: bytes
    ed: bytes | None = None


def encode_specifiers(specifiers: Sequence[LinkSpecifier]) -> bytes:
    """The count (1 byte), then type (1), length (1) and data of each; raises ``ProtocolError``."""
    if len(specifiers) > 255:
        raise ProtocolError("more than 255 link specifiers")
    return bytes([len(specifiers)]) + b"".join(bytes([s.type]) + vector(s.data, 1) for s in specifiers)


def read_specifiers(reader: Reader) -> tuple[LinkSpecifier, ...]:
    """Read a list where ``reader`` stands; raises ``ProtocolError`` for a known type of the wrong length."""
    specifiers = tuple(LinkSpecifier(reader.u8(), reader.vector(1)) for _ in range(reader.u8()))
    for specifier in specifiers:
        if len(specifier.data) != _LENGTHS.get(specifier.type, len(specifier.data)):
            raise ProtocolError("a link specifier of the wrong length")
    return specifiers


def decode_specifiers(data: bytes) -> tuple[LinkSpecifier, ...]:
    """Read a list that fills ``data``, as in a descriptor; raises ``ProtocolError``."""
    reader = Reader(data, "a link specifier list")
    specifiers = read_specifiers(reader)
    if reader.remaining:
        raise ProtocolError("bytes behind a link specifier list")
    return specifiers


def identities(specifiers: Iterable[LinkSpecifier]) -> RelayIds:
    """The identities a list names; raises ``ProtocolError`` without an RSA id or with one kind twice."""
    found: dict[int, bytes] = {}
    for specifier in specifiers:
        if specifier.type in (RSA_ID, ED25519_ID):
            if specifier.type in found:
                raise ProtocolError("a list of link specifiers names two identities of one kind")
            found[specifier.type] = specifier.data
    if RSA_ID not in found:
        raise ProtocolError("a list of link specifiers without an RSA identity")
    return RelayIds(found[RSA_ID], found.get(ED25519_ID))


def endpoints(specifiers: Iterable[LinkSpecifier]) -> tuple[tuple[str, int], ...]:
    """The addresses a list names, in its order."""
    return tuple(s.endpoint() for s in specifiers if s.type in (IPV4, IPV6))
