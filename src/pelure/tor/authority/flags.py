"""Which flags an authority votes for a relay (dir-spec section 3.4.2, with C tor's guarantees).

:func:`compute_thresholds` looks at all relays, :func:`assign_flags` at one. Bandwidths are in kilobytes a
second, times in seconds. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pelure.tor.directory.consensus import INT32_MAX

MIN_BANDWIDTH_CONSIDERED = 4
FAST_TOO_LOW = 38
"""Half of what a relay must offer: a lower 12.5th percentile is not taken for "fast"."""
STALE_AFTER = 18 * 3600
BAD_EXIT, MIDDLE_ONLY = "BadExit", "MiddleOnly"
"""Voted on only by an authority whose operator marks relays so: silence must not count as a vote against."""
NOT_FOR_MIDDLE_ONLY = frozenset({"Exit", "Guard", "HSDir", "V2Dir"})
KNOWN_FLAGS = (
    "Authority",
    "Exit",
    "Fast",
    "Guard",
    "HSDir",
    "Running",
    "Stable",
    "StaleDesc",
    "Sybil",
    "V2Dir",
    "Valid",
)
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class FlagOptions:
    """How an authority judges; the defaults are C tor's for the public network.

    ``vote_exit_all``, ``vote_guard_all``, ``vote_hsdir_all``: on testing networks, give the flag to every
    relay (``TestingDirAuthVoteExit *`` and so on). ``min_uptime_hsdir``: ``MinUptimeHidServDirectoryV2``;
    ``fast_guarantee``, ``guard_bandwidth_guarantee``: bytes a second that always suffice (0: none do);
    ``max_servers_per_address``: more relays than that on one address are Sybils (0: no limit).
    """

    testing: bool = False
    vote_exit_all: bool = False
    vote_guard_all: bool = False
    vote_hsdir_all: bool = False
    min_uptime_hsdir: int = 96 * 3600
    fast_guarantee: int = 100 << 10
    guard_bandwidth_guarantee: int = 2 << 20
    guard_bandwidth_fraction: float = 0.75
    guard_time_known_guarantee: int = 8 * 86400
    guard_fractional_uptime_guarantee: float = 0.98
    stable_uptime_guarantee: int = 30 * 86400
    stable_mtbf_guarantee: int = 5 * 86400
    min_measured_to_ignore_advertised: int = 500
    max_servers_per_address: int = 2

    @classmethod
    def for_testing(cls) -> FlagOptions:
        """Every relay gets every flag it can have: small private networks need all of their relays."""
        return cls(
            testing=True,
            vote_exit_all=True,
            vote_guard_all=True,
            vote_hsdir_all=True,
            min_uptime_hsdir=0,
            fast_guarantee=1,
            stable_uptime_guarantee=0,
            stable_mtbf_guarantee=0,
            max_servers_per_address=0,
        )


@dataclass(slots=True)
class Candidate:
    """What is known of one relay when it is judged.

    ``addresses``: texts, IPv4 first; ``age``: seconds since its descriptor was published; ``uptime``: what
    it claims; ``observed_uptime`` (of an authority that runs long enough to know, else ``real_uptime``),
    ``mtbf``, ``fractional_uptime``, ``time_known``: of :mod:`.history`; ``bandwidth``: measured, else
    advertised; ``exits``: its policy makes it an exit; ``dir_cache``: answers ``BEGIN_DIR``; ``bad_exit``,
    ``middle_only``: the operator says so.
    """

    rsa_id: bytes
    addresses: tuple[str, ...]
    age: float
    uptime: float
    bandwidth: int
    measured: bool
    running: bool
    valid: bool = True
    authority: bool = False
    hibernating: bool = False
    exits: bool = False
    dir_cache: bool = False
    wants_hsdir: bool = False
    bad_exit: bool = False
    middle_only: bool = False
    observed_uptime: float = 0.0
    mtbf: float = 0.0
    fractional_uptime: float = 0.0
    time_known: float = 0.0

    @property
    def real_uptime(self) -> float:
        """Claimed uptime plus the time since it was claimed."""
        return self.uptime + max(self.age, 0.0)

    def credible_bandwidth(self, measured_only: bool) -> int:
        """The bandwidth, or 0 where only measured ones are believed and this is none."""
        return 0 if measured_only and not self.measured else self.bandwidth


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a relay must reach. :attr:`line` is the ``flag-thresholds`` line of the vote."""

    stable_uptime: float = 0.0
    stable_mtbf: float = 0.0
    enough_mtbf: bool = False
    fast: int = 0
    guard_fractional_uptime: float = 0.0
    guard_time_known: float = 0.0
    guard_with_exits: int = 0
    guard_without_exits: int = 0
    measured_only: bool = False

    @property
    def line(self) -> str:
        """The arguments of the vote's ``flag-thresholds``; bandwidths in bytes a second."""
        return (
            f"stable-uptime={int(self.stable_uptime)} stable-mtbf={int(self.stable_mtbf)} "
            f"fast-speed={self.fast * 1000} guard-wfu={self.guard_fractional_uptime * 100:.3f}% "
            f"guard-tk={int(self.guard_time_known)} guard-bw-inc-exits={self.guard_with_exits * 1000} "
            f"guard-bw-exc-exits={self.guard_without_exits * 1000} enough-mtbf={int(self.enough_mtbf)} "
            f"ignoring-advertised-bws={int(self.measured_only)}"
        )


def _nth(values: Sequence[Number], index: int) -> Number:
    return sorted(values)[index]


