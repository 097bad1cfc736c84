"""The ``pelure`` command: global options, and the commands that the other modules of this package add."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import platformdirs
import typer

from pelure.cli.run import Settings, set_up_logging
from pelure.cli.terminal import shown
from pelure.errors import PelureError

COMMANDS = {
    "onion": ("onion",),
    "proxy": ("proxy",),
    "get_url": ("get-url",),
    "doctor": ("doctor",),
    "relay": ("relay",),
    "authority": ("authority",),
    "net": ("net",),
    "drive": ("drive",),
    "share": ("share", "shares", "unshare", "daemon"),
    "links": ("links", "link"),
    "receive": ("get", "ls", "cat", "mount", "sync", "open"),
    "inspection": ("netstat",),
}
"""The modules of this package that add commands, and the names of those."""
OPTIONS_WITH_VALUES = ("--network", "--state")

app = typer.Typer(
    name="pelure",
    help="Share files and web sites by private link, from this machine, without either side learning "
    "where the other is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def global_options(
    context: typer.Context,
    network: Annotated[
        str,
        typer.Option(
            envvar="PELURE_NETWORK",
            help="`public` (the Tor network), `embedded` (a private one on this machine), or a torrc file "
            "of a private network.",
        ),
    ] = "public",
    state: Annotated[
        Path | None,
        typer.Option(envvar="PELURE_STATE", help="Folder of keys, links and caches.", file_okay=False),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens; show traces.")] = False,
) -> None:
    """Keep the global options for the command that follows."""
    os.umask(0o077)
    set_up_logging(verbose)
    folder = state or Path(platformdirs.user_data_dir("pelure"))
    context.obj = Settings(network=network, state=folder.expanduser().absolute(), verbose=verbose)


def modules_for(arguments: Sequence[str]) -> list[str]:
    """The modules that a command line needs: that of its command, all if it names none (for ``--help``).

    Loading all of them takes half a second, longer than many commands take.
    """
    words = iter(arguments)
    for word in words:
        if word in OPTIONS_WITH_VALUES:
            next(words, None)
        elif not word.startswith("-"):
            return [module for module, names in COMMANDS.items() if word in names] or list(COMMANDS)
    return list(COMMANDS)


for _module in modules_for(sys.argv[1:]):
    importlib.import_module(f"pelure.cli.{_module}").register(app)


def main() -> None:
    """Entry point of the ``pelure`` script: a failure is one line on standard error and exit status 1."""
    try:
        app()
    except (PelureError, OSError) as error:
        if "--verbose" in sys.argv or "-v" in sys.argv:
            traceback.print_exc()
        print(f"pelure: {shown(str(error))}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
