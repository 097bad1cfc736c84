"""Computing a consensus from votes (dir-spec section 3.8), methods 32 to 35, as C tor 0.4.9 does.

Every authority must arrive at the same bytes, so each tie is broken and each median picked as C tor does.
The result is the unsigned document; :mod:`pelure.tor.directory.detached` signs and completes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pelure.errors import DirectoryError
from pelure.tor.directory.bandwidth_weights import ClassTotals, compute_weights
from pelure.tor.directory.consensus import INT32_MAX, INT32_MIN, SharedRandomValue
from pelure.tor.directory.consensus_entries import (
    RouterEntries,
    by_version,
    low_median,
    median,
    most_frequent,
)
from pelure.tor.directory.protocols import MAX_VERSION, Protocols
from pelure.tor.directory.tokenizer import format_time
from pelure.tor.directory.vote import Vote
from pelure.tor.directory.vote_encode import format_shared_random

MIN_METHOD, MAX_METHOD = 32, 35
SUPPORTED_METHODS = tuple(range(MIN_METHOD, MAX_METHOD + 1))
METHOD_PACKAGES = 34
MIN_VOTES_FOR_PARAM = 3
DEFAULT_WEIGHT_SCALE = 10000


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
    routers = RouterEntries(ordered, flavour, method, options.authorities, flags, params, totals)
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


def compute_params(votes: Sequence[Vote], authorities: int) -> dict[str, int]:
    """The parameters that enough votes set, with their medians, in the order of the ``params`` line."""
    values: dict[str, list[int]] = {}
    for vote in votes:
        for key, value in vote.params.items():
            values.setdefault(key, []).append(value)
    return {
        key: median(values[key])
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

    delays = (median(vote.voting_delay[index] for vote in votes) for index in (0, 1))
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


def _versions(lists: list[str | None]) -> str:
    """The versions that more than half of those authorities list that list any."""
    voted = [text for text in lists if text is not None]
    counts = Counter(
        version for text in voted for version in {word.strip() for word in text.split(",")} if version
    )
    chosen = [version for version, count in counts.items() if count > len(voted) // 2]
    return ",".join(sorted(sorted(chosen), key=by_version))


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
