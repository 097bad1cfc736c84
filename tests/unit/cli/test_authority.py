"""``pelure authority``: what is wrong is told before keys are made."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pelure.cli.main import app


@pytest.mark.parametrize(
    ("nickname", "address"),
    [("two words", "192.0.2.1"), ("", "192.0.2.1"), ("a", "::1"), ("a", "example.net")],
)
def test_an_authority_that_can_not_be_named_gets_no_keys(tmp_path: Path, nickname: str, address: str) -> None:
    named = ["--dir", str(tmp_path / "auth"), "--nickname", nickname, "--address", address]
    done = CliRunner().invoke(app, ["authority", "keygen", *named, "--orport", "9001", "--dirport", "9030"])
    assert done.exit_code == 2
    assert not (tmp_path / "auth").exists()
