"""Following a folder: what is news, and what is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pelure.cli import watching

PATIENCE = 60


async def test_each_change_is_news_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_MILLISECONDS", 50)
    (tmp_path / "old").write_text("1")
    (tmp_path / "broken").symlink_to("nothing")
    known = watching.seen(tmp_path)
    assert [name for name, *_ in known] == ["old"]
    news = watching.changes(tmp_path, known)
    async with asyncio.timeout(PATIENCE):
        (tmp_path / "new").write_text("1")  # before the watch begins
        await anext(news)
        (tmp_path / "new").write_text("22")
        await anext(news)
        (tmp_path / "old").unlink()
        await anext(news)
        assert [name for name, *_ in watching.seen(tmp_path)] == ["new"]
        await news.aclose()
    assert watching.seen(tmp_path / "missing") == []


async def test_who_knows_nothing_is_told_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_MILLISECONDS", 50)
    news = watching.changes(tmp_path)
    async with asyncio.timeout(PATIENCE):
        await anext(news)
    await news.aclose()
