"""Patterns of the ignore file."""

from __future__ import annotations

import pytest

from pelure.hyper.drive.ignore import IgnoreRules


@pytest.mark.parametrize(
    ("pattern", "path", "ignored"),
    [
        ("*.o", "/a.o", True),
        ("*.o", "/sub/a.o", True),
        ("*.o", "/a.o/x", True),
        ("*.o", "/a.obj", False),
        ("/top", "/top", True),
        ("/top", "/sub/top", False),
        ("sub/x", "/sub/x", True),
        ("sub/x", "/other/sub/x", False),
        ("**/x", "/a/b/x", True),
        ("a/**", "/a/b/c", True),
        ("a/**/z", "/a/z", True),
        ("a/**/z", "/a/b/c/z", True),
        ("build/", "/build/x", True),
        ("build/", "/build", False),
        ("?.c", "/a.c", True),
        ("?.c", "/ab.c", False),
        ("[ab].c", "/b.c", True),
        ("[!ab].c", "/b.c", False),
        ("[a-c].c", "/b.c", True),
        ("# comment", "/# comment", False),
        ("a+b", "/a+b", True),
        ("[", "/[", True),
    ],
)
def test_patterns(pattern: str, path: str, ignored: bool) -> None:
    assert IgnoreRules([pattern]).ignores(path) is ignored


def test_the_last_pattern_decides() -> None:
    rules = IgnoreRules(["*.txt", "!keep.txt", ""])
    assert rules.ignores("/a.txt")
    assert not rules.ignores("/keep.txt")
    assert not rules.ignores("/other")
