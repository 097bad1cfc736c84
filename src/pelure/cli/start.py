"""Where the ``pelure`` script begins: until a command runs, Ctrl-C just ends it, as it does any program."""

from __future__ import annotations

import io
import os
import signal
import sys


def main() -> None:
    """Load the command line and run it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # which would show a trace
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):  # of a terminal that can't show every character
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Numpy would start threads for products of matrices, of which there are none.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from pelure.cli.main import main as run

    run()
