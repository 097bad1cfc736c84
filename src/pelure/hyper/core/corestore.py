"""A folder of cores, found by name or key (HYPER-FACTS §4).

All secret keys of a corestore's own cores derive from its 32-byte primary key, a name space and a name.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path

from pelure.errors import DriveError
from pelure.hyper.core.blockfile import sync_folder
from pelure.hyper.core.core import Core
from pelure.hyper.core.core_storage import CoreStorage, Head
from pelure.hyper.core.hashing import blake2b_256, name_space
from pelure.hyper.core.manifest import Manifest, single_signer
from pelure.hyper.core.replication.stream import Replication
from pelure.hyper.core.signer import KeyPair
from pelure.hyper.core.storage import PRIMARY_KEY_NAME, Store
from pelure.hyper.wire import noise
from pelure.hyper.wire.capability import discovery_key
from pelure.streams import ByteStream

_KEY_DERIVATION = name_space("corestore", 0)
_DIGEST_KEY = b"digest of the primary key"


class Corestore:
    """The cores in one folder. :meth:`namespace` gives views of it that derive other keys."""

    def __init__(self, path: str | Path, primary_key: bytes | None = None) -> None:
        """Open or create the folder ``path``; a new one uses ``primary_key`` or makes one.

        Raises :class:`~pelure.errors.DriveError` if another process uses it or it is damaged.
        """
        self._root = self
        self._namespace = bytes(32)
        self.path = Path(path)
        self.store = Store(self.path)
        self._cores: dict[bytes, Core] = {}
        self._opened: list[Callable[[Core], None]] = []
        try:
            self._primary_key = _load_primary_key(self.path / PRIMARY_KEY_NAME, primary_key)
            self._check_primary_key()
        except BaseException:
            self.store.close()
            raise

    def _check_primary_key(self) -> None:
        """Raises ``DriveError`` for another key than the store was made with: its cores would be others."""
        digest = blake2b_256(self._primary_key)
        if self.store.get(_DIGEST_KEY) is None:
            self.store.put(_DIGEST_KEY, digest)
        elif self.store.get(_DIGEST_KEY) != digest:
            raise DriveError(f"the primary key in {str(self.path)!r} is damaged: restore it from a copy")

    def namespace(self, name: str | bytes) -> Corestore:
        """The same cores, with names in the name space ``name`` of this one."""
        view = Corestore.__new__(Corestore)
        view._root = self._root
        view._namespace = blake2b_256(self._namespace, name.encode() if isinstance(name, str) else name)
        view.path = self.path
        view.store = self.store
        view._cores = self._cores
        view._opened = self._opened
        view._primary_key = self._primary_key
        return view

    def key_pair(self, name: str | bytes) -> KeyPair:
        """The key pair of the name ``name``."""
        raw = name.encode() if isinstance(name, str) else name
        seed = blake2b(_KEY_DERIVATION + self._namespace + raw, digest_size=32, key=self._primary_key)
        return KeyPair.from_seed(seed.digest())

    def get(
        self,
        *,
        name: str | None = None,
        key: bytes | None = None,
        manifest: Manifest | None = None,
        key_pairs: tuple[KeyPair, ...] = (),
        encryption_key: bytes | None = None,
    ) -> Core:
        """The core with this ``name``, ``key`` or ``manifest``; it is made if it does not exist.

        There is one :class:`Core` for each key, however often it is asked for. Raises
        :class:`~pelure.errors.DriveError` if the key and the manifest do not belong together.
        """
        if name is not None:
            pair = self.key_pair(name)
            key_pairs = (pair, *key_pairs)
            manifest = manifest or single_signer(pair.public_key)
        if key is None:
            if manifest is None:
                raise DriveError("a core is opened by its name, its key or its manifest")
            key = manifest.key()
        if len(key) != 32:
            raise DriveError("a core's key has 32 bytes")
        core = self._cores.get(key)
        if core is None or core.closed:
            core = Core(CoreStorage(self.store, discovery_key(key)), key, manifest, key_pairs)
            self._cores[key] = core
            for listener in list(self._opened):
                listener(core)
        if encryption_key is not None:
            core.set_encryption(encryption_key)
        return core

    def find(self, discovery_key: bytes) -> Core | None:
        """The core with this discovery key, if it is stored here."""
        for core in self._cores.values():
            if core.discovery_key == discovery_key and not core.closed:
                return core
        head = CoreStorage.peek(self.store, discovery_key)
        return self.get(key=head.key) if head is not None else None

    def stored(self) -> list[Head]:
        """The heads of all cores in the store."""
        heads = (CoreStorage.peek(self.store, found) for found in CoreStorage.discovery_keys(self.store))
        return [head for head in heads if head is not None]

    def open_cores(self) -> Iterable[Core]:
        """The cores that are open now."""
        return [core for core in self._cores.values() if not core.closed]

    def on_open(self, listener: Callable[[Core], None]) -> Callable[[], None]:
        """Call ``listener`` with each core that is opened from now on; returns what ends that."""
        self._opened.append(listener)
        return lambda: self._opened.remove(listener) if listener in self._opened else None

    def replicate(
        self,
        stream: ByteStream,
        initiator: bool,
        *,
        key_pair: noise.KeyPair | None = None,
        allow: Callable[[bytes], bool] | None = None,
    ) -> Replication:
        """Replicate all open cores, and those a peer asks for, over ``stream``.

        ``key_pair`` is this side's identity (by default a new one), ``allow`` decides about the other side's.
        """
        identity = key_pair or noise.KeyPair.generate(secrets.token_bytes)
        return Replication(stream, initiator, self, identity, allow)

    def close(self) -> None:
        """Make everything durable and close the folder; idempotent."""
        self.store.close()


def _load_primary_key(path: Path, wanted: bytes | None) -> bytes:
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        found = wanted if wanted is not None else secrets.token_bytes(32)
        part = path.with_suffix(".new")
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, found)
            os.fsync(fd)
        finally:
            os.close(fd)
        part.replace(path)
        sync_folder(path.parent)
    if len(found) != 32:
        raise DriveError(f"the primary key in {str(path)!r} is damaged")
    if wanted is not None and found != wanted:
        raise DriveError(f"the store {str(path.parent)!r} has another primary key")
    return found
