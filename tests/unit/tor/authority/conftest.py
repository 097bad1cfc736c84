"""Relays with real keys whose descriptors the authority's tests upload."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pelure.tor.authority.keys import AuthorityKeys
from pelure.tor.crypto.rsa import RsaKeyPair
from pelure.tor.directory.protocols import Protocols
from pelure.tor.directory.router_descriptor_build import (
    DescriptorFacts,
    DescriptorKeys,
    build_extra_info,
    build_router_descriptor,
)
from pelure.tor.relay.keys import RelayKeys

# Keys made in the tests are valid from now on; a multiple of ten starts a voting interval.
NOW = float(int(time.time()) // 10 * 10)
PROTOCOLS = Protocols.parse(
    "Cons=2 Desc=2 DirCache=2 HSDir=2 HSIntro=4-5 HSRend=2 Link=4-5 Microdesc=2 Relay=2-4"
)


@dataclass(frozen=True)
class MadeRelay:
    """A relay's keys; :meth:`documents` are what it uploads."""

    keys: DescriptorKeys
    number: int

    @property
    def rsa_id(self) -> bytes:
        return self.keys.identity.public.identity

    def documents(self, published: float = NOW, *, extra: bool = False, **changes: Any) -> bytes:
        """A descriptor published at ``published``, with an extra-info document if ``extra``."""
        facts = DescriptorFacts(
            nickname=f"relay{self.number}",
            ip=f"1.2.3.{self.number}",
            orport=9001,
            platform="Tor 0.4.9.11 on Linux",
            protocols=PROTOCOLS,
            published=published,
            bandwidth=(1 << 30, 1 << 30, self.number * 1_000_000),
            uptime=3600,
            exit_policy=["accept *:80", "accept *:443", "reject *:*"],
        )
        extra_info = build_extra_info(facts.nickname, published, self.keys) if extra else None
        descriptor = build_router_descriptor(replace(facts, **changes), self.keys, extra_info)
        return descriptor + (extra_info or b"")


@pytest.fixture(scope="session")
def relays(tmp_path_factory: pytest.TempPathFactory) -> Sequence[MadeRelay]:
    """Four relays with bandwidths of 1 to 4 MB/s, as of :data:`NOW`."""
    folder = tmp_path_factory.mktemp("relays")
    return [
        MadeRelay(RelayKeys.load(folder / str(number), os.urandom, NOW).descriptor_keys, number)
        for number in range(1, 5)
    ]


@pytest.fixture(scope="session")
def stolen(relays: Sequence[MadeRelay]) -> MadeRelay:
    """The first relay's Ed25519 identity with an RSA identity of its own."""
    return MadeRelay(replace(relays[0].keys, identity=RsaKeyPair.generate(1024)), 9)


@pytest.fixture(scope="session")
def authority_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Data folders of three authorities whose keys are valid at :data:`NOW` and today."""
    folders = [tmp_path_factory.mktemp(f"authority{n}") for n in range(3)]
    for folder in folders:
        AuthorityKeys.create(folder, "127.0.0.1:7000", NOW, identity_bits=2048)
    return folders


@pytest.fixture(scope="session")
def authority_keys(authority_folders: list[Path]) -> list[AuthorityKeys]:
    """The keys of three authorities."""
    return [AuthorityKeys.load(folder, NOW) for folder in authority_folders]
