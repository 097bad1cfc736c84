"""Which network, and where what is known of it is kept: ``--network`` and ``--state`` (DESIGN section 6)."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from pelure.errors import ConfigError
from pelure.tor.directory.network import PUBLIC, Network, parse_network
from pelure.tor.net.statefile import LOCK_NAME, TEMPORARY_PREFIX, StateFolder, private_folder

EMBEDDED_FOLDER = "embedded"
NETWORK_FILE = "network.torrc"


def load_network(name: str | Path | Network, state: Path) -> Network:
    """The network ``public``, ``embedded`` (the one running under ``state``) or of a torrc file.

    Raises ``ConfigError``.
    """
    if isinstance(name, Network):
        return name
    if name == "public":
        return PUBLIC
    path = state / EMBEDDED_FOLDER / NETWORK_FILE if name == "embedded" else Path(name)
    try:
        return parse_network(path.read_text("utf-8"), str(name))
    except (OSError, UnicodeDecodeError) as error:
        if name == "embedded":
            raise ConfigError("no embedded network is running; start one: pelure net up") from error
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(
            f"can't read the network file {path}: {reason} (a network is «public», «embedded» or such a file)"
        ) from error


def network_label(network: Network) -> str:
    """A folder name for ``network``: its own, or one made of its authorities' identities."""
    if network == PUBLIC:
        return network.name
    identities = sorted(one.v3ident for one in network.voters if one.v3ident is not None)
    return "private-" + hashlib.sha256(b"".join(identities)).hexdigest()[:12]


class ClientState:
    """The locked state folder of one network and role; ``folder`` is it.

    While another process has the lock, this one works on a copy, which it drops in the end: both then keep
    to the same entry guards.
    """

    def __init__(self, state: Path, network: Network, role: str) -> None:
        """Raises ``ConfigError`` if no folder can be made."""
        own = state / network_label(network) / role
        self._copy: Path | None = None
        try:
            self.folder = StateFolder(own)
        except ConfigError:
            if not own.is_dir():
                raise
            self._copy = private_folder(Path(tempfile.mkdtemp(prefix="pelure-")))
            for path in own.iterdir():
                if path.is_file() and path.name != LOCK_NAME and not path.name.startswith(TEMPORARY_PREFIX):
                    shutil.copy(path, self._copy / path.name)
            self.folder = StateFolder(self._copy)

    def close(self) -> None:
        """Give the lock back, drop the copy; idempotent."""
        self.folder.close()
        if self._copy is not None:
            shutil.rmtree(self._copy, ignore_errors=True)
