"""What the directory tests share: published documents, a generator of whole networks, damage for fuzzing."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from unittest.mock import patch

from hypothesis import strategies as st

from pelure.errors import DirectoryError
from pelure.tor.cell.certs import CertType, Ed25519Cert
from pelure.tor.crypto.keys import Ed25519KeyPair, x25519_generate
from pelure.tor.crypto.rsa import RsaKeyPair, RsaPublicKey
from pelure.tor.directory.consensus import DirSource
from pelure.tor.directory.consensus_compute import SUPPORTED_METHODS, ComputeOptions, compute_consensus
from pelure.tor.directory.detached import PendingConsensus
from pelure.tor.directory.key_certificate import KeyCertificate, build_key_certificate, parse_key_certificate
from pelure.tor.directory.microdescriptor import microdescriptors_by_method
from pelure.tor.directory.network import Network, parse_network
from pelure.tor.directory.protocols import Protocols
from pelure.tor.directory.router_descriptor import RouterDescriptor, parse_router_descriptor
from pelure.tor.directory.router_descriptor_build import (
    DescriptorFacts,
    DescriptorKeys,
    build_router_descriptor,
)
from pelure.tor.directory.tokenizer import encode_base64
from pelure.tor.directory.vote import Vote, VoteEntry, parse_vote
from pelure.tor.directory.vote_encode import encode_vote

VECTORS = Path(__file__).parents[3] / "vectors" / "directory"
PROTOCOLS = "Cons=1-2 Desc=1-4 DirCache=2 FlowCtrl=1-2 HSDir=2 HSIntro=4-5 HSRend=1-2 Link=3-5 Relay=2-4"
FLAGS = ("Authority", "Exit", "Fast", "Guard", "HSDir", "Running", "Stable", "V2Dir", "Valid")
NOW = 1_800_000_000.0


def vector(name: str) -> bytes:
    """The published document ``name``."""
    return (VECTORS / name).read_bytes()


def vector_votes() -> list[bytes]:
    """The four published votes."""
    head = b"network-status-version "
    return [head + piece for piece in vector("v3-status-votes").split(head)[1:]]


def seeded(seed: int) -> Callable[[int], bytes]:
    """A reproducible source of random bytes."""
    return random.Random(seed).randbytes


@cache
def authority_keys(index: int) -> tuple[RsaKeyPair, RsaKeyPair]:
    """Identity and signing key of a test authority; made once a test run, since RSA is slow."""
    del index
    return RsaKeyPair.generate(1024), RsaKeyPair.generate(1024)


@cache
def relay_identity(index: int) -> RsaKeyPair:
    """The RSA identity of a test relay."""
    del index
    return RsaKeyPair.generate(1024)


def descriptor_keys(index: int, *, tap: bool = True, expires: float = NOW + 86400 * 30) -> DescriptorKeys:
    """All keys of test relay ``index``."""
    rng = seeded(1000 + index)
    identity, signing = Ed25519KeyPair.generate(rng), Ed25519KeyPair.generate(rng)
    cert = Ed25519Cert.create(CertType.IDENTITY_V_SIGNING, signing.public, identity, expires)
    secret, public = x25519_generate(rng)
    tap_key = relay_identity(500 + index) if tap else None
    return DescriptorKeys(relay_identity(index), identity.public, signing, cert, public, secret, tap_key)


def facts(index: int, now: float = NOW, **changes: object) -> DescriptorFacts:
    """What test relay ``index`` says of itself."""
    values: dict[str, object] = {
        "nickname": f"relay{index}",
        "ip": f"10.{index}.0.1",
        "orport": 9001 + index,
        "platform": "Tor 0.4.9.11 on Linux",
        "protocols": Protocols.parse(PROTOCOLS),
        "published": now,
        "bandwidth": (1_000_000, 2_000_000, 100_000 * (index + 1)),
        "exit_policy": ("accept *:80", "reject *:*") if index % 2 else ("reject *:*",),
    }
    return DescriptorFacts(**{**values, **changes})  # type: ignore[arg-type]


@dataclass
class FakeNetwork:
    """A network of test authorities and relays, with documents valid around ``now``."""

    relays: int = 6
    authorities: int = 3
    now: float = NOW
    descriptors: list[RouterDescriptor] = field(default_factory=list)
    certificates: list[KeyCertificate] = field(default_factory=list)

    def __post_init__(self) -> None:
        for index in range(self.relays):
            document = build_router_descriptor(facts(index, self.now), descriptor_keys(index))
            self.descriptors.append(parse_router_descriptor(document))
        self.descriptors.sort(key=lambda one: one.rsa_id)
        for index in range(self.authorities):
            identity, signing = authority_keys(index)
            text = build_key_certificate(identity, signing, self.now - 86400, self.now + 86400)
            self.certificates.append(parse_key_certificate(text))

    @property
    def store(self) -> dict[tuple[bytes, bytes], KeyCertificate]:
        """The certificates as the verifier wants them."""
        return {(one.identity, one.signing_key_digest): one for one in self.certificates}

    @property
    def microdescriptors(self) -> list[bytes]:
        """The microdescriptors of method 35, in the order of ``descriptors``."""
        return [microdescriptors_by_method(one, SUPPORTED_METHODS)[-1][1] for one in self.descriptors]

    @property
    def network(self) -> Network:
        """As a torrc describes it."""
        lines = ["TestingTorNetwork 1"] + [
            f"DirAuthority auth{index} orport={7000 + index} v3ident={one.identity.hex()} "
            f"10.200.{index}.1:{7100 + index} {hashlib.sha1(b'auth%d' % index).hexdigest()}"
            for index, one in enumerate(self.certificates)
        ]
        return parse_network("\n".join(lines), "test")

    def entry(self, descriptor: RouterDescriptor) -> VoteEntry:
        """What an authority votes of ``descriptor``."""
        flags = {"Fast", "Guard", "HSDir", "Running", "Stable", "V2Dir", "Valid"}
        if descriptor.exit_policy.summary().allows_some:
            flags.add("Exit")
        return VoteEntry(
            nickname=descriptor.nickname,
            rsa_id=descriptor.rsa_id,
            descriptor_digest=descriptor.digest,
            published=descriptor.published,
            ip=descriptor.ip,
            orport=descriptor.orport,
            dirport=descriptor.dirport,
            flags=frozenset(flags),
            version="Tor 0.4.9.11",
            protocols=str(descriptor.protocols),
            bandwidth=descriptor.advertised_bandwidth // 1000,
            exit_summary=str(descriptor.exit_policy.summary()),
            ed_id=descriptor.ed_id,
            microdescs=[
                f"{','.join(map(str, methods))} sha256={encode_base64(hashlib.sha256(text).digest())}"
                for methods, text in microdescriptors_by_method(descriptor, SUPPORTED_METHODS)
            ],
        )

    def vote(self, index: int, valid_after: float | None = None, **changes: object) -> Vote:
        """The vote of authority ``index``, encoded, signed and parsed again."""
        start = self.now if valid_after is None else valid_after
        certificate = self.certificates[index]
        source = DirSource(f"auth{index}", certificate.identity, "10.200.0.1", "10.200.0.1", 7100, 7000, "me")
        values: dict[str, object] = {
            "methods": SUPPORTED_METHODS,
            "published": start - 10,
            "valid_after": start,
            "fresh_until": start + 60,
            "valid_until": start + 180,
            "voting_delay": (2, 2),
            "known_flags": FLAGS,
            "source": source,
            "certificate": certificate,
            "entries": [self.entry(one) for one in self.descriptors],
            "params": {"cc_alg": 2},
            "protocol_lists": {"required-client-protocols": "Link=4 Relay=2"},
        }
        vote = Vote(**{**values, **changes})  # type: ignore[arg-type]
        return parse_vote(encode_vote(vote, authority_keys(index)[1]))

    def consensus(self, flavour: str = "microdesc", valid_after: float | None = None) -> bytes:
        """The consensus of all authorities, signed by all."""
        votes = [self.vote(index, valid_after) for index in range(self.authorities)]
        body = compute_consensus(votes, flavour, ComputeOptions(self.authorities))
        pending = PendingConsensus(flavour, body)
        for index in range(self.authorities):
            identity, signing = authority_keys(index)
            pending.sign(identity.public.identity, signing)
        return pending.document()


@st.composite
def damaged(draw: st.DrawFn, document: bytes) -> bytes:
    """``document`` with a few bytes changed, a piece cut out, repeated or cut off."""
    data = bytearray(document)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "cut", "repeat", "truncate", "line"]))
        length = draw(st.integers(1, 80))
        if kind == "flip" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        elif kind == "truncate":
            del data[at:]
        else:
            data[at:at] = b"\n" + draw(st.binary(max_size=20)) + b"\n"
    return bytes(data)


@contextmanager
def signatures_unchecked() -> Iterator[None]:
    """Every signature is good: what stands behind the checks is reached with damaged documents too."""
    with (
        patch.object(RsaPublicKey, "verify"),
        patch("pelure.tor.cell.certs.ed25519_verify"),
        patch("pelure.tor.directory.descriptor_signing.ed25519_verify"),
    ):
        yield


def survives(parse: Callable[[bytes], object], document: bytes) -> None:
    """``parse`` takes ``document`` or refuses it with ``DirectoryError``; nothing else may happen."""
    try:
        parse(document)
    except DirectoryError:
        pass
