"""Entry guards (guard-spec): sampled, filtered, confirmed and primary guards, retries, state on disk.

A client enters the network through very few relays and keeps to them for months, lest in time some hostile
relay come to stand at its entry. Names are the specification's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pelure.errors import PathError
from pelure.tor.crypto.keys import Rng
from pelure.tor.directory.netdir import NetDir
from pelure.tor.directory.relay import Relay
from pelure.tor.path.weights import Position, Sampler, random_below, random_fraction

log = logging.getLogger(__name__)

DAY = 86400.0
HOUR = 3600.0
MINUTE = 60.0
STATE_VERSION = 1

Accept = Callable[[Relay], bool]
_Schedule = tuple[tuple[float, float], ...]
PRIMARY_GUARDS_RETRY_SCHED: _Schedule = (
    (6 * HOUR, 10 * MINUTE),
    (96 * HOUR, 90 * MINUTE),
    (168 * HOUR, 4 * HOUR),
    (float("inf"), 9 * HOUR),
)
GUARDS_RETRY_SCHED: _Schedule = (
    (6 * HOUR, HOUR),
    (96 * HOUR, 4 * HOUR),
    (168 * HOUR, 18 * HOUR),
    (float("inf"), 36 * HOUR),
)
TESTING_RETRY_SCHED: _Schedule = ((float("inf"), 10.0),)
"""On a testing network, whose relays come and go by the minute."""


def _anyone(_: Relay) -> bool:
    return True


class Reachable(Enum):
    """``is_reachable``: whether a guard is worth trying."""

    YES = "yes"
    NO = "no"
    MAYBE = "maybe"


@dataclass(slots=True)
class Guard:
    """A member of SAMPLED_GUARDS. Times in epoch seconds; those that aren't kept on disk start anew."""

    rsa_id: bytes
    ed_id: bytes | None
    nickname: str
    added_on: float
    confirmed_on: float | None = None
    unlisted_since: float | None = None
    reachable: Reachable = Reachable.MAYBE
    last_tried: float | None = None
    failing_since: float | None = None
    pending: bool = False

    def save(self) -> dict[str, Any]:
        """What of it is kept on disk."""
        return {
            "rsa_id": self.rsa_id.hex(),
            "ed_id": self.ed_id.hex() if self.ed_id else None,
            "nickname": self.nickname,
            "added_on": self.added_on,
            "confirmed_on": self.confirmed_on,
            "unlisted_since": self.unlisted_since,
        }

    @classmethod
    def load(cls, saved: Any) -> Guard:
        """Read what :meth:`save` wrote; ``ValueError``, ``TypeError`` or ``KeyError`` for other things."""
        ed_id = saved["ed_id"]
        confirmed_on, unlisted_since = saved["confirmed_on"], saved["unlisted_since"]
        return cls(
            rsa_id=bytes.fromhex(saved["rsa_id"]),
            ed_id=bytes.fromhex(ed_id) if ed_id else None,
            nickname=str(saved["nickname"]),
            added_on=float(saved["added_on"]),
            confirmed_on=None if confirmed_on is None else float(confirmed_on),
            unlisted_since=None if unlisted_since is None else float(unlisted_since),
        )


