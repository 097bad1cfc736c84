"""Commands on link books and shares, where nothing runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pelure.cli.inspection import _listings
from pelure.cli.main import app
from pelure.cli.run import message_of


def events(tmp_path: Path, *words: str, status: int = 0) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["--state", str(tmp_path / "state"), *words, "--json"])
    assert result.exit_code == status, (result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_an_export_is_told(tmp_path: Path) -> None:
    file = tmp_path / "links.json"
    assert events(tmp_path, "link", "export", str(file)) == [
        {"event": "exported", "file": str(file), "links": 0}
    ]
    assert json.loads(file.read_text()) == []
    result = CliRunner().invoke(app, ["--state", str(tmp_path), "link", "export", str(tmp_path / "no/x")])
    assert str(result.exception) == f"can't write {tmp_path}/no/x: No such file or directory"


def test_the_systemd_unit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (told,) = events(tmp_path, "daemon", "install")
    assert told["event"] == "installed" and Path(told["unit"]).is_file()


def test_links_of_no_share(tmp_path: Path) -> None:
    assert events(tmp_path, "links") == []
    events(tmp_path, "links", "--share", "nothing", status=1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (OSError("odd"), "odd"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_errors_of_the_system_are_told_without_numbers(error: Exception, message: str) -> None:
    assert message_of(error) == message


def test_what_there_is_can_be_read_in_few_columns() -> None:
    status: dict[str, Any] = {
        "links": [
            {"nickname": "relay", "address": "::1", "port": 9, "circuits": 1, "bytes_read": 5}
            | {"bytes_written": 6, "fingerprint": "F"}
        ],
        "circuits": [],
        "services": [],
        "visitors": [],
    }
    links, circuits, *_ = _listings(status)
    assert links.lines() == (
        "Links: TLS connections to relays\n  relay relay, address ::1:9, circuits 1, read 5 B, written 6 B"
    )
    assert circuits.lines() == "Circuits\n  none"
