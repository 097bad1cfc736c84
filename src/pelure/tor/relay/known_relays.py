"""What a relay knows of the others from the directory (tor-spec 5.1.2, 5.4; param-spec allow-network-reentry
and refuseunknownexits).

Whoever asks to extend to a relay by its RSA identity alone gets it held to its Ed25519 identity too. And
exits let nobody back into the network: a path without end would cost everybody on it (Evans, Dingledine and
Grothoff, "A Practical Congestion Attack on Tor Using Long Paths"). Nor do they serve those who come as a
relay that nobody has heard of, for anybody can make keys: it would be their only hop.
"""

from __future__ import annotations

from collections.abc import Iterable

from pelure.errors import DirectoryError
from pelure.tor.directory.cache import DirectoryCache
from pelure.tor.directory.consensus import Consensus
from pelure.tor.directory.microdescriptor import parse_microdescriptor
from pelure.tor.directory.network import DirAuthority

REMEMBERED = 48 * 3600.0  # seconds: clients use circuits through relays that were listed until lately


class KnownRelays:
    """The relays of the newest consensus and, for some questions, of those before; and the authorities."""

    def __init__(self, cache: DirectoryCache, authorities: Iterable[DirAuthority]) -> None:
        """``cache``: has the microdescriptors."""
        self._cache = cache
        self._authorities = tuple(authorities)
        self._digests: dict[bytes, bytes] = {}
        self._places = self._authority_places()
        self._reentry_allowed = False
        self._listed: dict[bytes, float] = {}
        """When relays were last listed: the start of a consensus."""
        self._refuses_strangers = True

    def update(self, consensus: Consensus) -> None:
        """A new consensus, of the microdesc flavour, is there."""
        self._digests = {router.rsa_id: router.md_digest for router in consensus.routers}
        self._places = self._authority_places()
        for router in consensus.routers:
            self._places.add((router.ip, router.orport))
            if router.ipv6 is not None:
                self._places.add(router.ipv6)
        self._reentry_allowed = bool(consensus.param("allow-network-reentry", 0, 0, 1))
        self._refuses_strangers = bool(consensus.param("refuseunknownexits", 1, 0, 1))
        self._listed |= dict.fromkeys(self._digests, consensus.valid_after)
        oldest = consensus.valid_after - REMEMBERED
        self._listed = {rsa_id: when for rsa_id, when in self._listed.items() if when >= oldest}

    def ed_id(self, rsa_id: bytes) -> bytes | None:
        """The Ed25519 identity (32 bytes) of the relay ``rsa_id`` (20 bytes), None if it is not known."""
        text = self._cache.microdescriptor(self._digests.get(rsa_id, b""))
        if text is None:
            return None
        try:
            return parse_microdescriptor(text).ed_id
        except DirectoryError:  # of a later kind: the authorities have signed its digest
            return None

    def is_stranger(self, rsa_id: bytes) -> bool:
        """Whether exits serve no circuit that comes from ``rsa_id``; False before a consensus is there."""
        return self._refuses_strangers and bool(self._listed) and rsa_id not in self._listed

    def is_reentry(self, ip: str, port: int) -> bool:
        """Whether an exit must not connect to ``ip`` (in its canonical form), ``port``."""
        return not self._reentry_allowed and (ip, port) in self._places

    def _authority_places(self) -> set[tuple[str, int]]:
        places = set()
        for authority in self._authorities:
            places |= {(authority.ip, authority.orport), (authority.ip, authority.dirport)}
            if authority.ipv6 is not None:
                places.add(authority.ipv6)
        return places
