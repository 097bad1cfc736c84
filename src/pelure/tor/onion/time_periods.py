"""Time periods and the shared random value that goes with each (rend-spec-v3 2.2.1, 2.2.4, 2.3; srv-spec 2).

All time comes from a consensus' valid-after, never from a clock, so that a service and its clients
agree however wrong their clocks are. A testing network (``TestingTorNetwork 1``) ignores the consensus
parameter ``hsdir_interval`` there: its periods are as long as one shared randomness protocol run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pelure.errors import DirectoryError
from pelure.tor.crypto.digests import sha3_256

SRV_ROUNDS_PER_PHASE = 12
SRV_ROUNDS_PER_RUN = 24
PERIOD_MINUTES_DEFAULT = 1440
PERIOD_MINUTES_MIN = 30
PERIOD_MINUTES_MAX = 14400


class ConsensusTimes(Protocol):
    """What of a consensus decides about time periods."""

    @property
    def valid_after(self) -> float: ...

    @property
    def fresh_until(self) -> float: ...

    @property
    def params(self) -> Mapping[str, int]: ...

    @property
    def shared_rand_current(self) -> bytes | None: ...

    @property
    def shared_rand_previous(self) -> bytes | None: ...


@dataclass(frozen=True)
class TimePeriod:
    """One time period: its ``number`` and ``length`` in minutes; both enter key blinding and the ring."""

    number: int
    length: int

    def shifted(self, count: int) -> TimePeriod:
        """Return the period ``count`` periods later (earlier, if negative)."""
        return TimePeriod(self.number + count, self.length)

    def encode(self) -> bytes:
        """Return INT_8(period_num) | INT_8(period_length), 16 bytes, as node indices hash it."""
        return self.number.to_bytes(8, "big") + self.length.to_bytes(8, "big")


@dataclass(frozen=True)
class PeriodSlot:
    """A time period with the shared random value that orders the HSDirs during it.

    ``srv_start`` (seconds since the epoch) is when the protocol run began whose value is used: revision
    counters count from there.
    """

    period: TimePeriod
    srv: bytes
    srv_start: float


@dataclass(frozen=True)
class PeriodSchedule:
    """How a consensus cuts time: ``interval`` seconds between votes, periods of ``length`` minutes."""

    valid_after: int
    interval: int
    length: int
    srv_current: bytes | None
    srv_previous: bytes | None

    @classmethod
    def from_consensus(cls, consensus: ConsensusTimes, *, testing: bool) -> PeriodSchedule:
        """Derive the schedule from a consensus; ``testing`` says ``TestingTorNetwork 1`` is set.

        Raises :class:`DirectoryError` if the consensus' times allow no time period.
        """
        valid_after = int(consensus.valid_after)
        interval = int(consensus.fresh_until) - valid_after
        if testing:
            length = SRV_ROUNDS_PER_RUN * interval // 60
        else:
            asked = consensus.params.get("hsdir_interval", PERIOD_MINUTES_DEFAULT)
            length = min(max(asked, PERIOD_MINUTES_MIN), PERIOD_MINUTES_MAX)
        if interval <= 0 or length <= 0 or valid_after < SRV_ROUNDS_PER_RUN * interval:
            raise DirectoryError("the consensus' times allow no onion service time period")
        return cls(
            valid_after, interval, length, consensus.shared_rand_current, consensus.shared_rand_previous
        )

    @property
    def offset_minutes(self) -> int:
        """The rotation time offset: 12 voting intervals, in whole minutes."""
        return SRV_ROUNDS_PER_PHASE * self.interval // 60

    @property
    def run_start(self) -> int:
        """When the shared randomness protocol run that valid-after lies in began."""
        return self.valid_after - (self.valid_after // self.interval) % SRV_ROUNDS_PER_RUN * self.interval

    @property
    def run_length(self) -> int:
        """Seconds of one shared randomness protocol run."""
        return SRV_ROUNDS_PER_RUN * self.interval

    def period_at(self, time: float) -> TimePeriod:
        """Return the time period that ``time`` (seconds since the epoch) lies in."""
        return TimePeriod((int(time) // 60 - self.offset_minutes) // self.length, self.length)

    @property
    def current(self) -> TimePeriod:
        """The time period of this consensus."""
        return self.period_at(self.valid_after)

    @property
    def between_period_and_srv(self) -> bool:
        """Whether a new time period has begun but no new SRV since (the segments drawn with ``-``)."""
        following = self.period_at(self.run_start).number + 1
        period_start = following * self.length * 60 + SRV_ROUNDS_PER_PHASE * self.interval
        return not self.run_start <= self.valid_after < period_start

    def _slot(self, period: TimePeriod, *, current_srv: bool) -> PeriodSlot:
        srv = self.srv_current if current_srv else self.srv_previous
        start = self.run_start if current_srv else self.run_start - self.run_length
        return PeriodSlot(period, srv or disaster_srv(period), start)

    def fetch_slot(self) -> PeriodSlot:
        """Return the slot clients fetch in (2.2.4.1): always the current period."""
        return self._slot(self.current, current_srv=self.between_period_and_srv)

    def publish_slots(self) -> tuple[PeriodSlot, PeriodSlot]:
        """Return the slots of a service's first and second descriptor (2.2.4.2)."""
        first = self.current.shifted(-1) if self.between_period_and_srv else self.current
        return self._slot(first, current_srv=False), self._slot(first.shifted(1), current_srv=True)


def disaster_srv(period: TimePeriod) -> bytes:
    """Return the 32-byte stand-in for a shared random value that the consensus lacks (2.3.1)."""
    return sha3_256(
        b"shared-random-disaster" + period.length.to_bytes(8, "big") + period.number.to_bytes(8, "big")
    )
