"""What commands print, and what becomes of it when nobody reads any more."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pelure.cli.output import Output
from pelure.cli.share import tell

PROGRAM = """
import sys
from pelure.cli.output import Output
from pelure.cli.share import tell

with Output({as_json}) as output:
    output.event("first", "first")
    sys.stdin.read()
    for _ in range(3):
        output.event("second", "second")
print("went on", file=sys.stderr)
"""


@pytest.mark.parametrize("as_json", [True, False])
def test_a_reader_that_leaves_does_not_stop_the_command(as_json: bool) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(as_json=as_json)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    assert b"first" in process.stdout.readline()
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b"went on\n"
    assert process.wait(60) == 0
    process.stderr.close()


def test_names_of_any_bytes_are_told_as_json() -> None:
    name = os.fsdecode(b"bad\xffname \xc3\xa9")
    for encoding in ("utf-8", "ascii"):
        done = subprocess.run(
            [
                *(sys.executable, "-c"),
                "import os\nfrom pelure.cli.output import Output\n"
                f"Output(True).event('problem', path={name!r})\n"
                "Output(True).event('problem', path='é')",
            ],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.decode(encoding).splitlines()]
        assert [line["path"] for line in lines] == [name, "é"]


@pytest.mark.parametrize("as_json", [True, False])
def test_what_is_said_aside_is_on_standard_error_for_people(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with Output(as_json) as output:
        output.aside("connected", "Connected.")
        output.event("entry", "a.txt")
    told = capsys.readouterr()
    if as_json:
        assert [json.loads(line)["event"] for line in told.out.splitlines()] == ["connected", "entry"]
        assert told.err == ""
    else:
        assert (told.out, told.err) == ("a.txt\n", "Connected.\n")


def test_bytes_for_a_reader_that_leaves() -> None:
    """As of ``pelure cat … | head``: the command is content and says nothing."""
    program = (
        "import sys, typer\nfrom pelure.cli.output import write_bytes\n"
        "app = typer.Typer()\n"
        "@app.command()\ndef go() -> None:\n"
        "    write_bytes(b'first')\n    sys.stdin.read()\n    write_bytes(b'second')\n    sys.exit(3)\n"
        "app()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    assert process.stdout.read(5) == b"first"
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0
    process.stderr.close()


def test_names_of_what_is_not_shared_stay_in_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Output(False) as output:
        tell(output, {"event": "problem", "share": "x", "path": "/a\nalice\tpelure:y", "reason": "r"}, False)
    assert capsys.readouterr().out == "not shared: /a\\nalice\\tpelure:y: r\n"
