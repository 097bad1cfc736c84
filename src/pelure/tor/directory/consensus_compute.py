"""Computing a consensus from votes (dir-spec section 3.8), methods 32 to 35, as C tor 0.4.9 does.

Every authority must arrive at the same bytes, so each tie is broken and each median picked as C tor does.
The result is the unsigned document; :mod:`pelure.tor.directory.detached` signs and completes it.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from typing import TypeVar

from pelure.errors import DirectoryError
from pelure.tor.directory.bandwidth_weights import ClassTotals, compute_weights
from pelure.tor.directory.consensus import INT32_MAX, INT32_MIN, SharedRandomValue
from pelure.tor.directory.protocols import MAX_VERSION, Protocols
from pelure.tor.directory.tokenizer import encode_base64, format_time
from pelure.tor.directory.tor_version import compare_versions
from pelure.tor.directory.vote import Vote, VoteEntry
from pelure.tor.directory.vote_encode import format_shared_random

MIN_METHOD, MAX_METHOD = 32, 35
SUPPORTED_METHODS = tuple(range(MIN_METHOD, MAX_METHOD + 1))
METHOD_SUPPRESS_MD_PUBLISHED = 33
METHOD_PACKAGES = 34
MIN_VOTES_FOR_PARAM = 3
DEFAULT_MAX_UNMEASURED_BANDWIDTH = 20
DEFAULT_WEIGHT_SCALE = 10000
SUPPRESSED_PUBLISHED = "2038-01-01 00:00:00"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ComputeOptions:
    """``authorities``: how many exist; ``srv_is_fresh``: the shared random value was computed this round."""

    authorities: int
    srv_is_fresh: bool = False


def compute_consensus(votes: Sequence[Vote], flavour: str, options: ComputeOptions) -> bytes:
    """The unsigned consensus of ``flavour`` (``ns``, ``microdesc``): all up to the first signature.

    Raises ``DirectoryError`` without votes, or with more votes than there are authorities.
    """
    if not 0 < len(votes) <= options.authorities:
        raise DirectoryError("a consensus needs at least one vote and no more than there are authorities")
    method = choose_method(votes)
    ordered = sorted(votes, key=lambda vote: vote.identity)
    flags = sorted({"NoEdConsensus"}.union(*(vote.known_flags for vote in ordered)))
    params = compute_params(ordered, options.authorities)
    totals = ClassTotals()
    routers = _Routers(ordered, flavour, method, options.authorities, flags, params, totals)
    lines = [
        *_preamble(ordered, flavour, method, flags, options.authorities),
        *([f"params {_format_pairs(params)}"] if params else []),
        *_shared_random_lines(ordered, options, params),
        *_source_lines(ordered),
        *routers.lines(),
        "directory-footer",
    ]
    weights = compute_weights(totals, max(params.get("bwweightscale", DEFAULT_WEIGHT_SCALE), 1))
    if weights is not None:
        lines.append("bandwidth-weights " + " ".join(f"{key}={value}" for key, value in weights.items()))
    return "".join(f"{line}\n" for line in lines).encode("latin-1")


def choose_method(votes: Sequence[Vote]) -> int:
    """The highest consensus method that more than two thirds of ``votes`` support (dir-spec 3.8.1).

    Where that is none known here, the highest known one: C tor's way out, lest no consensus be made at all.
    """
    support = Counter(method for vote in votes for method in set(vote.methods))
    best = max((method for method, count in support.items() if count > len(votes) * 2 // 3), default=1)
    return best if best in SUPPORTED_METHODS else MAX_METHOD


def low_median(values: Iterable[T], key: Callable[[T], int | float]) -> T:
    """The median; of an even number the lower of the middle two."""
    ordered = sorted(values, key=key)
    return ordered[(len(ordered) - 1) // 2]


def _median(values: Iterable[int]) -> int:
    return low_median(values, lambda value: value)


def most_frequent(ordered: Sequence[T]) -> T:
    """The most frequent of ``ordered`` (equals stand together); of several the one that comes last."""
    best, best_count, count = ordered[0], 0, 0
    for index, value in enumerate(ordered):
        count = count + 1 if index and ordered[index - 1] == value else 1
        if count >= best_count:
            best, best_count = value, count
    return best


def compute_params(votes: Sequence[Vote], authorities: int) -> dict[str, int]:
    """The parameters that enough votes set, with their medians, in the order of the ``params`` line."""
    values: dict[str, list[int]] = {}
    for vote in votes:
        for key, value in vote.params.items():
            values.setdefault(key, []).append(value)
    return {
        key: _median(values[key])
        for key in sorted(values, key=lambda key: f"{key}=")
        if len(values[key]) > authorities // 2 or len(values[key]) >= MIN_VOTES_FOR_PARAM
    }


def _format_pairs(pairs: dict[str, int]) -> str:
    return " ".join(f"{key}={value}" for key, value in pairs.items())


def _preamble(
    votes: Sequence[Vote], flavour: str, method: int, flags: list[str], authorities: int
) -> list[str]:
    def median_time(attribute: str) -> str:
        return format_time(low_median([getattr(vote, attribute) for vote in votes], lambda value: value))

    delays = (_median(vote.voting_delay[index] for vote in votes) for index in (0, 1))
    return [
        "network-status-version 3" + ("" if flavour == "ns" else f" {flavour}"),
        "vote-status consensus",
        f"consensus-method {method}",
        "valid-after " + median_time("valid_after"),
        "fresh-until " + median_time("fresh_until"),
        "valid-until " + median_time("valid_until"),
        "voting-delay {} {}".format(*delays),
        "client-versions " + _versions([vote.client_versions for vote in votes]),
        "server-versions " + _versions([vote.server_versions for vote in votes]),
        *(_packages(votes) if method >= METHOD_PACKAGES else []),
        "known-flags " + " ".join(flags),
        *_protocol_lines(votes, authorities),
    ]


_by_version = cmp_to_key(compare_versions)


def _versions(lists: list[str | None]) -> str:
    """The versions that more than half of those authorities list that list any."""
    voted = [text for text in lists if text is not None]
    counts = Counter(
        version for text in voted for version in {word.strip() for word in text.split(",")} if version
    )
    chosen = [version for version, count in counts.items() if count > len(voted) // 2]
    return ",".join(sorted(sorted(chosen), key=_by_version))


def _packages(votes: Sequence[Vote]) -> list[str]:
    """``package`` lines on which a majority of at least three voters for the package agree."""
    by_key: dict[str, dict[int, str]] = {}
    for index, vote in enumerate(votes):
        for line in vote.packages:
            words = line.split(" ")
            if len(words) >= 4 and all(words[:3]) and all(word.count("=") == 1 for word in words[3:]):
                by_key.setdefault(" ".join(words[:2]), {})[index] = line
    chosen = []
    for entries in by_key.values():
        best = most_frequent(sorted(entries.values()))
        count = list(entries.values()).count(best)
        if len(entries) >= 3 and count > len(entries) // 2:
            chosen.append(f"package {best}")
    return sorted(chosen)


def _protocol_lines(votes: Sequence[Vote], authorities: int) -> list[str]:
    half, two_thirds = -(-authorities // 2), -(-authorities * 2 // 3)
    wanted = (
        ("recommended-client-protocols", half),
        ("recommended-relay-protocols", half),
        ("required-client-protocols", two_thirds),
        ("required-relay-protocols", two_thirds),
    )
    return [f"{key} {_vote_on_protocols(votes, key, threshold)}" for key, threshold in wanted]


def _vote_on_protocols(votes: Sequence[Vote], key: str, threshold: int) -> str:
    counts = Counter(
        pair
        for vote in votes
        if key in vote.protocol_lists
        for pair in Protocols.parse(vote.protocol_lists[key]).versions()
    )
    masks: dict[str, int] = {}
    for (name, version), count in counts.items():
        if count >= threshold and version <= MAX_VERSION:
            masks[name] = masks.get(name, 0) | 1 << version
    return Protocols(masks).text


def _shared_random_lines(votes: Sequence[Vote], options: ComputeOptions, params: dict[str, int]) -> list[str]:
    """The values that enough participating voters agree on (srv-spec 4.1.3)."""
    needed = options.authorities // 2 + 1
    if options.srv_is_fresh:
        agreements = params.get("AuthDirNumSRVAgreements", options.authorities * 2 // 3)
        needed = max(needed, min(max(agreements, INT32_MIN), INT32_MAX))
    participants = [vote for vote in votes if vote.shared_rand_participates]
    choices = (
        ("shared-rand-previous-value", [vote.shared_rand_previous for vote in participants]),
        ("shared-rand-current-value", [vote.shared_rand_current for vote in participants]),
    )
    lines = []
    for keyword, voted in choices:
        values: list[SharedRandomValue] = sorted(filter(None, voted), key=lambda value: value.value)
        if values:
            best = most_frequent([value.value for value in values])
            agreeing = [value for value in values if value.value == best]
            if len(agreeing) >= needed:
                lines.append(f"{keyword} {format_shared_random(agreeing[-1])}")
    return lines


def _source_lines(votes: Sequence[Vote]) -> list[str]:
    entries: list[tuple[bytes, list[str]]] = []
    for vote in votes:
        source = vote.source
        place = f"{source.hostname} {source.ip} {source.dirport} {source.orport}"
        entries.append(
            (
                source.identity,
                [
                    f"dir-source {source.nickname} {source.identity.hex().upper()} {place}",
                    f"contact {source.contact}",
                    f"vote-digest {vote.digest.hex().upper()}",
                ],
            )
        )
        if vote.legacy_identity is not None:
            legacy = vote.legacy_identity.hex().upper()
            entries.append((vote.legacy_identity, [f"dir-source {source.nickname}-legacy {legacy} {place}"]))
    return [line for _, lines in sorted(entries, key=lambda entry: entry[0]) for line in lines]


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


class _Routers:
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
        if versions := sorted((entry.version for entry in entries if entry.version), key=_by_version):
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
            bandwidth, suffix = _median(measured), ""
        elif claimed:
            bandwidth, suffix = _median(claimed), " Unmeasured=1"
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
