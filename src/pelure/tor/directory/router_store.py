"""The router descriptors that a directory gives out (dir-spec sections 4.3 and 6.2).

A descriptor stays for as long as a consensus that lists it is valid: clients that go by an older one ask for
what that one lists, and C tor takes a directory without it for one that is down. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable

from pelure.tor.directory.consensus import Consensus
from pelure.tor.directory.router_descriptor import RouterDescriptor


class RouterStore:
    """Descriptors by digest (SHA-1, 20 bytes), and the present one of each relay (RSA identity)."""

    def __init__(self) -> None:
        self.by_digest: dict[bytes, bytes] = {}
        self._present: dict[bytes, bytes] = {}
        self._held: frozenset[bytes] = frozenset()
        self._listed_until: dict[bytes, float] = {}
        self._listed: dict[bytes, bytes] = {}

    def replace(self, routers: Iterable[RouterDescriptor]) -> None:
        """Take these as the present descriptors, as an authority that has all of them does."""
        known = {router.rsa_id: router for router in routers}
        self._present = {key: router.digest for key, router in known.items()}
        self._held = frozenset(self._present.values())
        self.by_digest |= {router.digest: router.text for router in known.values()}
        self._forget()

    def add(self, routers: Iterable[RouterDescriptor]) -> None:
        """Take those that the present consensus lists, as a cache does."""
        for router in routers:
            if self._listed.get(router.digest) == router.rsa_id:
                self.by_digest[router.digest] = router.text
                self._present[router.rsa_id] = router.digest

    def set_consensus(self, consensus: Consensus) -> None:
        """Take the present consensus of the ns flavour; forget what none lists that is valid with it."""
        self._listed = {one.descriptor_digest: one.rsa_id for one in consensus.routers}
        self._listed_until |= dict.fromkeys(self._listed, consensus.valid_until)
        now = consensus.valid_after
        self._listed_until = {key: until for key, until in self._listed_until.items() if until >= now}
        self._forget()

    def _forget(self) -> None:
        kept = self._held | self._listed_until.keys()
        self.by_digest = {key: text for key, text in self.by_digest.items() if key in kept}
        self._present = {key: digest for key, digest in self._present.items() if digest in kept}

    def wanted(self) -> list[bytes]:
        """Digests that the present consensus lists and whose descriptors aren't here."""
        return [digest for digest in self._listed if digest not in self.by_digest]

    def by_identity(self) -> dict[bytes, bytes]:
        """The present descriptor of each relay."""
        return {key: self.by_digest[digest] for key, digest in self._present.items()}