def _median(values: Sequence[Number]) -> Number:
    return _nth(values, (len(values) - 1) // 2)


def find_sybils(candidates: Sequence[Candidate], limit: int) -> frozenset[bytes]:
    """Relays beyond the ``limit`` (0: none) most useful of an address: they get no flags but ``Sybil``."""
    if limit <= 0:
        return frozenset()

    def usefulness(one: Candidate) -> tuple[bool, bool, int, bytes]:
        return not one.authority, not one.running, -one.bandwidth, one.rsa_id

    by_address: dict[str, list[Candidate]] = {}
    for one in sorted(candidates, key=usefulness):
        for address in one.addresses:
            by_address.setdefault(address, []).append(one)
    return frozenset(one.rsa_id for group in by_address.values() for one in group[limit:])


def compute_thresholds(
    candidates: Sequence[Candidate],
    sybils: frozenset[bytes],
    options: FlagOptions,
    enough_mtbf: bool,
    params: Mapping[str, int],
) -> Thresholds:
    """The thresholds that this set of relays gives; ``enough_mtbf``: failures were watched long enough.

    ``params``: those of the newest consensus, of which two bound the threshold of Fast (in bytes a second).
    """
    measured = sum(one.measured for one in candidates)
    measured_only = measured > options.min_measured_to_ignore_advertised
    minimum = 0 if options.testing else MIN_BANDWIDTH_CONSIDERED
    known = [one for one in candidates if one.measured or not measured_only]
    counted = [one for one in known if one.bandwidth >= minimum and one.rsa_id not in sybils]
    active = [one for one in counted if _is_active(one)]
    if not active:
        return Thresholds(enough_mtbf=enough_mtbf, measured_only=measured_only)
    bandwidths = [one.bandwidth for one in active]
    fast = _nth(bandwidths, len(active) // 8)
    if fast < FAST_TOO_LOW:
        fast = _nth(bandwidths, len(active) // 4)
    fast = max(fast, params.get("FastFlagMinThreshold", 0) // 1000)
    fast = min(fast, params.get("FastFlagMaxThreshold", INT32_MAX) // 1000)
    if options.fast_guarantee:
        fast = min(fast, options.fast_guarantee // 1000)
    time_known = _nth([one.time_known for one in active], len(active) // 8)
    time_known = min(time_known, options.guard_time_known_guarantee)
    familiar = [one.fractional_uptime for one in active if one.time_known >= time_known]
    not_exits = [one.bandwidth for one in active if not one.exits or one.bad_exit]

    def guard_bandwidth(values: list[int]) -> int:
        index = min(int(len(values) * options.guard_bandwidth_fraction), len(values) - 1)
        return _nth(values, index) if values else 0

    return Thresholds(
        stable_uptime=_median([one.real_uptime for one in active]),
        stable_mtbf=_median([one.mtbf for one in active]),
        enough_mtbf=enough_mtbf,
        fast=fast,
        guard_fractional_uptime=min(_median(familiar), options.guard_fractional_uptime_guarantee),
        guard_time_known=time_known,
        guard_with_exits=guard_bandwidth(bandwidths),
        guard_without_exits=guard_bandwidth(not_exits),
        measured_only=measured_only,
    )


def _is_active(one: Candidate) -> bool:
    return one.running and one.valid and not one.hibernating


def assign_flags(
    one: Candidate, thresholds: Thresholds, sybils: frozenset[bytes], options: FlagOptions
) -> frozenset[str]:
    """The flags to vote for one relay."""
    if one.rsa_id in sybils:
        return frozenset({"Sybil"})
    stable = _is_stable(one, thresholds, options)
    fast = one.credible_bandwidth(thresholds.measured_only) >= thresholds.fast
    rules: dict[str, Callable[[], bool]] = {
        "Authority": lambda: one.authority,
        BAD_EXIT: lambda: one.bad_exit or one.middle_only,
        "Exit": lambda: one.exits or (options.testing and options.vote_exit_all),
        "Fast": lambda: fast,
        "Guard": lambda: (
            _is_guard(one, thresholds, options, stable=stable, fast=fast)
            or (options.testing and options.vote_guard_all)
        ),
        "HSDir": lambda: (
            _is_hsdir(one, options, stable=stable, fast=fast) or (options.testing and options.vote_hsdir_all)
        ),
        MIDDLE_ONLY: lambda: one.middle_only,
        "Running": lambda: one.running,
        "Stable": lambda: stable,
        "StaleDesc": lambda: one.age > STALE_AFTER,
        "V2Dir": lambda: one.dir_cache,
        "Valid": lambda: one.valid,
    }
    flags = frozenset(flag for flag, holds in rules.items() if holds())
    return flags - NOT_FOR_MIDDLE_ONLY if one.middle_only else flags


def _is_stable(one: Candidate, thresholds: Thresholds, options: FlagOptions) -> bool:
    if thresholds.enough_mtbf:
        return one.mtbf >= min(thresholds.stable_mtbf, options.stable_mtbf_guarantee)
    return one.real_uptime >= min(thresholds.stable_uptime, options.stable_uptime_guarantee)


def _is_guard(
    one: Candidate, thresholds: Thresholds, options: FlagOptions, *, stable: bool, fast: bool
) -> bool:
    needed = min(thresholds.guard_with_exits, thresholds.guard_without_exits)
    if options.guard_bandwidth_guarantee:
        needed = min(needed, options.guard_bandwidth_guarantee // 1000)
    return (
        stable
        and fast
        and one.dir_cache
        and one.credible_bandwidth(thresholds.measured_only) >= needed
        and one.fractional_uptime >= thresholds.guard_fractional_uptime
        and one.time_known >= thresholds.guard_time_known
    )


def _is_hsdir(one: Candidate, options: FlagOptions, *, stable: bool, fast: bool) -> bool:
    return (
        one.wants_hsdir
        and one.dir_cache
        and stable
        and fast
        and min(one.real_uptime, one.observed_uptime) >= options.min_uptime_hsdir
        and _is_active(one)
    )
