"""Exit policy summaries: the ``p``/``p6`` lines of microdescriptors and consensuses (dir-spec 3.8.2).

A summary is ``accept`` or ``reject`` and a list of ports; it speaks of "most" addresses, so a relay may
still refuse a stream that its summary allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pelure.errors import DirectoryError

MAX_PORT = 65535
MAX_SUMMARY_LENGTH = 1000


@dataclass(frozen=True, slots=True)
class PortPolicy:
    """``ranges`` of ports (low, high inclusive, ascending) that are accepted, or rejected, as ``accepts`` says."""

    accepts: bool
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> PortPolicy:
        """Read ``"accept 80,443,8000-8100"``. Raises ``DirectoryError``."""
        return _parse(text)

    def allows(self, port: int) -> bool:
        """True if a stream to ``port`` of some ordinary address would be accepted."""
        listed = any(low <= port <= high for low, high in self.ranges)
        return listed == self.accepts

    @property
    def allows_some(self) -> bool:
        """True if at least one port is accepted: the relay is an exit of some kind."""
        whole = self.ranges == ((1, MAX_PORT),)
        return not whole if not self.accepts else bool(self.ranges)

    def __str__(self) -> str:
        ports = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in self.ranges)
        return f"{'accept' if self.accepts else 'reject'} {ports}"


REJECT_ALL = PortPolicy(False, ((1, MAX_PORT),))


def parse_port_range(text: str) -> tuple[int, int]:
    """Read ``"80"`` or ``"80-90"``; ports are 1 to 65535. Raises ``DirectoryError``."""
    low_text, dash, high_text = text.partition("-")
    high_text = high_text if dash else low_text
    for number in (low_text, high_text):
        if not (number.isascii() and number.isdigit() and len(number) <= 5):
            raise DirectoryError(f"malformed port range {text[:20]!r}")
    low, high = int(low_text), int(high_text)
    if not 1 <= low <= high <= MAX_PORT:
        raise DirectoryError(f"port range {text!r} is out of order or bounds")
    return low, high


@lru_cache(maxsize=1024)
def _parse(text: str) -> PortPolicy:
    verb, _, ports = text.strip().partition(" ")
    if verb not in ("accept", "reject") or not ports or len(text) > MAX_SUMMARY_LENGTH:
        raise DirectoryError(f"malformed exit policy summary {text[:40]!r}")
    ranges = tuple(parse_port_range(piece) for piece in ports.strip().split(","))
    return PortPolicy(verb == "accept", ranges)
