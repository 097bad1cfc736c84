"""Tor versions and their order (version-spec), as authorities sort and count them."""

from __future__ import annotations

import re
from dataclasses import dataclass

INT32_MAX = (1 << 31) - 1
_STATUS = {"pre": 0, "rc": 1, ".": 2}
_RELEASE = 2
_VERSION = re.compile(
    r"(?:[Tt][Oo][Rr] )?(\d+)\.(\d+)"
    r"(?:-(?P<a>\S*)|\.(\d+)(?:-(?P<b>\S*)|(\.|pre|rc)(\d+)[-.]?(?P<c>\S*))?)?(?:\s.*)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, order=True)
class TorVersion:
    """``major.minor.micro.patchlevel-tag``; compares in the order of the specification."""

    major: int
    minor: int
    micro: int = 0
    status: int = _RELEASE
    patchlevel: int = 0
    tag: str = ""

    @classmethod
    def parse(cls, text: str) -> TorVersion | None:
        """The version in ``text`` (a leading ``Tor `` is allowed), None if it isn't one."""
        match = _VERSION.fullmatch(text)
        if match is None:
            return None
        major, minor, micro, patchlevel = (int((group or "0")[:20]) for group in match.group(1, 2, 4, 7))
        if max(major, minor, micro, patchlevel) > INT32_MAX:
            return None
        tag = match["a"] or match["b"] or match["c"] or ""
        return cls(major, minor, micro, _STATUS[match.group(6) or "."], patchlevel, tag)


def compare_versions(one: str, other: str) -> int:
    """Negative, zero or positive as ``one`` comes before ``other``; what isn't a version comes last."""
    a, b = TorVersion.parse(one), TorVersion.parse(other)
    if a is None or b is None:
        if a is None and b is None:
            return (one > other) - (one < other)
        return -1 if b is None else 1
    return (a > b) - (a < b)
