"""What ``--help`` of every command says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from pelure.cli.main import COMMANDS, load_commands


def commands() -> Iterator[tuple[str, Any]]:
    """All commands with their names, such as ``pelure onion clients add``."""
    for module in COMMANDS:
        for name, command in load_commands(module).items():
            yield from _below(f"pelure {name}", command)


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for word, inner in command.commands.items():
            yield from _below(f"{name} {word}", inner)
    else:
        yield name, command


@pytest.mark.parametrize(("name", "command"), [*commands()])
def test_an_example_that_the_command_takes(name: str, command: Any) -> None:
    examples = re.findall(rf"`{name} ?([^`]*)`", command.help)
    assert examples
    for example in examples:
        words, _, _ = example.partition(" | ")
        context = command.context_class(command)
        given, left, _ = command.make_parser(context).parse_args(shlex.split(words))
        assert left == []
        assert not [one.name for one in command.params if one.required and not given.get(one.name)]


@pytest.mark.parametrize(("name", "command"), [*commands()])
def test_a_command_that_lists_has_json(name: str, command: Any) -> None:
    words = {"ls", "list", "links", "shares", "search", "status", "netstat", "log", "diff", "info"}
    if words & set(name.split()):
        assert any("--json" in parameter.opts for parameter in command.params)
