"""What readers are told while they wait for a publisher."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pelure.cli import receive
from pelure.cli.output import Output


class Told(Output):
    """Keeps the names of what is told aside."""

    def __init__(self) -> None:
        super().__init__(False, quiet=True)
        self.names: list[str] = []

    def aside(self, name: str, text: str, /, **fields: Any) -> None:
        self.names.append(name)


async def some_looks() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_only_who_was_connected_is_connected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "LOOK_SECONDS", 0)
    told = Told()
    remote = SimpleNamespace(open_circuits=0, last_error=OSError("nobody"), link=SimpleNamespace(title="t"))
    telling = asyncio.ensure_future(receive._tell_absence(told, cast(Any, remote), None))
    await some_looks()
    assert told.names == ["unreachable"]
    remote.open_circuits = 1
    await some_looks()
    assert told.names == ["unreachable"]
    remote.open_circuits = 0
    await some_looks()
    remote.open_circuits = 1
    await some_looks()
    assert told.names == ["unreachable", "unreachable", "connected"]
    telling.cancel()
