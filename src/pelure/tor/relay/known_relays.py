"""What a relay knows of the others from the directory (tor-spec 5.1.2; param-spec allow-network-reentry).

Whoever asks to extend to a relay by its RSA identity alone gets it held to its Ed25519 identity too. And
exits let nobody back into the network: a path without end would cost everybody on it (Evans, Dingledine and
Grothoff, "A Practical Congestion Attack on Tor Using Long Paths").
"""

from __future__ import annotations

from collections.abc import Iterable

from pelure.errors import DirectoryError
from pelure.tor.directory.cache import DirectoryCache
from pelure.tor.directory.consensus import Consensus
from pelure.tor.directory.microdescriptor import parse_microdescriptor
from pelure.tor.directory.network import DirAuthority


class KnownRelays:
    """The relays of the newest consensus, and the authorities."""

    def __init__(self, cache: DirectoryCache, authorities: Iterable[DirAuthority]) -> None:
        """``cache``: has the microdescriptors."""
        self._cache = cache
        self._authorities = tuple(authorities)
        self._digests: dict[bytes, bytes] = {}
        self._places = self._authority_places()
        self._reentry_allowed = False

    def update(self, consensus: Consensus) -> None:
        """A new consensus, of the microdesc flavour, is there."""
        self._digests = {router.rsa_id: router.md_digest for router in consensus.routers}
        self._places = self._authority_places()
        for router in consensus.routers:
            self._places.add((router.ip, router.orport))
            if router.ipv6 is not None:
                self._places.add(router.ipv6)
        self._reentry_allowed = bool(consensus.param("allow-network-reentry", 0, 0, 1))

    def ed_id(self, rsa_id: bytes) -> bytes | None:
        """The Ed25519 identity (32 bytes) of the relay ``rsa_id`` (20 bytes), None if it is not known."""
        text = self._cache.microdescriptor(self._digests.get(rsa_id, b""))
        if text is None:
            return None
        try:
            return parse_microdescriptor(text).ed_id
        except DirectoryError:  # of a later kind: the authorities have signed its digest
            return None

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
