"""The ``pelure`` command: global options, and the commands that the other modules of this package add."""

from __future__ import annotations

import importlib
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer
from typer.core import TyperCommand, TyperGroup

from pelure.cli.run import Settings, message_of, set_up_logging
from pelure.cli.terminal import shown
from pelure.errors import PelureError

COMMANDS = {
    "share": {
        "share": "Share a folder or files: each name gets a private link of its own.",
        "shares": "List what is shared from here.",
        "unshare": "End a share that runs in the background.",
        "daemon": "Keep shares in the background.",
    },
    "links": {
        "links": "List all private links, minted and received.",
        "link": "Add, revoke, renew, show and sort private links.",
    },
    "receive": {
        "get": "Fetch what a link gives. Run it again to resume, or to fetch what has changed.",
        "ls": "List what a link gives: `pelure ls LINK` or `pelure ls LINK/folder`.",
        "cat": "Write a file to standard output while it comes: `pelure cat LINK/film.mkv | mpv -`",
        "mount": "Show what a link gives as a folder, until interrupted. Content is fetched when it is read.",
        "sync": "Keep a folder like what a link gives, and follow changes until interrupted.",
        "open": "Show what a link gives as a web page on this machine, behind a secret address.",
    },
    "inspection": {
        "netstat": "Show links to relays, circuits, streams, services and readers of the share that runs.",
    },
    "onion": {"onion": "Publish onion services; manage their keys and clients."},
    "proxy": {"proxy": "Let other programs use the network: SOCKS5 and HTTP CONNECT on one port."},
    "get_url": {"get-url": "Fetch a page or file."},
    "doctor": {"doctor": "Check that this machine can use the network; says what is wrong."},
    "drive": {"drive": "Folders with history, replicated between machines."},
    "relay": {"relay": "Carry other people's traffic: run a relay."},
    "authority": {"authority": "Run a directory authority of a private network."},
    "net": {"net": "Run a private network of authorities and relays on this machine."},
}
"""The modules of this package that add commands, and the names of those with what each is for."""


class CommandGroup(TyperGroup):
    """The commands of :data:`COMMANDS`. A module is loaded when one of its commands is run or completed.

    Loading all of them takes half a second: too long for a list of commands, or a tab.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for names in COMMANDS.values():
            for name, summary in names.items():
                self.add_command(TyperCommand(name, help=summary, rich_markup_mode="markdown"))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the command itself in the place of its name."""
        for module, names in COMMANDS.items():
            if args[0] in names:
                self.commands.update(load_commands(module))
        return super().resolve_command(ctx, args)


def load_commands(module: str) -> dict[str, Any]:
    """The commands that ``module`` adds, by name."""
    added = typer.Typer(rich_markup_mode="markdown")
    added.callback()(lambda: None)  # makes it a group, even of one
    importlib.import_module(f"pelure.cli.{module}").register(added)
    commands: dict[str, Any] = getattr(typer.main.get_command(added), "commands")  # noqa: B009
    return commands


app = typer.Typer(
    name="pelure",
    cls=CommandGroup,
    help="Share files and web sites by private link, from this machine, without either side learning "
    "where the other is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # which loads much, for this alone

        print(f"pelure {version('pelure')}")
        raise typer.Exit


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
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Keep the global options for the command that follows, from which nobody else may learn any key."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    set_up_logging(verbose)
    folder = state or Path(platformdirs.user_data_dir("pelure"))
    context.obj = Settings(network=network, state=folder.expanduser().absolute(), verbose=verbose)


def main() -> None:
    """Entry point of the ``pelure`` script: a failure is one line on standard error and exit status 1."""
    try:
        app()
    except (PelureError, OSError) as error:
        if "--verbose" in sys.argv or "-v" in sys.argv:
            traceback.print_exc()
        print(f"pelure: {shown(message_of(error))}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
