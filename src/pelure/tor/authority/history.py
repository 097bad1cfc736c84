"""How long and how reliably relays have been up, as the authority saw it (dir-spec section 3.4.2).

Weighted fractional uptime, mean time between failures and time known; older times count for less, by a
factor of 0.95 every 12 hours. No I/O: :meth:`History.to_json` and :meth:`History.from_json` are its file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

DECAY = 0.95
DECAY_INTERVAL = 12 * 3600
ENOUGH_STABILITY = 4 * 86400
"""Seconds of observation after which mean time between failures says more than claimed uptime."""
_FORGET_BELOW = 1e-4
_FORGET_AFTER = 30 * 86400


@dataclass(slots=True)
class _Record:
    """Times in seconds; ``up_since`` and ``down_since``: epoch seconds, 0 if not in that state."""

    changed: float
    up_since: float = 0.0
    down_since: float = 0.0
    weighted_runs: float = 0.0
    run_weights: float = 0.0
    weighted_uptime: float = 0.0
    weighted_time: float = 0.0


class History:
    """Records by RSA identity (20 bytes); ``now`` is epoch seconds throughout."""

    def __init__(self, started: float) -> None:
        self.started = started
        self._decayed_at = started
        self._records: dict[bytes, _Record] = {}

    def note(self, rsa_id: bytes, running: bool, now: float) -> None:
        """Record that the relay is, or is not, running now."""
        record = self._records.setdefault(rsa_id, _Record(now))
        self._account(record, now)
        if running and not record.up_since:
            record.up_since, record.down_since = now, 0.0
        elif not running and not record.down_since:
            if record.up_since:
                record.weighted_runs += now - record.up_since
                record.run_weights += 1.0
            record.up_since, record.down_since = 0.0, now

    @staticmethod
    def _account(record: _Record, now: float) -> None:
        passed = max(now - record.changed, 0.0)
        record.weighted_time += passed
        if record.up_since:
            record.weighted_uptime += passed
        record.changed = max(now, record.changed)

    def decay(self, now: float) -> None:
        """Let the past count for less; forget relays that are long gone. Called now and then."""
        while now >= self._decayed_at + DECAY_INTERVAL:
            self._decayed_at += DECAY_INTERVAL
            for record in self._records.values():
                self._account(record, self._decayed_at)
                record.weighted_runs *= DECAY
                record.run_weights *= DECAY
                record.weighted_uptime *= DECAY
                record.weighted_time *= DECAY
        gone = [
            key
            for key, record in self._records.items()
            if record.down_since
            and now - record.down_since > _FORGET_AFTER
            and record.run_weights < _FORGET_BELOW
        ]
        for key in gone:
            del self._records[key]

    def uptime(self, rsa_id: bytes, now: float) -> float:
        """Seconds that the relay has been up without a break; 0 if it is not."""
        record = self._records.get(rsa_id)
        return now - record.up_since if record and record.up_since else 0.0

    def mean_time_between_failures(self, rsa_id: bytes, now: float) -> float:
        """The weighted mean length of the relay's runs in seconds, the present one included."""
        record = self._records.get(rsa_id)
        if record is None:
            return 0.0
        total, weights = record.weighted_runs, record.run_weights
        if record.up_since:
            total, weights = total + now - record.up_since, weights + 1.0
        return total / weights if weights >= _FORGET_BELOW else 0.0

    def fractional_uptime(self, rsa_id: bytes, now: float) -> float:
        """The weighted share of the time known that the relay was up, 0 to 1."""
        record = self._records.get(rsa_id)
        if record is None:
            return 0.0
        passed = max(now - record.changed, 0.0)
        up = record.weighted_uptime + (passed if record.up_since else 0.0)
        known = record.weighted_time + passed
        return up / known if known else float(bool(record.up_since))

    def time_known(self, rsa_id: bytes, now: float) -> float:
        """The weighted number of seconds for which the relay has been known."""
        record = self._records.get(rsa_id)
        return record.weighted_time + max(now - record.changed, 0.0) if record else 0.0

    def enough(self, now: float) -> bool:
        """Whether failures have been watched long enough to judge stability by them."""
        return now - self.started >= ENOUGH_STABILITY

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads."""
        records = {key.hex(): asdict(record) for key, record in self._records.items()}
        return {"started": self.started, "decayed_at": self._decayed_at, "relays": records}

    @classmethod
    def from_json(cls, value: Any, now: float) -> History:
        """Read what :meth:`to_json` gave; anything else starts a new history at ``now``."""
        try:
            history = cls(float(value["started"]))
            history._decayed_at = float(value["decayed_at"])
            for key, record in value["relays"].items():
                fields = {name: float(number) for name, number in record.items()}
                history._records[bytes.fromhex(key)] = _Record(**fields)
        except (KeyError, TypeError, ValueError, AttributeError):
            return cls(now)
        return history if history._decayed_at <= now else cls(now)
