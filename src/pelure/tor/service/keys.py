"""An onion service's identity and authorized clients, on disk as C tor keeps them (rend-spec-v3 App. F, G).

A ``HiddenServiceDir`` of C tor works here and one made here works in C tor, under the same address.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from pelure.errors import ConfigError, CryptoError
from pelure.tor.crypto.address import encode_address
from pelure.tor.crypto.keys import Ed25519KeyPair, Rng
from pelure.tor.net.statefile import private_folder, write_private
from pelure.tor.onion.auth_files import AUTH_SUFFIX, decode_auth, encode_auth
from pelure.tor.onion.client_auth import ClientAuthKey
from pelure.tor.onion.key_files import (
    CLIENTS_FOLDER,
    HOSTNAME_FILE,
    PUBLIC_KEY_FILE,
    SECRET_KEY_FILE,
    decode_public_key,
    decode_secret_key,
    encode_public_key,
    encode_secret_key,
)

_CLIENT_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
NOBODY = "nobody-placeholder"
"""The name of the client that keeps a service restricted while it has no other."""
log = logging.getLogger(__name__)


@dataclass
class ServiceKeys:
    """An onion service's identity key pair and its authorized clients (name to 32-byte X25519 public key).

    With a ``folder`` every change is written there at once; without one the service lives in memory only.
    """

    identity: Ed25519KeyPair
    clients: dict[str, bytes] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def address(self) -> str:
        """The ``….onion`` address."""
        return encode_address(self.identity.public)

    @classmethod
    def generate(cls, rng: Rng) -> ServiceKeys:
        """Make a new identity that is kept in memory only."""
        return cls(Ed25519KeyPair.generate(rng))

    @classmethod
    def create(cls, folder: Path, rng: Rng) -> ServiceKeys:
        """Make a new identity in ``folder``. Raises :class:`ConfigError` if there is one or it can't be."""
        if (folder / SECRET_KEY_FILE).exists():
            raise ConfigError(f"{folder} holds an onion service already; choose another folder")
        keys = cls(Ed25519KeyPair.generate(rng), folder=folder)
        private_folder(folder)
        private_folder(folder / CLIENTS_FOLDER)
        keys._write(SECRET_KEY_FILE, encode_secret_key(keys.identity.expanded))
        keys._write(PUBLIC_KEY_FILE, encode_public_key(keys.identity.public))
        keys._write(HOSTNAME_FILE, f"{keys.address}\n".encode("ascii"))
        return keys

    @classmethod
    def load(cls, folder: Path) -> ServiceKeys:
        """Read a folder made here or by C tor. Raises :class:`ConfigError` if it is incomplete or damaged."""
        try:
            expanded = decode_secret_key((folder / SECRET_KEY_FILE).read_bytes())
            public_file = folder / PUBLIC_KEY_FILE
            public = decode_public_key(public_file.read_bytes()) if public_file.exists() else None
        except OSError as error:
            raise ConfigError(f"can't read the onion service keys in {folder}: {error.strerror}") from error
        try:
            identity = Ed25519KeyPair.from_expanded(expanded)
        except CryptoError as error:
            raise ConfigError(f"{SECRET_KEY_FILE} in {folder} holds no usable key") from error
        if public is not None and public != identity.public:
            raise ConfigError(f"the two key files in {folder} don't belong together")
        keys = cls(identity, folder=folder)
        keys.clients = keys._read_clients()
        if not (folder / HOSTNAME_FILE).exists():
            keys._write(HOSTNAME_FILE, f"{keys.address}\n".encode("ascii"))
        return keys

    @classmethod
    def open(cls, folder: Path, rng: Rng) -> ServiceKeys:
        """Load the identity in ``folder``, or make one if there is none. Raises :class:`ConfigError`."""
        return cls.load(folder) if (folder / SECRET_KEY_FILE).exists() else cls.create(folder, rng)

    def add_client(self, name: str, public: bytes) -> None:
        """Authorize the client ``name`` with its 32-byte X25519 public key, replacing an earlier key.

        Raises :class:`ConfigError` as :func:`check_client` does.
        """
        check_client(name, public)
        self._store_client(name, public)
        if NOBODY in self.clients:
            self._drop_client(NOBODY)

    def remove_client(self, name: str, rng: Rng) -> None:
        """Withdraw a client's authorization. Raises :class:`ConfigError` if there is no such client.

        A service without any client file would be open to everyone, in C tor too: whoever removes the last
        client hardly means that, so a key that nobody has takes its place until another client is added.
        """
        if name not in self.clients:
            raise ConfigError(f"no authorized client is named {name!r}")
        if len(self.clients) == 1:
            self._store_client(NOBODY, ClientAuthKey.generate(rng).public)
        self._drop_client(name)

    def open_to_all(self) -> None:
        """Remove every client: anyone who knows the address can connect."""
        for name in list(self.clients):
            self._drop_client(name)

    def _store_client(self, name: str, public: bytes) -> None:
        if self.folder is not None:
            private_folder(self.folder / CLIENTS_FOLDER)
            self._write(f"{CLIENTS_FOLDER}/{name}{AUTH_SUFFIX}", encode_auth(public).encode("ascii"))
        self.clients[name] = public

    def _drop_client(self, name: str) -> None:
        if self.folder is not None:
            (self.folder / CLIENTS_FOLDER / f"{name}{AUTH_SUFFIX}").unlink(missing_ok=True)
        del self.clients[name]

    def reload_clients(self) -> bool:
        """Read the authorized clients from the folder again; return whether they changed."""
        if self.folder is None:
            return False
        before, self.clients = self.clients, self._read_clients()
        return before != self.clients

    def _write(self, name: str, content: bytes) -> None:
        assert self.folder is not None
        try:
            write_private(self.folder / name, content)
        except OSError as error:
            raise ConfigError(f"can't write {name} in {self.folder}: {error.strerror}") from error

    def _read_clients(self) -> dict[str, bytes]:
        """Read ``authorized_clients/*.auth``; a malformed file is skipped, but never all of them.

        A service that has client files is meant to be restricted: none of them being readable must not
        make it public.
        """
        assert self.folder is not None
        clients: dict[str, bytes] = {}
        try:
            files = sorted((self.folder / CLIENTS_FOLDER).glob(f"*{AUTH_SUFFIX}"))
            for file in files:
                try:
                    clients[file.name.removesuffix(AUTH_SUFFIX)] = decode_auth(file.read_text("ascii"))
                except (ConfigError, UnicodeDecodeError) as error:
                    log.warning("Ignoring the client authorization file %s: %s", file, error)
        except OSError as error:
            raise ConfigError(
                f"can't read the authorized clients of {self.folder}: {error.strerror}"
            ) from error
        if files and not clients:
            raise ConfigError(f"none of the client authorization files of {self.folder} can be used")
        return clients


def check_client(name: str, public: bytes) -> None:
    """Raise :class:`ConfigError` for a name that can't be a file name, or a key of the wrong size."""
    if not _CLIENT_NAME.fullmatch(name) or name == NOBODY:
        raise ConfigError("a client's name has up to 64 letters, digits, '_', '-' and '.'")
    if len(public) != 32:
        raise ConfigError("a client authorization key is 32 bytes")
