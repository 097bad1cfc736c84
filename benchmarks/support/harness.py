"""What the interop tests have for running networks and commands, for benchmarks too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from interop.commands import Command
from interop.ctor import Client, CTorError, CTorNetwork, FileServer, curl, free_port, payload

__all__ = ["CTorError", "CTorNetwork", "Client", "Command", "FileServer", "curl", "free_port", "payload"]
