"""Every event a command tells is in docs/events.md."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[3]
TOLD_BY = {"event", "aside", "tell", "emit", "_on_event", "_tell"}


def test_every_event_is_documented() -> None:
    documented = (ROOT / "docs" / "events.md").read_text("utf-8")
    names = {name for folder in ("cli", "share") for name in _told(ROOT / "src" / "pelure" / folder)}
    names -= {"error"}  # between a command and the node that runs: it becomes the line on standard error
    assert {"published", "transfer", "entry"} <= names
    assert not [name for name in sorted(names) if f"`{name}`" not in documented]


def _told(folder: Path) -> set[str]:
    """The first arguments, where they are literal, of the calls that tell events."""
    names = set()
    for file in folder.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            match call:
                case ast.Call(
                    func=ast.Attribute(attr=called) | ast.Name(id=called),
                    args=[ast.Constant(value=str(name)), *_],
                ) if called in TOLD_BY:
                    names.add(name)
    return names
