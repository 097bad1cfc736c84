"""The vote of one authority (dir-spec section 3.4.1), from what it knows of each relay. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from pelure.tor.authority.descriptors import MAX_AGE, Descriptors
from pelure.tor.authority.flags import (
    BAD_EXIT,
    KNOWN_FLAGS,
    MIDDLE_ONLY,
    Candidate,
    FlagOptions,
    assign_flags,
    compute_thresholds,
    find_sybils,
)
from pelure.tor.authority.history import History
from pelure.tor.authority.relay_list import RelayList
from pelure.tor.authority.schedule import VotingTimes
from pelure.tor.authority.shared_random import SharedRandomState
from pelure.tor.directory.consensus import DirSource
from pelure.tor.directory.consensus_compute import SUPPORTED_METHODS
from pelure.tor.directory.exit_policy import ExitPolicy
from pelure.tor.directory.key_certificate import KeyCertificate
from pelure.tor.directory.microdescriptor import microdescriptors_by_method
from pelure.tor.directory.router_descriptor import RouterDescriptor
from pelure.tor.directory.tokenizer import encode_base64
from pelure.tor.directory.vote import Vote, VoteEntry

MAX_BELIEVABLE_BANDWIDTH = 10_000_000
TESTING_MIN_BANDWIDTH = 20_000
"""Relays of a young network have observed nothing yet; a weight of zero would keep them unused."""
PROTOCOL_LISTS = {
    "recommended-client-protocols": "Cons=2 Desc=2 DirCache=2 FlowCtrl=1-2 HSDir=2 HSIntro=4 HSRend=2 "
    "Link=4-5 Microdesc=2 Relay=2-4",
    "recommended-relay-protocols": "Cons=2 Desc=2 DirCache=2 FlowCtrl=1-2 HSDir=2 HSIntro=4-5 HSRend=2 "
    "Link=4-5 LinkAuth=3 Microdesc=2 Relay=2-4",
    "required-client-protocols": "Cons=2 Desc=2 FlowCtrl=1 Link=4 Microdesc=2 Relay=2",
    "required-relay-protocols": "Cons=2 Desc=2 DirCache=2 FlowCtrl=1-2 HSDir=2 HSIntro=4-5 HSRend=2 "
    "Link=4-5 LinkAuth=3 Microdesc=2 Relay=2-4",
}
_WEB_PORTS = (80, 443)


@dataclass(slots=True)
class VoteBuilder:
    """What a vote is made from. ``running``: whether a relay answers (True where nobody tests);
    ``ipv6_works``: whether it does at its IPv6 address; ``marks``: the operator's; ``authorities``: RSA
    identities of the authorities' relays; ``measured``: kilobytes a second; ``params``: consensus parameters
    to vote for; ``consensus_params``: those of the newest consensus."""

    source: DirSource
    certificate: KeyCertificate
    times: VotingTimes
    flags: FlagOptions
    descriptors: Descriptors
    history: History
    running: Callable[[bytes], bool]
    ipv6_works: Callable[[bytes], bool] = field(default=lambda _: False)
    marks: RelayList = field(default_factory=RelayList)
    authorities: frozenset[bytes] = frozenset()
    params: Mapping[str, int] = field(default_factory=dict)
    consensus_params: Mapping[str, int] = field(default_factory=dict)
    measured: Mapping[bytes, int] = field(default_factory=dict)
    microdescriptors: dict[bytes, bytes] = field(default_factory=dict)
    """Every microdescriptor of the last vote, by its SHA-256: they must be served with the consensus."""

    def build(self, valid_after: int, shared_random: SharedRandomState, now: float) -> Vote:
        """The vote for the round of ``valid_after``, unsigned."""
        times = self.times
        routers = self._routers(now)
        candidates = [self._candidate(router, now) for router in routers]
        sybils = find_sybils(candidates, self.flags.max_servers_per_address)
        enough = self.history.enough(now)
        thresholds = compute_thresholds(candidates, sybils, self.flags, enough, self.consensus_params)
        self.microdescriptors = {}
        entries = [
            self._entry(router, one, assign_flags(one, thresholds, sybils, self.flags))
            for router, one in zip(routers, candidates, strict=True)
        ]
        return Vote(
            methods=SUPPORTED_METHODS,
            published=int(now),
            valid_after=valid_after,
            fresh_until=valid_after + times.interval,
            valid_until=valid_after + times.interval * times.intervals_valid,
            voting_delay=(times.vote_delay, times.dist_delay),
            known_flags=self._known_flags(),
            source=self.source,
            certificate=self.certificate,
            entries=entries,
            params=dict(self.params),
            protocol_lists=PROTOCOL_LISTS,
            flag_thresholds=thresholds.line,
            shared_rand_participates=True,
            commits=shared_random.vote_commits(),
            shared_rand_previous=shared_random.previous,
            shared_rand_current=shared_random.current,
        )

    def _known_flags(self) -> tuple[str, ...]:
        marks = self.marks
        extra = [BAD_EXIT] if marks.bad_exits or marks.middle_only else []
        extra += [MIDDLE_ONLY] if marks.middle_only else []
        return tuple(sorted([*KNOWN_FLAGS, *extra]))

    def _routers(self, now: float) -> list[RouterDescriptor]:
        """Relays to vote on, by identity; of two with one Ed25519 identity only the newer."""
        known = list(self.descriptors.routers.values())  # at once: new ones come while a vote is being made
        recent = [router for router in known if router.published >= now - MAX_AGE]
        unique: dict[bytes, RouterDescriptor] = {}
        for router in sorted(recent, key=lambda one: (one.published, one.digest)):
            unique[router.ed_id] = router
        return sorted(unique.values(), key=lambda one: one.rsa_id)

    def _candidate(self, router: RouterDescriptor, now: float) -> Candidate:
        rsa_id, history = router.rsa_id, self.history
        age = now - router.published
        candidate = Candidate(
            rsa_id=rsa_id,
            addresses=(router.ip, *(router.ipv6 or ())[:1]),
            age=age,
            uptime=router.uptime,
            bandwidth=self.measured.get(rsa_id, router.advertised_bandwidth // 1000),
            measured=rsa_id in self.measured,
            running=self.running(rsa_id) and not router.hibernating,
            authority=rsa_id in self.authorities,
            hibernating=router.hibernating,
            exits=is_general_exit(router.exit_policy),
            dir_cache=router.tunnelled_dir_server,
            wants_hsdir=router.hidden_service_dir,
            bad_exit=self.marks.is_bad_exit(router),
            middle_only=self.marks.is_middle_only(router),
            mtbf=history.mean_time_between_failures(rsa_id, now),
            fractional_uptime=history.fractional_uptime(rsa_id, now),
            time_known=history.time_known(rsa_id, now),
        )
        old_enough = now - history.started > self.flags.min_uptime_hsdir * 1.1
        candidate.observed_uptime = history.uptime(rsa_id, now) if old_enough else candidate.real_uptime
        return candidate

    def _entry(self, router: RouterDescriptor, one: Candidate, flags: frozenset[str]) -> VoteEntry:
        lines = []
        for methods, text in microdescriptors_by_method(router, SUPPORTED_METHODS):
            digest = hashlib.sha256(text).digest()
            self.microdescriptors[digest] = text
            lines.append(f"{','.join(map(str, methods))} sha256={encode_base64(digest)}")
        return VoteEntry(
            nickname=router.nickname,
            rsa_id=router.rsa_id,
            descriptor_digest=router.digest,
            published=router.published,
            ip=router.ip,
            orport=router.orport,
            dirport=router.dirport,
            flags=flags,
            ipv6=router.ipv6 if self.ipv6_works(router.rsa_id) else None,
            version=version_of_platform(router.platform),
            protocols=router.protocols.text,
            bandwidth=self._bandwidth(router) // 1000,
            # What is measured of an authority is not for carrying traffic (dir-spec 3.4.2).
            measured=None if one.authority else self.measured.get(router.rsa_id),
            exit_summary=str(router.exit_policy.summary()),
            ed_id=router.ed_id,
            stats=f"wfu={one.fractional_uptime:.6f} tk={int(one.time_known)} mtbf={int(one.mtbf)}",
            microdescs=lines,
        )

    def _bandwidth(self, router: RouterDescriptor) -> int:
        lowest = TESTING_MIN_BANDWIDTH if self.flags.testing else 0
        return max(min(router.advertised_bandwidth, MAX_BELIEVABLE_BANDWIDTH), lowest)


def version_of_platform(platform: str) -> str | None:
    """``Tor 0.4.9.11`` of ``Tor 0.4.9.11 on Linux``; None if the platform is not Tor's."""
    words = platform.split(" ")
    if words[0] != "Tor" or len(words) < 3:
        return None
    count = 3 if words[2].startswith("(r") else 2
    return " ".join(words[:count])


def is_general_exit(policy: ExitPolicy) -> bool:
    """Whether ``policy`` lets streams to the web ports into at least one whole /8 (dir-spec 3.4.2 "Exit")."""
    return all(_opens_a_slash_8(policy, port) for port in _WEB_PORTS)


def _opens_a_slash_8(policy: ExitPolicy, port: int) -> bool:
    rejected: set[int] = set()
    for rule in policy.rules:
        if not rule.low <= port <= rule.high:
            continue
        for network in rule.networks:
            if network.version != 4:
                continue
            first = int(network.network_address) >> 24
            if not rule.accepts:
                # Any rejected part makes a /8 less than whole; the private ones are no loss.
                rejected.update(range(first, first + (1 << (8 - min(network.prefixlen, 8)))))
            elif network.prefixlen <= 8 and _any_left(
                range(first, first + (1 << (8 - network.prefixlen))), rejected
            ):
                return True
    return False


def _any_left(blocks: Iterable[int], rejected: set[int]) -> bool:
    return any(block not in rejected and block not in (0, 10, 127) for block in blocks)
