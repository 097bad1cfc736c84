"""What others wrote, on this side's terminal."""

from __future__ import annotations

import logging

import pytest

from pelure.cli.output import Output
from pelure.cli.run import fail
from pelure.cli.terminal import SafeFormatter, shown

NAME = "a\x1b[2J\x1b]0;x\x07\r\n\x9b31m\u202egpj.exe"
SHOWN = r"a\x1b[2J\x1b]0;x\x07\r\n\x9b31m\u202egpj.exe"


@pytest.mark.parametrize("text", ["plain", "é 文 :smile:", "👩\u200d🚀", "[bold]x[/bold]"])
def test_what_prints_stays(text: str) -> None:
    assert shown(text) == text


def test_what_moves_the_cursor_or_turns_text_around_is_written_out() -> None:
    assert shown(NAME) == SHOWN
    assert shown("\udcff") == r"\udcff"
    assert shown("a\tb\nc\x1b", keep="\n\t") == "a\tb\nc\\x1b"


def test_events_errors_and_log_lines_are_safe(capsys: pytest.CaptureFixture[str]) -> None:
    with Output(as_json=False) as output:
        output.event("entry", f"[b] :smile: {NAME}", path=NAME)
    fail(f"there is no {NAME}")
    told = capsys.readouterr()
    kept = SHOWN.replace(r"\n", "\n")
    assert told.out == f"[b] :smile: {kept}\n"
    assert told.err == f"pelure: there is no {SHOWN}\n"
    record = logging.LogRecord("x", logging.INFO, "", 0, "left out: %s", (NAME,), None)
    assert SafeFormatter("%(message)s").format(record) == f"left out: {SHOWN}"
