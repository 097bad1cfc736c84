"""The network as a client knows it: a verified consensus joined with its microdescriptors.

Immutable: when more microdescriptors have arrived a new one is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from pelure.errors import DirectoryError
from pelure.tor.directory.consensus import INT32_MAX, INT32_MIN, Consensus, RouterStatus
from pelure.tor.directory.exit_policy import REJECT_ALL
from pelure.tor.directory.microdescriptor import Microdescriptor
from pelure.tor.directory.network import Network
from pelure.tor.directory.protocols import Protocols
from pelure.tor.directory.relay import Relay

CLIENT_PROTOCOLS = Protocols.parse(
    "Cons=1-2 Desc=1-4 DirCache=2 FlowCtrl=1-2 HSDir=2 HSIntro=4-5 HSRend=2 Link=3-5 Microdesc=1-3 Relay=2-4"
)
"""The subprotocols pelure speaks as a client; a consensus may require some of a client."""

DEFAULT_MIN_PATHS_PERCENT = 60


class NetDir:
    """A consensus of the microdesc flavour and the microdescriptors known so far.

    ``relays``: those with a microdescriptor and so an ntor key, in consensus order.
    """

    def __init__(
        self, consensus: Consensus, microdescriptors: Mapping[bytes, Microdescriptor], network: Network
    ) -> None:
        self.consensus = consensus
        self.network = network
        self.relays: list[Relay] = []
        self.missing: list[bytes] = []
        """Digests (SHA-256) of listed microdescriptors that are not known yet."""
        for status in consensus.routers:
            microdescriptor = microdescriptors.get(status.md_digest)
            if microdescriptor is not None:
                self.relays.append(make_relay(status, microdescriptor))
            elif status.md_digest:
                self.missing.append(status.md_digest)
        self.by_rsa = {relay.rsa_id: relay for relay in self.relays}

    @property
    def valid_after(self) -> float:
        """When the consensus became valid (epoch seconds)."""
        return self.consensus.valid_after

    @property
    def fresh_until(self) -> float:
        """When a newer consensus is due (epoch seconds)."""
        return self.consensus.fresh_until

    @property
    def valid_until(self) -> float:
        """When the consensus stops being valid (epoch seconds)."""
        return self.consensus.valid_until

    @property
    def params(self) -> Mapping[str, int]:
        """The consensus parameters."""
        return self.consensus.params

    @property
    def shared_rand_current(self) -> bytes | None:
        """The current shared random value (32 bytes), if there is one."""
        value = self.consensus.shared_rand_current
        return value.value if value else None

    @property
    def shared_rand_previous(self) -> bytes | None:
        """The previous shared random value (32 bytes), if there is one."""
        value = self.consensus.shared_rand_previous
        return value.value if value else None

    def param(self, name: str, default: int, low: int = INT32_MIN, high: int = INT32_MAX) -> int:
        """The consensus parameter ``name`` clamped to ``low``..``high``."""
        return self.consensus.param(name, default, low, high)

    @cached_property
    def hsdirs(self) -> list[Relay]:
        """The relays that keep onion service descriptors and can be hashed into the ring."""
        return [relay for relay in self.relays if "HSDir" in relay.flags and relay.ed_id is not None]

    def usable(self, now: float, tolerance: float = 0.0) -> bool:
        """Whether paths can be chosen: the consensus is valid (give or take ``tolerance`` s), all known."""
        fits = self.valid_after - tolerance <= now <= self.valid_until + tolerance
        return fits and self.have_enough

    @property
    def have_enough(self) -> bool:
        """Whether enough of the possible paths' bandwidth is known (path-spec 2.1, "60 percent")."""
        return self.fraction_known >= self._fraction_needed

    @property
    def _fraction_needed(self) -> float:
        configured = self.network.options.get("pathsneededtobuildcircuits")
        if configured:
            try:
                return min(max(float(configured[-1]), 0.0), 0.95)
            except ValueError:
                pass  # a setting for C tor that makes no sense is no reason to fail here
        return self.param("min_paths_for_circs_pct", DEFAULT_MIN_PATHS_PERCENT, 25, 95) / 100

    @cached_property
    def fraction_known(self) -> float:
        """The share of possible (guard, middle, exit) paths whose relays are all known, 0 to 1."""
        guards = self._known(lambda flags: "Guard" in flags)
        middles = self._known(lambda flags: True)
        exits = self._known(lambda flags: "Exit" in flags and "BadExit" not in flags)
        return guards * middles * exits

    def _known(self, fits: Callable[[frozenset[str]], bool]) -> float:
        total = known = 0
        for status in self.consensus.routers:
            if fits(status.flags):
                weight = status.bandwidth or 1
                total += weight
                known += weight if status.rsa_id in self.by_rsa else 0
        if total == 0:
            # No such relays at all: nothing more can be learned by waiting, if anything is known.
            return 1.0 if self.relays else 0.0
        return known / total


def make_relay(status: RouterStatus, microdescriptor: Microdescriptor) -> Relay:
    """Join a consensus entry with its microdescriptor."""
    addresses = ((status.ip, status.orport), *((status.ipv6,) if status.ipv6 else ()))
    exits = "BadExit" not in status.flags
    return Relay(
        nickname=status.nickname,
        rsa_id=status.rsa_id,
        # Where authorities disagree about the Ed25519 identity it may not be relied on (dir-spec 2.1.1).
        ed_id=None if "NoEdConsensus" in status.flags else microdescriptor.ed_id,
        ntor_key=microdescriptor.ntor_key,
        addresses=addresses,
        flags=status.flags,
        bandwidth=status.bandwidth or 0,
        protocols=status.protocols,
        family=microdescriptor.family,
        family_ids=microdescriptor.family_ids,
        exit_policy=microdescriptor.exit_policy if exits else REJECT_ALL,
        exit_policy6=microdescriptor.exit_policy6 if exits else REJECT_ALL,
        md_digest=status.md_digest,
    )


def check_required_protocols(consensus: Consensus, ours: Protocols = CLIENT_PROTOCOLS) -> Protocols:
    """Raise ``DirectoryError`` if the network requires what ``ours`` lacks; return what it recommends."""
    missing = ours.missing(consensus.required_client)
    if missing:
        raise DirectoryError(
            f"this version of pelure is too old for the network: it requires {missing}; please update pelure"
        )
    return ours.missing(consensus.recommended_client)
