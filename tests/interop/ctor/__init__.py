"""A private network of unmodified C tor processes on 127.0.0.1, for the interop tests.

:class:`CTorNetwork` runs authorities, relays, clients and onion services; every process is stopped by
its own pid, and stops by itself when the process that started it dies. ``python -m interop.ctor`` (from
``tests/``) keeps one running for experiments.
"""

from interop.ctor.fileserver import FileServer, payload
from interop.ctor.network import Client, CTorNetwork, OnionRelay, Service, seed_shared_random
from interop.ctor.node import CTorError, Node, free_port
from interop.ctor.programs import curl, missing, require

__all__ = [
    "CTorError",
    "CTorNetwork",
    "Client",
    "FileServer",
    "Node",
    "OnionRelay",
    "Service",
    "curl",
    "free_port",
    "missing",
    "payload",
    "require",
    "seed_shared_random",
]
