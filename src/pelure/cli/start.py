"""Where the ``pelure`` script begins: until a command runs, Ctrl-C just ends it, as it does any program."""

from __future__ import annotations

import signal


def main() -> None:
    """Load the command line and run it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is loaded takes a moment, and would show a trace
    from pelure.cli.main import main as run

    run()
