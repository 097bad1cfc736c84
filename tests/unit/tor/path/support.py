"""Networks of made-up relays for the path tests: only what path selection looks at is filled in."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import replace

from pelure.tor.directory.consensus import Consensus, RouterStatus, parse_consensus
from pelure.tor.directory.exit_policy import PortPolicy
from pelure.tor.directory.microdescriptor import Microdescriptor
from pelure.tor.directory.netdir import NetDir
from pelure.tor.directory.network import parse_network
from unit.tor.directory.support import FakeNetwork

ALL_FLAGS = frozenset({"Exit", "Fast", "Guard", "HSDir", "Running", "Stable", "V2Dir", "Valid"})
NOW = 1_800_000_000.0
_TORRC = "DirAuthority a orport=1 v3ident=" + "A" * 40 + " 10.0.0.1:1 " + "B" * 40
_EMPTY: Consensus = parse_consensus(FakeNetwork(relays=0).consensus())


def rng(seed: int = 1) -> Callable[[int], bytes]:
    """A reproducible source of random bytes."""
    return random.Random(seed).randbytes


def status(index: int, flags: Iterable[str] = ALL_FLAGS, bandwidth: int = 100) -> RouterStatus:
    """Relay ``index``; each has a /16 of its own."""
    return RouterStatus(
        nickname=f"relay{index}",
        rsa_id=hashlib.sha1(b"%d" % index).digest(),
        descriptor_digest=b"",
        published="",
        ip=f"10.{index % 250}.{index // 250}.1",
        orport=9001,
        dirport=0,
        flags=frozenset(flags),
        bandwidth=bandwidth,
        md_digest=hashlib.sha256(b"%d" % index).digest(),
    )


def netdir(
    routers: list[RouterStatus],
    *,
    testing: bool = False,
    params: dict[str, int] | None = None,
    weights: dict[str, int] | None = None,
    policies: dict[int, str] | None = None,
    families: dict[str, set[str]] | None = None,
) -> NetDir:
    """A directory of ``routers``; ``policies`` by index, ``families`` by nickname."""
    policies, families = policies or {}, families or {}
    microdescriptors = {}
    for index, router in enumerate(routers):
        digest = router.md_digest
        microdescriptors[digest] = Microdescriptor(
            digest=digest,
            ntor_key=digest,
            ed_id=hashlib.sha256(digest).digest(),
            family=frozenset(families.get(router.nickname, ())),
            family_ids=frozenset(),
            exit_policy=PortPolicy.parse(policies.get(index, "accept 1-65535")),
            exit_policy6=PortPolicy.parse("reject 1-65535"),
        )
    consensus = replace(
        _EMPTY,
        valid_after=NOW - 3600,
        fresh_until=NOW,
        valid_until=NOW + 7200,
        routers=sorted(routers, key=lambda one: one.rsa_id),
        params=params or {},
        bandwidth_weights=weights or {},
    )
    head = "TestingTorNetwork 1\n" if testing else ""
    return NetDir(consensus, microdescriptors, parse_network(head + _TORRC))


def network_of(count: int, **options: object) -> NetDir:
    """``count`` relays that can be anything."""
    return netdir([status(index) for index in range(count)], **options)  # type: ignore[arg-type]
