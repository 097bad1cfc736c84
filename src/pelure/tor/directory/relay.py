"""``Relay``: what every layer passes around to name a relay and reach it.

Made from a consensus entry and its microdescriptor, or from link specifiers alone (introduction and
rendezvous points, rend-spec-v3 section 3.2.2 and 4.1).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from pelure.errors import ProtocolError
from pelure.tor.cell import linkspec
from pelure.tor.cell.linkspec import LinkSpecifier
from pelure.tor.directory.exit_policy import REJECT_ALL, PortPolicy
from pelure.tor.directory.protocols import NO_PROTOCOLS, Protocols


@lru_cache(maxsize=32768)
def _subnet(ip: str) -> bytes:
    packed = ipaddress.ip_address(ip).packed
    return packed[: 2 if len(packed) == 4 else 4]


@dataclass(frozen=True, slots=True, eq=False)
class Relay:
    """One relay. Two are equal if their identities (RSA, and Ed25519 where both know it) are.

    ``rsa_id``: 20 bytes, SHA-1 of the RSA identity key. ``ed_id``, ``ntor_key``: 32 bytes each, None if
    unknown. ``addresses``: (IP text, OR port), IPv4 first. ``bandwidth``: consensus weight, kilobytes a
    second. ``family``: declared members as ``$HEX`` or nicknames, ``family_ids``: proposal 321 ids.
    """

    nickname: str
    rsa_id: bytes
    ed_id: bytes | None
    ntor_key: bytes | None
    addresses: tuple[tuple[str, int], ...]
    flags: frozenset[str] = frozenset()
    bandwidth: int = 0
    protocols: Protocols = NO_PROTOCOLS
    family: frozenset[str] = frozenset()
    family_ids: frozenset[str] = frozenset()
    exit_policy: PortPolicy = REJECT_ALL
    exit_policy6: PortPolicy = REJECT_ALL
    md_digest: bytes = b""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Relay) or self.rsa_id != other.rsa_id:
            return False
        return self.ed_id == other.ed_id or self.ed_id is None or other.ed_id is None

    def __hash__(self) -> int:
        return hash(self.rsa_id)

    @property
    def fingerprint(self) -> str:
        """The RSA identity in 40 upper-case hexadecimal digits."""
        return self.rsa_id.hex().upper()

    @property
    def subnets(self) -> frozenset[bytes]:
        """The /16 of each IPv4 and the /32 of each IPv6 address (path-spec 2.2)."""
        return frozenset(_subnet(ip) for ip, _ in self.addresses)

    def link_specifiers(self) -> list[LinkSpecifier]:
        """How to extend to this relay, in tor-spec 5.1.2's order: IPv4, RSA id, Ed25519 id, IPv6."""
        located = [LinkSpecifier.address(ip, port) for ip, port in self.addresses]
        named = [LinkSpecifier.rsa(self.rsa_id)]
        if self.ed_id is not None:
            named.append(LinkSpecifier.ed25519(self.ed_id))
        first = [spec for spec in located if spec.type == linkspec.IPV4]
        return first + named + [spec for spec in located if spec.type != linkspec.IPV4]

    @classmethod
    def from_link_specifiers(cls, specs: Iterable[LinkSpecifier], ntor_key: bytes | None) -> Relay:
        """The relay that ``specs`` describe; unknown specifier types are skipped.

        Raises ``ProtocolError`` if the RSA identity or every address is missing, or an identity is repeated.
        """
        listed = list(specs)
        ids = linkspec.identities(listed)
        addresses = linkspec.endpoints(listed)
        if not addresses:
            raise ProtocolError("link specifiers without an address")
        return cls(ids.rsa.hex().upper()[:8], ids.rsa, ids.ed, ntor_key, addresses)
