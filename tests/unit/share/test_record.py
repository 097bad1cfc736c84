"""What is kept of a share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pelure.errors import ConfigError
from pelure.share.record import ShareRecord


def test_a_share_can_get_another_title(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    shares = tmp_path / "shares"
    record = ShareRecord.of(shares, [tmp_path / "docs"], None)
    record.save(shares / record.id)
    assert record.title == "docs"
    renamed = ShareRecord.of(shares, [tmp_path / "docs"], "Papers")
    assert (renamed.id, renamed.title, renamed.content_key) == ("docs", "Papers", record.content_key)
    renamed.save(shares / record.id)
    assert ShareRecord.of(shares, [tmp_path / "docs"], None).title == "Papers"


def test_what_can_never_be_shared_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing"):
        with pytest.raises(ConfigError, match=name):
            ShareRecord.of(tmp_path / "shares", [tmp_path / name], None)
