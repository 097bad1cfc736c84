"""What replication needs of a core and of a store; ``hyper.core`` and the corestore provide it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from pelure.hyper.core.changes import Change
from pelure.hyper.core.reorg import Reorg
from pelure.hyper.core.tree import SeekResult
from pelure.hyper.wire.messages import Data, Request
from pelure.hyper.wire.parts import Node

if TYPE_CHECKING:
    from pelure.hyper.core.replication.replicator import Replicator


class LocalBitfield(Protocol):
    """Which blocks are held here."""

    def first_unset(self, start: int = 0) -> int:
        """The first block from ``start`` on that is not held; may lie at or past the core's length."""

    def first_set(self, start: int, end: int | None = None) -> int | None:
        """The first block from ``start`` on, before ``end``, that is held."""

    def words(self, start: int, length: int) -> bytes:
        """Blocks ``start`` (a multiple of 32) to ``start + length`` as little-endian 32-bit words."""


class LocalCore(Protocol):
    """The part of :class:`pelure.hyper.core.core.Core` that replication uses."""

    key: bytes
    discovery_key: bytes
    contiguous_length: int
    closed: bool

    @property
    def bitfield(self) -> LocalBitfield: ...
    @property
    def fork(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def padding(self) -> int: ...
    @property
    def has_manifest(self) -> bool:
        """Whether there is a manifest to tell (a compat core's is not told)."""

    @property
    def needs_manifest(self) -> bool:
        """Whether the manifest is not known yet."""

    @property
    def replicator(self) -> Replicator | None: ...
    @replicator.setter
    def replicator(self, replicator: Replicator | None) -> None: ...

    def has(self, index: int) -> bool: ...

    def find(self, position: int) -> SeekResult:
        """Where byte ``position`` is, as far as is known."""

    def get_node(self, index: int) -> Node | None:
        """Tree node ``index``, if held."""

    def can_upgrade(self, length: int) -> bool:
        """Whether growth from ``length`` blocks to here can be proved."""

    def proof(self, request: Request) -> Data | None:
        """The complete answer, or ``None`` if what it asks for is not held.

        Raises ``ProtocolError`` for a request that makes no sense, ``DriveError`` for a damaged block.
        """

    def verify_and_store(self, answers: Sequence[Data]) -> int:
        """Verify in order and store the good ones; return how many those are.

        Raises ``ProtocolError``, having stored nothing, if already the first is bad.
        """

    def reorg(self, data: Data) -> Reorg:
        """Begin to follow the core to a newer fork, whose tree ``data`` proves.

        Raises ``ProtocolError`` if it does not.
        """

    @property
    def conflict(self) -> Data | None:
        """The proof that the writer signed another tree, too; then the core is not replicated any more."""

    def check_conflict(self, data: Data) -> bool:
        """Give up the core if ``data`` proves that there is another signed tree; whether it does.

        Raises ``ProtocolError`` for a proof that does not verify.
        """

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once all that is held now would outlast a crash."""

    def on_change(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Have ``listener`` called after each change; returns what ends that."""


class LocalStore(Protocol):
    """The part of a corestore that a stream uses."""

    def find(self, discovery_key: bytes) -> LocalCore | None:
        """The core with this discovery key, opened if it is stored here."""

    def open_cores(self) -> Iterable[LocalCore]:
        """The cores that are open now."""

    def on_open(self, listener: Callable[[LocalCore], None]) -> Callable[[], None]:
        """Have ``listener`` called with each core that is opened later; returns what ends that."""
