"""When and how much the directory client fetches (dir-spec 5.1, 5.2, 5.5)."""

from __future__ import annotations

from collections.abc import Sequence

from pelure.tor.crypto.keys import Rng
from pelure.tor.directory.consensus import Consensus
from pelure.tor.path.weights import random_fraction

MIN_SECONDS_BEFORE_CACHING = 120.0
BATCH_DIGESTS = 92
"""Microdescriptors asked for at once: that many digests keep the request within one line's limits."""
MIN_BATCHES = 3
MIN_BATCH_DIGESTS = 16


def next_refresh(consensus: Consensus, *, testing: bool, rng: Rng) -> float:
    """When to fetch the next consensus (epoch seconds), at random so that clients don't come all at once.

    A client waits until the caches must have the next one; on a testing network it comes as soon as they may.
    """
    interval = consensus.fresh_until - consensus.valid_after
    if testing:
        start = consensus.fresh_until + min(MIN_SECONDS_BEFORE_CACHING, interval / 16)
        window = interval / 4
    else:
        start = consensus.fresh_until + interval * 3 / 4
        window = (consensus.valid_until - start) * 7 / 8
    window = max(window, 1.0)
    if start + window > consensus.valid_until:
        start = consensus.valid_until - window - 1.0
    return start + window * random_fraction(rng)


def retry_pause(failures: int, *, testing: bool, rng: Rng) -> float:
    """Seconds to wait after ``failures`` attempts in a row: longer each time, with jitter, within bounds."""
    longest = 3.0 if testing else 600.0
    return min(0.5 * 2.0 ** min(failures, 12), longest) * (0.75 + 0.5 * random_fraction(rng))


def microdescriptor_batches(missing: Sequence[bytes]) -> list[list[bytes]]:
    """Cut ``missing`` digests into requests: spread over a few directories, none too small or too large."""
    ordered = sorted(missing)
    size = -(-len(ordered) // MIN_BATCHES)
    size = min(max(size, MIN_BATCH_DIGESTS), BATCH_DIGESTS)
    return [ordered[index : index + size] for index in range(0, len(ordered), size)]
