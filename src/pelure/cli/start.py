"""Where the ``pelure`` script begins: until a command runs, Ctrl-C just ends it, as it does any program."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Load the command line and run it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # which would show a trace
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Numpy would start threads for products of matrices, of which there are none.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from pelure.cli.main import main as run

    run()
