"""``pelure net`` where nothing is to be started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pelure.cli import net
from pelure.cli.main import app


@pytest.mark.parametrize(
    "arguments", [["--relays", "2"], ["--relays", "101"], ["--authorities", "2"], ["--interval", "9"]]
)
def test_numbers_that_make_no_network_are_wrong_usage(tmp_path: Path, arguments: list[str]) -> None:
    done = CliRunner().invoke(app, ["net", "up", "--dir", str(tmp_path), *arguments])
    assert done.exit_code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_a_network_that_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detach: list[str]) -> None:
    monkeypatch.setattr(net, "running_pid", lambda folder: os.getpid())
    done = CliRunner().invoke(app, ["net", "up", "--dir", str(tmp_path), *detach])
    assert done.exit_code == 1
    assert done.stderr == (
        f"pelure: a network is up in {tmp_path} already: use it, or end it by «pelure net down»\n"
    )


def test_a_network_that_is_down(tmp_path: Path) -> None:
    for command in ("status", "down"):
        done = CliRunner().invoke(app, ["net", command, "--dir", str(tmp_path)])
        assert (done.exit_code, done.stderr) == (1, f"pelure: no network is up in {tmp_path}\n")