class GuardManager:
    """All guards of one client. ``state`` is what :meth:`state` returned in an earlier run, or None.

    For each circuit: :meth:`select` a guard, then report with :meth:`succeeded` or :meth:`failed`.
    """

    def __init__(self, state: Any, netdir: NetDir, rng: Rng, now: float) -> None:
        self._rng = rng
        self._sampled: list[Guard] = []
        self._confirmed: list[Guard] = []
        self._primary: list[Guard] = []
        self._last_time_on_internet = 0.0
        self._load(state)
        self.update(netdir, now)

    # ---- state ----

    def state(self) -> dict[str, Any]:
        """The persistent state, fit for JSON."""
        return {
            "version": STATE_VERSION,
            "sampled": [guard.save() for guard in self._sampled],
            "confirmed": [guard.rsa_id.hex() for guard in self._confirmed],
        }

    def _load(self, state: Any) -> None:
        """Take over saved state; damaged state is dropped whole, since guards can be sampled again."""
        if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
            return
        try:
            sampled = [Guard.load(saved) for saved in state["sampled"]]
            by_id = {guard.rsa_id: guard for guard in sampled}
            confirmed = [by_id[bytes.fromhex(text)] for text in state["confirmed"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            log.warning("the saved entry guards are damaged; new ones will be chosen")
            return
        self._sampled, self._confirmed = sampled, confirmed

    # ---- the sets ----

    def update(self, netdir: NetDir, now: float) -> None:
        """A new consensus: expire, sample and rank anew (guard-spec 4.10)."""
        self._netdir = netdir
        routers = netdir.consensus.routers
        self._listed = {router.rsa_id for router in routers if self._is_possible_guard(router.flags)}
        self._usable = {relay.rsa_id: relay for relay in netdir.relays if relay.rsa_id in self._listed}
        self._sampler = Sampler.for_position(
            list(self._usable.values()), Position.GUARD, netdir.consensus.bandwidth_weights
        )
        for guard in self._sampled:
            self._update_listing(guard, now)
        kept = [guard for guard in self._sampled if not self._expired(guard, now)]
        if len(kept) != len(self._sampled):
            self._sampled = kept
            self._confirmed = [guard for guard in self._confirmed if guard in kept]
        self._fill_sample(now)
        self._choose_primary()

    def _is_possible_guard(self, flags: frozenset[str]) -> bool:
        needed = {"Guard", "Running", "Valid"}
        if not self._netdir.network.testing:
            needed |= {"Stable", "Fast", "V2Dir"}
        return needed <= flags

    def _update_listing(self, guard: Guard, now: float) -> None:
        if guard.rsa_id in self._listed:
            guard.unlisted_since = None
        elif guard.unlisted_since is None:
            guard.unlisted_since = (
                now
                - random_fraction(self._rng) * self._days("guard-remove-unlisted-guards-after-days", 20) / 5
            )

    def _days(self, param: str, default: int) -> float:
        return self._netdir.param(param, default, 1, 3650) * DAY

    def _expired(self, guard: Guard, now: float) -> bool:
        if guard.unlisted_since is not None:
            limit = self._days("guard-remove-unlisted-guards-after-days", 20)
            if now - guard.unlisted_since > limit:
                return True
        if now - guard.added_on <= self._days("guard-lifetime-days", 120):
            return False
        confirmed_limit = self._days("guard-confirmed-min-lifetime-days", 60)
        return guard.confirmed_on is None or now - guard.confirmed_on > confirmed_limit

    def _filtered(self) -> list[Guard]:
        """FILTERED_GUARDS, in sample order."""
        return [guard for guard in self._sampled if guard.rsa_id in self._listed]

    def _fill_sample(self, now: float) -> None:
        """Sample until enough usable guards are there or no more may be (guard-spec 4.1, 4.2)."""
        minimum = self._netdir.param("guard-min-filtered-sample-size", 20, 1, 1000)
        threshold = self._netdir.param("guard-max-sample-threshold-percent", 20, 1, 100)
        largest = min(
            self._netdir.param("guard-max-sample-size", 60, 1, 10000), len(self._listed) * threshold // 100
        )
        largest = max(largest, minimum)
        known = {guard.rsa_id for guard in self._sampled}
        usable = sum(guard.reachable is not Reachable.NO for guard in self._filtered())
        while usable < minimum and len(self._sampled) < largest:
            relay = self._sampler.draw(self._rng, lambda relay: relay.rsa_id not in known)
            if relay is None:
                return
            added_on = self._randomized(now, self._days("guard-lifetime-days", 120) / 10)
            self._sampled.append(Guard(relay.rsa_id, relay.ed_id, relay.nickname, added_on))
            known.add(relay.rsa_id)
            usable += 1

    def _randomized(self, now: float, interval: float) -> float:
        """RAND(now, interval): some time in the last ``interval`` seconds."""
        return now - random_fraction(self._rng) * interval

    def _choose_primary(self) -> None:
        """Confirmed guards first, then those that are primary already, then the sample (guard-spec 4.4)."""
        count = self._netdir.param("guard-n-primary-guards", 3, 1, 30)
        candidates = [
            guard
            for guard in [*self._confirmed, *self._primary, *self._sampled]
            if guard.rsa_id in self._listed
        ]
        unique = list({id(guard): guard for guard in candidates}.values())
        self._primary = unique[:count]

    @property
    def primary(self) -> list[Relay]:
        """The primary guards, best first."""
        return [self._usable[guard.rsa_id] for guard in self._primary if guard.rsa_id in self._usable]

    # ---- use ----

    def select(self, now: float, *, accept: Accept = _anyone, directory: bool = False) -> Relay:
        """A guard for a new circuit (guard-spec 4.6) that ``accept`` takes.

        ``directory``: for a directory request, spread over more of the primary guards.
        Raises ``PathError`` if there is none.
        """
        self._retry(now)
        guard = self._pick(accept, directory=directory)
        if guard is None:
            self._fill_sample(now)
            guard = self._pick(accept, directory=directory)
        if guard is None:
            for one in self._sampled:
                one.reachable = Reachable.MAYBE
            guard = self._pick(accept, directory=directory)
        if guard is None:
            raise PathError("no entry guard is available in the current consensus")
        guard.last_tried = now
        return self._usable[guard.rsa_id]

    def _pick(self, accept: Accept, *, directory: bool) -> Guard | None:
        def fits(guard: Guard) -> bool:
            relay = self._usable.get(guard.rsa_id)
            return guard.reachable is not Reachable.NO and relay is not None and accept(relay)

        primary = list(filter(fits, self._primary))
        if primary:
            if directory:
                count = self._netdir.param("guard-n-primary-dir-guards-to-use", 3, 1, 30)
            else:
                count = self._netdir.param("guard-n-primary-guards-to-use", 1, 1, 30)
            return primary[random_below(min(count, len(primary)), self._rng)]
        others = [*filter(fits, self._confirmed)] or [*filter(fits, self._sampled)]
        if not others:
            return None
        chosen = next((guard for guard in others if not guard.pending), others[0])
        chosen.pending = True
        return chosen

    def _retry(self, now: float) -> None:
        """Give unreachable guards another chance when their time has come (guard-spec 4.5)."""
        for guard in self._sampled:
            if guard.reachable is not Reachable.NO or guard.failing_since is None:
                continue
            if self._netdir.network.testing:
                schedule = TESTING_RETRY_SCHED
            else:
                schedule = PRIMARY_GUARDS_RETRY_SCHED if guard in self._primary else GUARDS_RETRY_SCHED
            failing_for = now - guard.failing_since
            pause = next(pause for limit, pause in schedule if failing_for < limit)
            waited = now - (guard.last_tried or 0.0)
            if not 0 <= waited < pause:  # a clock that was set back does not prolong it
                guard.reachable = Reachable.MAYBE

    def succeeded(self, relay: Relay, now: float, end: Relay | None = None) -> bool:
        """A circuit through guard ``relay`` to ``end`` was built (guard-spec 4.8).

        Returns whether the circuit may be used: False if it came to be while a better guard may be reachable
        after all, because the network seems to have just come back; build another one then. A better guard
        that is this circuit's own end could not have been taken (4.9: restrictions).
        """
        guard = self._find(relay)
        if guard is None:
            return True
        guard.reachable, guard.failing_since, guard.pending = Reachable.YES, None, False
        if guard.confirmed_on is None:
            guard.confirmed_on = self._randomized(now, self._days("guard-lifetime-days", 120) / 10)
            self._confirmed.append(guard)
        was_offline = now - self._last_time_on_internet > self._netdir.param(
            "guard-internet-likely-down-interval", 600, 1, 1 << 30
        )
        first_use, self._last_time_on_internet = self._last_time_on_internet == 0.0, now
        if guard in self._primary:
            self._choose_primary()
            return True
        if was_offline and not first_use:
            for one in self._primary:
                one.reachable = Reachable.MAYBE
            return False
        better = [one for one in self._primary if end is None or one.rsa_id != end.rsa_id]
        usable = all(one.reachable is Reachable.NO for one in better)
        self._choose_primary()
        return usable

    def failed(self, relay: Relay, now: float) -> None:
        """No link to guard ``relay``, or no first hop, could be made (guard-spec 4.7)."""
        guard = self._find(relay)
        if guard is None:
            return
        guard.reachable, guard.pending = Reachable.NO, False
        guard.last_tried = now
        if guard.failing_since is None:
            guard.failing_since = now
            log.info("entry guard %s can't be reached; others are tried", guard.nickname)

    def _find(self, relay: Relay) -> Guard | None:
        return next((guard for guard in self._sampled if guard.rsa_id == relay.rsa_id), None)
