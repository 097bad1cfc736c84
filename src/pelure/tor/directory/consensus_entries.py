"""The router entries of a consensus: which votes speak of one relay, what they agree on (dir-spec 3.8).

Ties are broken and medians picked as C tor does; see :mod:`pelure.tor.directory.consensus_compute`.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cmp_to_key
from typing import TypeVar

from pelure.tor.directory.bandwidth_weights import ClassTotals
from pelure.tor.directory.tokenizer import encode_base64, format_time
from pelure.tor.directory.tor_version import compare_versions
from pelure.tor.directory.vote import Vote, VoteEntry

METHOD_SUPPRESS_MD_PUBLISHED = 33
DEFAULT_MAX_UNMEASURED_BANDWIDTH = 20
SUPPRESSED_PUBLISHED = "2038-01-01 00:00:00"

T = TypeVar("T")

by_version = cmp_to_key(compare_versions)
"""Sort key for version strings."""


def low_median(values: Iterable[T], key: Callable[[T], int | float]) -> T:
    """The median; of an even number the lower of the middle two."""
    ordered = sorted(values, key=key)
    return ordered[(len(ordered) - 1) // 2]


def median(values: Iterable[int]) -> int:
    """:func:`low_median` of integers."""
    return low_median(values, lambda value: value)


def most_frequent(ordered: Sequence[T]) -> T:
    """The most frequent of ``ordered`` (equals stand together); of several the one that comes last."""
    best, best_count, count = ordered[0], 0, 0
    for index, value in enumerate(ordered):
        count = count + 1 if index and ordered[index - 1] == value else 1
        if count >= best_count:
            best, best_count = value, count
    return best


def collate(votes: Sequence[Vote], authorities: int) -> list[tuple[list[VoteEntry], int]]:
    """Which entries of different votes speak of the same relay (dir-spec 3.8.0.1), ordered by RSA identity.

    Gives each relay's entries and how many of them agree on its Ed25519 identity by majority.
    """
    by_rsa: dict[bytes, list[VoteEntry]] = {}
    by_both: dict[tuple[bytes, bytes], list[VoteEntry]] = {}
    for vote in votes:
        for entry in vote.entries:
            by_rsa.setdefault(entry.rsa_id, []).append(entry)
            if entry.ed_id is not None:
                by_both.setdefault((entry.rsa_id, entry.ed_id), []).append(entry)
    chosen: dict[bytes, tuple[list[VoteEntry], int]] = {}
    for (rsa_id, _), agreeing in by_both.items():
        if len(agreeing) > authorities // 2:
            silent = [entry for entry in by_rsa[rsa_id] if entry.ed_id is None]
            chosen[rsa_id] = ([*agreeing, *silent], len(agreeing))
    for rsa_id, entries in by_rsa.items():
        if rsa_id not in chosen and len(entries) > authorities // 2:
            chosen[rsa_id] = (entries, 0)
    return [chosen[rsa_id] for rsa_id in sorted(chosen)]


def _compare_entries(a: VoteEntry, b: VoteEntry) -> int:
    """C tor's order of entries of one relay; 0 if they describe the same descriptor the same way."""
    ascending = (a.descriptor_digest, -a.published), (b.descriptor_digest, -b.published)
    if ascending[0] != ascending[1]:
        return -1 if ascending[0] < ascending[1] else 1
    if a.nickname != b.nickname:
        return -1 if a.nickname > b.nickname else 1
    one = (ipaddress.ip_address(a.ip).packed, -a.orport, -a.dirport)
    other = (ipaddress.ip_address(b.ip).packed, -b.orport, -b.dirport)
    return (one > other) - (one < other)


def _winning_entries(entries: list[VoteEntry]) -> list[VoteEntry]:
    """Those for the most popular descriptor; ties go to the later published, then the smaller digest."""
    groups: list[list[VoteEntry]] = []
    for entry in sorted(entries, key=cmp_to_key(_compare_entries)):
        if groups and _compare_entries(groups[-1][0], entry) == 0:
            groups[-1].append(entry)
        else:
            groups.append([entry])
    return max(groups, key=lambda group: (len(group), group[0].published))


