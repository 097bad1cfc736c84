"""Which modules the command line loads, and when."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from pelure.cli.main import COMMANDS, CommandGroup, app, load_commands

LOADED = """
import sys
from pelure.cli.main import app

try:
    app(sys.argv[1:])
finally:
    print("LOADED", *sorted(sys.modules), file=sys.stderr)
"""


def loaded_by(*arguments: str) -> set[str]:
    """The modules that a process has loaded after it ran the command."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=False
    )
    *_, modules = done.stderr.partition("LOADED ")
    return set(modules.split())


@pytest.mark.parametrize("module", COMMANDS)
def test_the_table_of_commands_is_right(module: str) -> None:
    commands = load_commands(module)
    summaries = {name: command.help.partition("\n\n")[0] for name, command in commands.items()}
    assert {name: " ".join(text.split()) for name, text in summaries.items()} == COMMANDS[module]


def resolved(line: str) -> Any:
    group = typer.main.get_command(app)
    assert isinstance(group, CommandGroup)
    return group.resolve_command(group.make_context("pelure", ["net"]), line.split())[1]


def test_a_command_takes_the_place_of_its_name() -> None:
    assert set(resolved("net up").commands) == {"up", "down", "status"}
    assert "circuits" in {parameter.name for parameter in resolved("get LINK").params}


def test_the_list_of_commands_loads_none() -> None:
    assert not {
        name for name in loaded_by("--help") if name.startswith(("pelure.tor", "pelure.hyper", "numpy"))
    }


def test_a_command_loads_what_it_needs() -> None:
    modules = loaded_by("proxy", "--help")
    assert "pelure.cli.proxy" in modules
    assert not modules & {"pelure.tor.embedded", "pelure.tor.relay", "pelure.hyper", "starlette", "pydantic"}


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"pelure {importlib.metadata.version('pelure')}\n"


def test_no_other_user_and_no_core_file_gets_a_key() -> None:
    program = (
        "import os, resource\n"
        "resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE)[1:] * 2)\n"
        "from pelure.cli.main import app\n"
        "app(['links', '--help'], standalone_mode=False)\n"
        "print(oct(os.umask(0)), resource.getrlimit(resource.RLIMIT_CORE)[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0o77 0"


def test_nothing_is_said_of_an_interruption_while_it_starts() -> None:
    program = (
        "import signal, sys, types\n"
        "loaded = types.ModuleType('pelure.cli.main')\n"
        "loaded.main = lambda: print(signal.getsignal(signal.SIGINT) is signal.SIG_DFL)\n"
        "sys.modules['pelure.cli.main'] = loaded\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pelure.cli.start import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_terminal_that_lacks_characters_gets_others(encoding: str) -> None:
    program = (
        "import sys, types\n"
        "loaded = types.ModuleType('pelure.cli.main')\n"
        "loaded.main = lambda: [print('a → b', file=file) for file in (sys.stdout, sys.stderr)]\n"
        "sys.modules['pelure.cli.main'] = loaded\n"
        "from pelure.cli.start import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    wanted = "a → b\n".encode(encoding, "backslashreplace")
    assert (done.stdout, done.stderr) == (wanted, wanted)


@pytest.mark.parametrize(
    ("action", "told"), [("SIG_DFL", "cleaned up\n"), ("SIG_IGN", "goes on\ncleaned up\n")]
)
def test_the_end_of_the_terminal(tmp_path: Path, action: str, told: str) -> None:
    """A command cleans up then, as at its interruption; under ``nohup`` it goes on."""
    program = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from pelure.cli.run import Settings, run\n"
        "signal.signal(signal.SIGHUP, getattr(signal, sys.argv[1]))\n"
        "async def work():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGHUP)\n"
        "        await asyncio.sleep(60 if sys.argv[1] == 'SIG_DFL' else 0.1)\n"
        "        print('goes on')\n"
        "    finally:\n"
        "        print('cleaned up')\n"
        "run(work(), Settings('embedded', Path(sys.argv[2]), False))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, action, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, told), done.stderr
