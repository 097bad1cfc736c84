"""Microdescriptors (dir-spec section 3.3): parsing one and splitting a run of them.

TAP onion keys and ``family`` lines are optional (proposals 350 and 321). A microdescriptor is named by the
SHA-256 of its exact text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pelure.errors import DirectoryError
from pelure.tor.directory.exit_policy import REJECT_ALL, PortPolicy
from pelure.tor.directory.family import parse_family
from pelure.tor.directory.tokenizer import Section, decode_base64, decode_document, tokenize

MAX_MICRODESCRIPTOR_LENGTH = 64 << 10
MAX_MICRODESCRIPTORS_LENGTH = 64 << 20
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
    text: bytes = field(repr=False)


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
        family=parse_family(family.args) if family else frozenset(),
        family_ids=frozenset(family_ids.args) if family_ids else frozenset(),
        exit_policy=_policy(section, "p"),
        exit_policy6=_policy(section, "p6"),
        text=document,
    )


def _ed25519_id(section: Section) -> bytes | None:
    found = [item for item in section.all("id") if item.arg(0) == "ed25519"]
    if len(found) > 1:
        raise DirectoryError("the microdescriptor has two Ed25519 identities")
    return decode_base64(found[0].arg(1), 32) if found else None


def _policy(section: Section, keyword: str) -> PortPolicy:
    item = section.maybe(keyword)
    return PortPolicy.parse(item.rest) if item else REJECT_ALL


def split_microdescriptors(document: bytes) -> Iterator[bytes]:
    """Yield the text of each microdescriptor of a run; annotation lines (``@…``) are dropped.

    Raises ``DirectoryError`` if the whole is too large.
    """
    if len(document) > MAX_MICRODESCRIPTORS_LENGTH:
        raise DirectoryError("too many microdescriptors at once")
    starts = [match.start() for match in _START.finditer(document)]
    for start, end in zip(starts, [*starts[1:], len(document)], strict=True):
        body = document[start:end]
        annotation = body.find(b"\n@")
        yield body if annotation < 0 else body[: annotation + 1]
