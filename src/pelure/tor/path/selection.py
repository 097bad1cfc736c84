"""Choosing paths (path-spec section 2.2, proposals 292 and 333).

Exit paths keep relays of one family or subnet apart. Onion circuits go by vanguards and follow proposal 292's
looser rules, lest what is left out tell about the guard: only a relay that stands on the path already is
excluded, and far enough down the path not even the guard. On a tiny network preferences give way step by
step before a path is declared impossible.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection

from pelure.errors import PathError
from pelure.tor.crypto.keys import Rng
from pelure.tor.directory.consensus_verify import REASONABLY_LIVE
from pelure.tor.directory.netdir import NetDir
from pelure.tor.directory.relay import Relay
from pelure.tor.path.guards import GuardManager
from pelure.tor.path.restrictions import Restrictions
from pelure.tor.path.vanguards import VanguardManager
from pelure.tor.path.weights import Position, Sampler

LONG_LIVED_PORTS = frozenset((21, 22, 706, 1863, 5050, 5190, 5222, 5223, 6523, 6667, 6697, 8300))
"""Ports whose streams last long: their circuits prefer Stable relays (tor manual, "LongLivedPorts")."""
GUARD_MAY_RETURN_AT = 3
"""The hop (counted from 0) from which on the guard may stand on an onion circuit once more."""

_Accept = Callable[[Relay], bool]


class PathSelector:
    """Path selection on one directory; make a new one for each :class:`NetDir`.

    ``vanguards`` must have been updated with ``netdir``; ``clock`` gives epoch seconds.
    """

    def __init__(
        self,
        netdir: NetDir,
        guards: GuardManager,
        vanguards: VanguardManager,
        rng: Rng,
        clock: Callable[[], float],
    ) -> None:
        self._netdir = netdir
        self._guards = guards
        self._vanguards = vanguards
        self._rng = rng
        self._clock = clock
        self._restrictions = Restrictions(netdir)
        relays = [relay for relay in netdir.relays if {"Running", "Valid"} <= relay.flags]
        weights = netdir.consensus.bandwidth_weights
        self._middles = Sampler.for_position(relays, Position.MIDDLE, weights)
        exits = [relay for relay in relays if _is_exit(relay)]
        self._exits = Sampler.for_position(exits, Position.EXIT, weights)

    @property
    def outdated(self) -> bool:
        """Whether the consensus ended more than a day ago: no paths are chosen by it."""
        return self._clock() > self._netdir.consensus.valid_until + REASONABLY_LIVE

    def _check_age(self) -> None:
        """Raise ``PathError`` a day after the consensus' end: nobody may hold us to it (dir-spec 1.4)."""
        if self.outdated:
            raise PathError("the network's directory is too old to choose relays by; a new one is awaited")

    # ---- exits ----

    def exit_path(self, port: int, ip: str | None = None, *, exclude: Collection[Relay] = ()) -> list[Relay]:
        """Guard, middle and an exit that allows streams to ``port`` (of ``ip``, if the target is one).

        ``exclude``: relays that may not be the exit. Raises ``PathError``.
        """
        self._check_age()
        ipv6 = ip is not None and ipaddress.ip_address(ip).version == 6
        stable = port in LONG_LIVED_PORTS

        def allows(relay: Relay) -> bool:
            policy = relay.exit_policy6 if ipv6 else relay.exit_policy
            return relay not in exclude and policy.allows(port)

        chosen = self._draw(self._exits, allows, stable=stable)
        if chosen is None:
            target = f"IPv6 port {port}" if ipv6 else f"port {port}"
            raise PathError(f"no exit in the network allows streams to {target}")
        return self._complete([chosen], stable=stable)

    def _complete(self, tail: list[Relay], *, stable: bool) -> list[Relay]:
        """Put guard and middle before ``tail``, apart from each other by family and subnet if possible."""
        clear_of = self._restrictions.clear_of
        try:
            guard = self._guards.select(self._clock(), accept=lambda relay: clear_of(relay, tail))
        except PathError:
            guard = self._guards.select(self._clock(), accept=lambda relay: relay not in tail)
        path = [guard, *tail]
        middle = self._draw(self._middles, lambda relay: clear_of(relay, path), stable=stable)
        if middle is None:
            middle = self._draw(self._middles, lambda relay: relay not in path, stable=stable)
        if middle is None:
            raise PathError("the network has too few relays for a circuit")
        return [guard, middle, *tail]

    def _draw(self, sampler: Sampler, accept: _Accept, *, stable: bool) -> Relay | None:
        """Draw a Fast (and Stable) relay, or failing that any."""
        preferred = {"Fast", "Stable"} if stable else {"Fast"}
        relay = sampler.draw(self._rng, lambda relay: preferred <= relay.flags and accept(relay))
        return relay or sampler.draw(self._rng, accept)

    # ---- onion circuits ----

    def internal_path(
        self, length: int, last: Relay | None = None, *, exclude: Collection[Relay] = ()
    ) -> list[Relay]:
        """Guard, vanguards and middles, ``length`` relays in all, that ends at ``last`` (or anywhere).

        Where it ends anywhere, it is at none of ``exclude``; guard and vanguards don't heed that, lest they
        be left for others on account of it. ``last`` may stand on the path before (as guard) only where
        three relays are between. Raises ``PathError``.
        """
        if length < 1:
            raise PathError("a path has at least one relay")
        self._check_age()
        if length == 1:
            return [last or self._internal_guard(None, 1)]
        path = [self._internal_guard(last, length)]
        while len(path) < length - (last is not None):
            is_end = len(path) == length - 1
            path.append(self._internal_hop(path, last, exclude if is_end else ()))
        return path if last is None else [*path, last]

    def _internal_guard(self, last: Relay | None, length: int) -> Relay:
        far_enough = last is None or length > GUARD_MAY_RETURN_AT
        return self._guards.select(self._clock(), accept=lambda relay: far_enough or relay != last)

    def _internal_hop(self, path: list[Relay], last: Relay | None, exclude: Collection[Relay]) -> Relay:
        """The next relay after ``path``: a vanguard where one belongs, a middle elsewhere."""
        position = len(path)
        taken = path[1:] if position >= GUARD_MAY_RETURN_AT else path

        def fits(relay: Relay) -> bool:
            return relay not in taken and relay != last and relay not in exclude

        relay = self._vanguards.pick(position + 1, fits, self._clock())
        if relay is None:
            relay = self._draw(self._middles, fits, stable=True)
        if relay is None:
            raise PathError("the network has too few relays for an onion circuit")
        return relay


def _is_exit(relay: Relay) -> bool:
    flagged = "BadExit" not in relay.flags
    return flagged and (relay.exit_policy.allows_some or relay.exit_policy6.allows_some)
