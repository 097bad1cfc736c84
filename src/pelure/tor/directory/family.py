"""Relay families: lists of members and their canonical form (dir-spec 2.1.1 "family", proposal 298).

Members are ``$`` and 40 hexadecimal digits (optionally followed by ``=`` or ``~`` and a nickname), or a
nickname alone. Canonical: digits in upper case without nickname, nicknames in lower case, sorted, once each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_HEX_MEMBER = re.compile(r"\$?([0-9A-Fa-f]{40})(?:[=~][A-Za-z0-9]{1,19})?")
_NICKNAME = re.compile(r"[A-Za-z0-9]{1,19}")


def parse_family(members: Iterable[str]) -> frozenset[str]:
    """The well-formed ``members`` in canonical form; others are skipped."""
    return frozenset(filter(None, map(_canonical_member, members)))


def _canonical_member(member: str) -> str:
    match = _HEX_MEMBER.fullmatch(member)
    if match:
        return f"${match.group(1).upper()}"
    return member.lower() if is_nickname(member) else ""


def is_nickname(text: str) -> bool:
    """Whether a relay may be called ``text``: 1 to 19 letters and digits (dir-spec 2.1.3)."""
    return bool(_NICKNAME.fullmatch(text))


def is_legal_member(member: str) -> bool:
    """Whether a router descriptor may list ``member``: fingerprints with their ``$`` only, as in C tor."""
    return is_nickname(member) or (member.startswith("$") and bool(_canonical_member(member)))


def canonical_family(members: Iterable[str], self_id: bytes) -> str:
    """The ``family`` line's arguments of a microdescriptor of relay ``self_id`` (20 bytes).

    Unrecognized members are kept as they are; the relay itself is always a member.
    """
    listed = list(members)
    unrecognized = {member for member in listed if not _canonical_member(member)}
    return " ".join(sorted(parse_family(listed) | unrecognized | {f"${self_id.hex().upper()}"}))
