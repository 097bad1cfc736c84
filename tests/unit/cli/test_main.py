"""Which modules the command line loads."""

from __future__ import annotations

import importlib

import pytest
import typer

from pelure.cli.main import COMMANDS, modules_for


@pytest.mark.parametrize("module", COMMANDS)
def test_the_table_of_commands_is_right(module: str) -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    importlib.import_module(f"pelure.cli.{module}").register(app)
    group = typer.main.get_command(app)
    assert tuple(getattr(group, "commands")) == COMMANDS[module]  # noqa: B009


@pytest.mark.parametrize(
    ("line", "modules"),
    [
        ("net up --dir x", ["net"]),
        ("--network net --state share --verbose drive ls", ["drive"]),
        ("--network=net get LINK x", ["receive"]),
        ("--help", list(COMMANDS)),
        ("", list(COMMANDS)),
        ("nothing", list(COMMANDS)),
        ("--network", list(COMMANDS)),
    ],
)
def test_only_what_a_command_needs_is_loaded(line: str, modules: list[str]) -> None:
    assert modules_for(line.split()) == modules
