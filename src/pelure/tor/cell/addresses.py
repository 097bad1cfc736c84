"""IP addresses inside cells, as NETINFO and RESOLVED write them (tor-spec 4.5, 6.4)."""

from __future__ import annotations

import ipaddress

from pelure.errors import ProtocolError
from pelure.tor.cell.codec import Reader, vector

TYPE_IPV4 = 4
TYPE_IPV6 = 6


def encode_ip(host: str) -> bytes:
    """Type (1 byte), length (1) and address of an IP ``host``; raises ``ValueError`` for another."""
    ip = ipaddress.ip_address(host)
    return bytes([TYPE_IPV4 if ip.version == 4 else TYPE_IPV6]) + vector(ip.packed, 1)


def ip_text(kind: int, value: bytes) -> str | None:
    """An address as text, or ``None`` if ``kind`` isn't an address type; raises ``ProtocolError``."""
    if kind not in (TYPE_IPV4, TYPE_IPV6):
        return None
    if len(value) != (4 if kind == TYPE_IPV4 else 16):
        raise ProtocolError("an IP address of the wrong length")
    return str(ipaddress.ip_address(value))


def read_ip(reader: Reader) -> str | None:
    """Read one typed address; ``None`` for a type nobody knows. Raises ``ProtocolError``."""
    kind = reader.u8()
    return ip_text(kind, reader.vector(1))
