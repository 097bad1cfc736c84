"""Which relays may share a circuit: families and subnets (path-spec 2.2)."""

from __future__ import annotations

from collections.abc import Iterable

from pelure.tor.directory.netdir import NetDir
from pelure.tor.directory.relay import Relay


class Restrictions:
    """The rules of one consensus and network."""

    def __init__(self, netdir: NetDir) -> None:
        self.distinct_subnets = netdir.network.distinct_subnets
        self.use_lists = netdir.param("use-family-lists", 1, 0, 1) == 1
        self.use_ids = netdir.param("use-family-ids", 1, 0, 1) == 1

    def related(self, one: Relay, other: Relay) -> bool:
        """Whether the two are the same, of one family, or in one subnet."""
        if one.rsa_id == other.rsa_id or self.same_family(one, other):
            return True
        return self.distinct_subnets and not one.subnets.isdisjoint(other.subnets)

    def same_family(self, one: Relay, other: Relay) -> bool:
        """Whether both prove a common family id, or each lists the other by fingerprint."""
        if self.use_ids and not one.family_ids.isdisjoint(other.family_ids):
            return True
        listed = f"${other.fingerprint}" in one.family and f"${one.fingerprint}" in other.family
        return self.use_lists and listed

    def clear_of(self, relay: Relay, others: Iterable[Relay]) -> bool:
        """Whether ``relay`` is related to none of ``others``."""
        return not any(self.related(relay, other) for other in others)
