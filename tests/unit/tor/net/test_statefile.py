"""State on disk is this user's alone, whatever the process' umask is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pelure.errors import ConfigError
from pelure.tor.net.statefile import StateFolder, private_folder, private_log, write_private


@pytest.fixture(autouse=True)
def generous() -> Iterator[None]:
    """Programs that use the API bring an umask of their own."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_folders_that_are_made_are_private_their_parents_too(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    inner = private_folder(tmp_path / "state" / "reader" / "drive")
    assert [mode(folder) for folder in (inner, inner.parent, inner.parent.parent)] == [0o700] * 3
    assert mode(tmp_path) == 0o755  # somebody else's


def test_a_folder_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert mode(private_folder(tmp_path)) == 0o700


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(ConfigError, match="can't use"):
            private_folder(path)


def test_files_are_private(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"1")
    for text in (b"a", b"b"):
        with private_log(tmp_path / "log") as log:
            log.write(text)
    with StateFolder(tmp_path / "state") as folder:
        folder.write_json("guards", [])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"key", "log", "lock", "guards"}
    assert {mode(path) for path in files} == {0o600}
    assert (tmp_path / "log").read_bytes() == b"ab"
