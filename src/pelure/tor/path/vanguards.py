"""Vanguards: relays that stand second (and third) on all onion circuits for days (proposals 292 and 333).

*Lite* (proposal 333) has a second layer and forgets it at the end; *full* (proposal 292), for services that
live long, adds a third layer and keeps both on disk. Without them whoever makes a service build circuits
again and again would soon stand next to its guard.

A vanguard goes when its time is over or the consensus does not list it, and for nothing else: that it can't
be reached is what the relay before it says, who could have others come until an accomplice is among them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pelure.tor.crypto.keys import Rng
from pelure.tor.directory.netdir import NetDir
from pelure.tor.directory.relay import Relay
from pelure.tor.path.weights import Position, Sampler, random_below, random_fraction

log = logging.getLogger(__name__)

HOUR = 3600.0
DAY = 86400.0
STATE_VERSION = 1
RESPITE = 600.0
"""Seconds for which a vanguard that could not be extended to is left alone if others will do."""


@dataclass(frozen=True, slots=True)
class LayerRule:
    """How many relays a layer has, and between how many seconds each stays (the larger of two draws)."""

    number: int
    shortest: float
    longest: float


@dataclass(slots=True)
class Vanguard:
    """A member of a layer. ``expires``, ``failed_at``: epoch seconds; the latter of the last extending to it,
    if that failed."""

    rsa_id: bytes
    expires: float
    failed_at: float | None = None


@dataclass(slots=True)
class Layer:
    """The vanguards of one layer."""

    members: list[Vanguard] = field(default_factory=list)


class VanguardManager:
    """The vanguards of one client or service. ``state``: what :meth:`state` gave in an earlier run, or None.

    Call :meth:`update` with each new consensus before picking.
    """

    def __init__(self, rng: Rng, *, full: bool = False, state: Any = None) -> None:
        self.full = full
        self._rng = rng
        self._layers = [Layer(), Layer()] if full else [Layer()]
        self._netdir: NetDir | None = None
        if full:
            self._load(state)

    @property
    def extra_hops(self) -> int:
        """How many hops longer onion circuits have to be than with vanguards-lite."""
        return len(self._layers) - 1

    def state(self) -> dict[str, Any]:
        """What full vanguards keep on disk, fit for JSON."""
        layers = [[(one.rsa_id.hex(), one.expires) for one in layer.members] for layer in self._layers]
        return {"version": STATE_VERSION, "layers": layers if self.full else []}

    def _load(self, state: Any) -> None:
        if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
            return
        try:
            for layer, saved in zip(self._layers, state["layers"], strict=True):
                layer.members = [Vanguard(bytes.fromhex(text), float(expires)) for text, expires in saved]
        except (KeyError, TypeError, ValueError):
            log.warning("the saved vanguards are damaged; new ones will be chosen")
            self._layers = [Layer() for _ in self._layers]

    def _rules(self, netdir: NetDir) -> list[LayerRule]:
        """Layer sizes and lifetimes; vanguards-lite's are consensus parameters."""
        if self.full:
            return [LayerRule(4, DAY, 45 * DAY), LayerRule(6, HOUR, 48 * HOUR)]
        longest = netdir.param("guard-hs-l2-lifetime-max", 12 * 86400, 1, 1 << 30)
        shortest = netdir.param("guard-hs-l2-lifetime-min", 86400, 1, 1 << 30)
        number = netdir.param("guard-hs-l2-number", 4, 1, 19)
        return [LayerRule(number, float(shortest), float(max(shortest, longest)))]

    def update(self, netdir: NetDir, now: float) -> None:
        """Drop vanguards that expired or left the consensus, and fill the layers."""
        self._netdir = netdir
        needed = {"Running", "Valid"} if netdir.network.testing else {"Running", "Valid", "Stable", "Fast"}
        eligible = {relay.rsa_id: relay for relay in netdir.relays if needed <= relay.flags}
        weights = netdir.consensus.bandwidth_weights
        sampler = Sampler.for_position(list(eligible.values()), Position.MIDDLE, weights)
        for layer, rule in zip(self._layers, self._rules(netdir), strict=True):
            layer.members = [one for one in layer.members if one.rsa_id in eligible and now < one.expires]
            self._fill(layer, rule, sampler, now)

    def _fill(self, layer: Layer, rule: LayerRule, sampler: Sampler, now: float) -> None:
        present = {one.rsa_id for one in layer.members}
        while len(layer.members) < rule.number:
            relay = sampler.draw(self._rng, lambda relay: relay.rsa_id not in present)
            if relay is None:
                return
            share = max(random_fraction(self._rng), random_fraction(self._rng))
            lifetime = rule.shortest + (rule.longest - rule.shortest) * share
            layer.members.append(Vanguard(relay.rsa_id, now + lifetime))
            present.add(relay.rsa_id)

    def pick(self, layer: int, accept: Callable[[Relay], bool], now: float) -> Relay | None:
        """A vanguard of ``layer`` (2 or 3) that ``accept`` takes, each as likely; if lately failed, last.

        None if no member will do: a small network may not leave any that isn't on the path already.
        """
        if self._netdir is None or not 0 <= layer - 2 < len(self._layers):
            return None
        fitting = [
            (one.failed_at is not None and now - one.failed_at < RESPITE, relay)
            for one in self._layers[layer - 2].members
            if (relay := self._netdir.by_rsa.get(one.rsa_id)) is not None and accept(relay)
        ]
        healthy = [relay for failed, relay in fitting if not failed]
        choices = healthy or [relay for _, relay in fitting]
        return choices[random_below(len(choices), self._rng)] if choices else None

    def failed(self, relay: Relay, now: float) -> None:
        """A circuit could not be extended to ``relay``."""
        self._note(relay, now)

    def succeeded(self, relay: Relay) -> None:
        """A circuit was extended to ``relay``."""
        self._note(relay, None)

    def _note(self, relay: Relay, failed_at: float | None) -> None:
        for layer in self._layers:
            for one in layer.members:
                if one.rsa_id == relay.rsa_id:
                    one.failed_at = failed_at
