"""Microdescriptors (dir-spec section 3.3): parsing, splitting a run of them, making them of descriptors.

TAP onion keys and ``family`` lines are optional (proposals 350 and 321). A microdescriptor is named by the
SHA-256 of its exact text.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pelure.errors import DirectoryError
from pelure.tor.directory.exit_policy import REJECT_ALL, PortPolicy
from pelure.tor.directory.family import canonical_family, parse_family
from pelure.tor.directory.router_descriptor import RouterDescriptor
from pelure.tor.directory.tokenizer import (
    Section,
    decode_base64,
    decode_document,
    encode_base64,
    encode_object,
    split_at,
    tokenize,
)

MAX_MICRODESCRIPTOR_LENGTH = 64 << 10
MAX_MICRODESCRIPTORS_LENGTH = 64 << 20
METHOD_FAMILY_IDS = 35
_START = re.compile(rb"^onion-key[ \r\n]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Microdescriptor:
    """What a client needs of a relay beside the consensus: keys (32 bytes each), family, port policies."""

    digest: bytes
    ntor_key: bytes
    ed_id: bytes | None
    family: frozenset[str]
    family_ids: frozenset[str]
    exit_policy: PortPolicy
    exit_policy6: PortPolicy


def parse_microdescriptor(document: bytes) -> Microdescriptor:
    """Parse exactly one microdescriptor. Raises ``DirectoryError``."""
    text = decode_document(document, MAX_MICRODESCRIPTOR_LENGTH)
    section = Section(list(tokenize(text)), "the microdescriptor")
    if not section.items or section.items[0].keyword != "onion-key":
        raise DirectoryError("a microdescriptor must start with 'onion-key'")
    section.one("onion-key")
    family, family_ids = section.maybe("family"), section.maybe("family-ids")
    return Microdescriptor(
        digest=hashlib.sha256(document).digest(),
        ntor_key=decode_base64(section.one("ntor-onion-key").arg(0), 32),
        ed_id=_ed25519_id(section),
        family=_family(family.rest) if family else frozenset(),
        family_ids=frozenset(family_ids.args) if family_ids else frozenset(),
        exit_policy=_policy(section, "p"),
        exit_policy6=_policy(section, "p6"),
    )


@lru_cache(maxsize=1024)
def _family(members: str) -> frozenset[str]:
    """The family of a ``family`` line, which all members share in the same words (proposal 298).

    One object for all: of the public network's descriptors nine tenths are families.
    """
    return parse_family(members.split())


def _ed25519_id(section: Section) -> bytes | None:
    found = [item for item in section.all("id") if item.arg(0) == "ed25519"]
    if len(found) > 1:
        raise DirectoryError("the microdescriptor has two Ed25519 identities")
    return decode_base64(found[0].arg(1), 32) if found else None


def _policy(section: Section, keyword: str) -> PortPolicy:
    item = section.maybe(keyword)
    return PortPolicy.parse(item.rest) if item else REJECT_ALL


def split_microdescriptors(document: bytes | mmap.mmap) -> Iterator[bytes]:
    """Yield the text of each microdescriptor of a run; annotation lines (``@…``) are dropped.

    Raises ``DirectoryError`` if the whole is too large.
    """
    if len(document) > MAX_MICRODESCRIPTORS_LENGTH:
        raise DirectoryError("too many microdescriptors at once")
    for body in split_at(document, _START):
        annotation = body.find(b"\n@")
        yield body if annotation < 0 else body[: annotation + 1]


def build_microdescriptor(descriptor: RouterDescriptor, method: int) -> bytes:
    """The microdescriptor an authority makes of ``descriptor`` for consensus ``method`` (dir-spec 3.3)."""
    lines = ["onion-key\n"]
    if descriptor.tap_key is not None:
        lines.append(encode_object("RSA PUBLIC KEY", descriptor.tap_key))
    lines.append(f"ntor-onion-key {encode_base64(descriptor.ntor_key)}\n")
    if descriptor.family:
        lines.append(f"family {canonical_family(descriptor.family, descriptor.rsa_id)}\n")
    if method >= METHOD_FAMILY_IDS and descriptor.family_ids:
        lines.append(f"family-ids {' '.join(descriptor.family_ids)}\n")
    policies = (("p", descriptor.exit_policy.summary()), ("p6", descriptor.ipv6_policy))
    lines += [f"{keyword} {policy}\n" for keyword, policy in policies if policy and policy != REJECT_ALL]
    lines.append(f"id ed25519 {encode_base64(descriptor.ed_id)}\n")
    return "".join(lines).encode("latin-1")


def microdescriptors_by_method(
    descriptor: RouterDescriptor, methods: Sequence[int]
) -> list[tuple[list[int], bytes]]:
    """The different microdescriptors of ``descriptor``, each with the (ascending) methods that make it."""
    found: list[tuple[list[int], bytes]] = []
    for method in methods:
        text = build_microdescriptor(descriptor, method)
        if found and found[-1][1] == text:
            found[-1][0].append(method)
        else:
            found.append(([method], text))
    return found
