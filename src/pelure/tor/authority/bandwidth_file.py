"""Bandwidth files: the measurements an authority votes (bandwidth-file-spec; ``V3BandwidthsFile``)."""

from __future__ import annotations

from dataclasses import dataclass, field

from pelure.errors import DirectoryError
from pelure.tor.directory.tokenizer import parse_hex, parse_int

MAX_AGE = 3 * 86400
MAX_LENGTH = 64 << 20
_UINT32_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class BandwidthFile:
    """``timestamp``: when it was measured (epoch); ``bandwidths``: kilobytes a second by RSA identity."""

    timestamp: int
    bandwidths: dict[bytes, int] = field(repr=False)

    def fresh(self, now: float) -> bool:
        """Whether the measurements are recent enough to vote."""
        return now - self.timestamp <= MAX_AGE


def parse_bandwidth_file(data: bytes) -> BandwidthFile:
    """Parse a bandwidth file; relay lines that are malformed or say ``vote=0`` are skipped, as C tor does.

    Raises ``DirectoryError`` if it is too large or does not start with a timestamp.
    """
    if len(data) > MAX_LENGTH:
        raise DirectoryError("the bandwidth file is too large")
    lines = data.decode("utf-8", "replace").splitlines()
    timestamp = parse_int(lines[0].strip() if lines else "", 0, 1 << 40)
    bandwidths: dict[bytes, int] = {}
    for line in lines[1:]:
        words = dict(word.partition("=")[::2] for word in line.split())
        if "node_id" not in words or "bw" not in words or words.get("vote") == "0":
            continue
        try:
            identity = parse_hex(words["node_id"].removeprefix("$"), 20)
            bandwidths[identity] = parse_int(words["bw"], 1, _UINT32_MAX)
        except DirectoryError:
            continue
    return BandwidthFile(timestamp, bandwidths)