class RouterEntries:
    """The router entries of a consensus; adds each relay's bandwidth to ``totals`` on the way."""

    def __init__(
        self,
        votes: Sequence[Vote],
        flavour: str,
        method: int,
        authorities: int,
        flags: list[str],
        params: dict[str, int],
        totals: ClassTotals,
    ) -> None:
        self.votes = votes
        self.flavour = flavour
        self.method = method
        self.authorities = authorities
        self.flags = flags
        self.totals = totals
        self.flag_voters = Counter(flag for vote in votes for flag in vote.known_flags)
        self.bandwidth_cap = max(params.get("maxunmeasuredbw", DEFAULT_MAX_UNMEASURED_BANDWIDTH), 1)
        measuring = [any(entry.measured is not None for entry in vote.entries) for vote in votes]
        self.enough_measure = sum(measuring) > 2

    def lines(self) -> list[str]:
        """The lines of all entries, in the order of the relays' RSA identities."""
        found: list[str] = []
        for entries, ed_agreement in collate(self.votes, self.authorities):
            if len(entries) > self.authorities // 2:
                found += self._router(entries, ed_agreement)
        return found

    def _router(self, entries: list[VoteEntry], ed_agreement: int) -> list[str]:
        flags = self._flags(entries, ed_agreement)
        if not {"Running", "Valid"} <= set(flags):
            return []
        winners = _winning_entries(entries)
        winner = winners[0]
        flags = self._restrict_middle_only(flags)
        weight = self._bandwidth(entries, flags)
        microdesc = self._microdesc_digest(winners)
        if self.flavour == "microdesc" and microdesc is None:
            return []
        lines = [self._first_line(winner)]
        if (ipv6 := _ipv6(winners)) is not None:
            lines.append("a [{}]:{}".format(*ipv6))
        if self.flavour == "microdesc" and microdesc is not None:
            lines.append("m " + encode_base64(microdesc))
        lines.append(" ".join(["s", *flags]))
        if versions := sorted((entry.version for entry in entries if entry.version), key=by_version):
            lines.append("v " + most_frequent(versions))
        if protocols := sorted(entry.protocols for entry in entries if entry.protocols is not None):
            lines.append("pr " + most_frequent(protocols))
        if weight:
            lines.append(weight)
        summary = _exit_summary(entries, winner)
        if self.flavour == "ns" and summary is not None:
            lines.append("p " + summary)
        return lines

    def _flags(self, entries: list[VoteEntry], ed_agreement: int) -> list[str]:
        counts = Counter(flag for entry in entries for flag in entry.flags)
        chosen = []
        for flag in self.flags:
            if flag == "NoEdConsensus":
                if ed_agreement <= self.authorities // 2:
                    chosen.append(flag)
            elif counts[flag] > self.flag_voters[flag] // 2:
                chosen.append(flag)
        return chosen

    def _restrict_middle_only(self, flags: list[str]) -> list[str]:
        if "MiddleOnly" not in flags:
            return flags
        kept = [flag for flag in flags if flag not in ("Exit", "V2Dir", "Guard", "HSDir")]
        if "BadExit" in self.flags and "BadExit" not in kept:
            kept = sorted([*kept, "BadExit"])
        return kept

    def _bandwidth(self, entries: list[VoteEntry], flags: list[str]) -> str:
        """The ``w`` line, empty if no vote has a bandwidth; counts it for the bandwidth weights."""
        measured = [entry.measured for entry in entries if entry.measured is not None]
        claimed = [entry.bandwidth for entry in entries if entry.bandwidth is not None]
        if len(measured) > 2:
            bandwidth, suffix = median(measured), ""
        elif claimed:
            bandwidth, suffix = median(claimed), " Unmeasured=1"
            if self.enough_measure:
                bandwidth = min(bandwidth, self.bandwidth_cap)
        else:
            return ""
        is_exit = "Exit" in flags and "BadExit" not in flags
        self.totals.add(bandwidth, is_exit=is_exit, is_guard="Guard" in flags)
        return f"w Bandwidth={bandwidth}{suffix}"

    def _microdesc_digest(self, winners: list[VoteEntry]) -> bytes | None:
        digests = sorted(filter(None, (entry.microdesc_digest(self.method) for entry in winners)))
        return most_frequent(digests) if digests else None

    def _first_line(self, winner: VoteEntry) -> str:
        words = ["r", winner.nickname, encode_base64(winner.rsa_id)]
        published = format_time(winner.published)
        if self.flavour == "ns":
            words.append(encode_base64(winner.descriptor_digest))
        elif self.method >= METHOD_SUPPRESS_MD_PUBLISHED:
            published = SUPPRESSED_PUBLISHED
        return " ".join([*words, published, winner.ip, str(winner.orport), str(winner.dirport)])


def _ipv6(winners: list[VoteEntry]) -> tuple[str, int] | None:
    """The IPv6 address and port most of ``winners`` list; ties go to the larger address, the smaller port."""
    packed = sorted(
        (ipaddress.ip_address(entry.ipv6[0]).packed, -entry.ipv6[1]) for entry in winners if entry.ipv6
    )
    if not packed:
        return None
    address, port = most_frequent(packed)
    return str(ipaddress.ip_address(address)), -port


def _exit_summary(entries: list[VoteEntry], winner: VoteEntry) -> str | None:
    """The policy summary of the winning descriptor, or failing that of any."""
    matching = [
        entry.exit_summary
        for entry in entries
        if entry.exit_summary is not None and entry.descriptor_digest == winner.descriptor_digest
    ]
    summaries = matching or [entry.exit_summary for entry in entries if entry.exit_summary is not None]
    return most_frequent(sorted(summaries)) if summaries else None
