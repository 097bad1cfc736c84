"""What is kept of a share."""

from __future__ import annotations

from pathlib import Path

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
