"""A core's local state: tree, blocks and bitfield, and how a writer changes them (HYPER-FACTS §9, §10, §12).

All of it is synchronous. A change is made in memory and handed to the storage as one piece; when
:meth:`CoreState.append`, :meth:`~CoreState.truncate` or :meth:`~CoreState.clear` returns, it is durable. The
tree is signed when somebody asks for its signature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pelure.errors import ConflictError, DriveError, ProtocolError
from pelure.hyper.core import flat_tree, tree
from pelure.hyper.core.changes import Change, ChangeKind
from pelure.hyper.core.core_storage import INLINE_LIMIT, CoreStorage, Head, LinkedBlock
from pelure.hyper.core.encryption import PADDING, Encryption
from pelure.hyper.core.fresh import FreshBlocks
from pelure.hyper.core.hashing import leaf_hash
from pelure.hyper.core.linked import LinkedFile, LinkedFileChanged
from pelure.hyper.core.manifest import Manifest, single_signer
from pelure.hyper.core.signer import KeyPair, Verifier
from pelure.hyper.core.tree import NotAvailable, TreeBatch, need
from pelure.hyper.encoding.compact import Reader
from pelure.hyper.wire.capability import discovery_key
from pelure.hyper.wire.messages import MAX_BLOCK, Data
from pelure.hyper.wire.parts import Node

_CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class PlacedBlock:
    """A block that is on the disk already: ``size`` and ``hash`` are those of its stored form.

    It is at ``position`` of the core's block file, or of the linked file number ``link``.
    """

    size: int
    hash: bytes
    position: int
    link: int | None = None


class CoreState:
    """The local half of a core. See :class:`~pelure.hyper.core.core.Core`."""

    def __init__(
        self,
        storage: CoreStorage,
        key: bytes,
        manifest: Manifest | None = None,
        key_pairs: Sequence[KeyPair] = (),
    ) -> None:
        self.storage = storage
        self.key = key
        self.discovery_key = discovery_key(key)
        self.encryption: Encryption | None = None
        self.truncations: list[tuple[int, int]] = []
        self._listeners: list[Callable[[Change], None]] = []
        self._head_pending = False
        self._writable: bool | None = None
        """Whether the keys and the manifest known by now can sign, once somebody asked."""
        self.fresh = FreshBlocks()
        self._load(manifest, key_pairs)

    def _load(self, manifest: Manifest | None, key_pairs: Sequence[KeyPair]) -> None:
        head = self.storage.head
        self._head = head or Head(self.key)
        if self._head.key != self.key:
            raise DriveError("the store is damaged: a core's key and discovery key do not match")
        if self._head.manifest is not None:
            manifest = Manifest.decode(self._head.manifest)
        self.verifier = Verifier(self.key, manifest) if manifest is not None else None
        if manifest is not None and not manifest.matches(self.key):
            raise DriveError("the manifest is not the one this core's key stands for")
        pairs = {pair.public_key: pair for pair in map(KeyPair.from_seed, self._head.seeds)}
        pairs.update({pair.public_key: pair for pair in key_pairs})
        self._key_pairs = tuple(pairs.values())
        self.bitfield = self.storage.load_bitfield()
        self.roots = self.roots_at(self._head.length)
        self.contiguous_length = self.bitfield.first_unset()
        self.conflict = self._load_conflict()
        """The proof that the writer signed another tree, too, if one came: see :meth:`freeze`."""
        known = Head(
            self.key,
            self._head.fork,
            self._head.length,
            self._head.signature,
            manifest.encode() if manifest is not None else None,
            tuple(pair.seed for pair in self._key_pairs),
        )
        if head != known:
            self._head = known
            self.storage.put_head(known)

    def _load_conflict(self) -> Data | None:
        proof = self.storage.get_user_data(_CONFLICT)
        try:
            return Data.decode(Reader(proof)) if proof is not None else None
        except ProtocolError as error:
            raise DriveError(f"the store is damaged: a core's conflict can't be read ({error})") from None

    @property
    def manifest(self) -> Manifest | None:
        """The manifest, once it is known."""
        return self.verifier.manifest if self.verifier is not None else None

    @property
    def has_manifest(self) -> bool:
        """Whether there is a manifest to tell peers (that of a compat core is not told)."""
        return self.verifier is not None and not self.verifier.compat

    @property
    def needs_manifest(self) -> bool:
        """Whether the manifest is not known yet."""
        return self.verifier is None

    @property
    def fork(self) -> int:
        """How often the core was truncated."""
        return self._head.fork

    @property
    def length(self) -> int:
        """Blocks that are known to exist, held here or not."""
        return self._head.length

    @property
    def signature(self) -> bytes | None:
        """The signature of the current head; a writer makes it when it is asked for, mostly by a peer.

        It is on the disk, like what it covers, before it is told to anyone: after a power cut, other blocks
        could be appended at the same length, and two signed trees of one length are the end of a core.
        """
        if self._head.signature is None and self.length and self.writable:
            assert self.verifier is not None  # writable
            self._head.signature = self.verifier.sign(self.batch(), self._key_pairs)
            self._put_head()
            self.storage.store.commit()
        return self._head.signature

    @property
    def padding(self) -> int:
        """Bytes by which each stored block is longer than the block."""
        return PADDING if self.encryption is not None else 0

    @property
    def byte_length(self) -> int:
        """Bytes of all blocks."""
        return sum(root.size for root in self.roots) - self.padding * self.length

    @property
    def key_pairs(self) -> tuple[KeyPair, ...]:
        """The secret keys held here."""
        return self._key_pairs

    @property
    def writable(self) -> bool:
        """Whether enough secret keys are held to sign."""
        if self._writable is None:
            self._writable = self.verifier is not None and self.verifier.can_sign(self._key_pairs)
        return self._writable

    def set_encryption(self, encryption_key: bytes) -> None:
        """Read and write encrypted blocks, under a key derived from this 32-byte one."""
        compat = self.verifier is not None and self.verifier.compat
        self.encryption = Encryption.derive(self.key, encryption_key, compat)

    def on_change(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Call ``listener`` after each change; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def emit(self, kind: ChangeKind, start: int, length: int) -> None:
        """Tell the listeners."""
        for listener in list(self._listeners):
            listener(Change(kind, start, length))

    def get_node(self, index: int) -> Node | None:
        """Tree node ``index``, if held."""
        return self.storage.get_node(index)

    def roots_at(self, length: int) -> list[Node]:
        """The full roots of the first ``length`` blocks. Raises ``NodeMissing``."""
        return [need(self.get_node, index) for index in flat_tree.full_roots(length)]

    def batch(self) -> TreeBatch:
        """The tree, to be grown."""
        return TreeBatch(self.roots, self.length, self.fork)

    def has(self, index: int) -> bool:
        """Whether block ``index`` is held here."""
        return self.bitfield.get(index)

    def has_range(self, start: int, end: int) -> bool:
        """Whether all of ``start`` to ``end`` (exclusive) are held here."""
        return end <= self.contiguous_length or self.bitfield.first_unset(start) >= end

    def append(self, blocks: Sequence[bytes], *, durable: bool = True) -> int:
        """Append ``blocks``; return the number of the first.

        They are on the disk for good when this returns, or, with ``durable`` false, once any later change
        of the store is. Raises :class:`~pelure.errors.DriveError` if the core can't be written.
        """
        self._check_writable()
        first = self.length
        batch = self.batch()
        longest = max(map(len, blocks), default=0)
        if longest > MAX_BLOCK:
            raise DriveError(f"a block of {longest} bytes is too long; the limit is {MAX_BLOCK}")
        if self.encryption is not None:
            seal, fork = self.encryption.seal, self.fork
            blocks = [seal(index, fork, block) for index, block in enumerate(blocks, first)]
        self.storage.put_blocks(first, blocks)
        batch.append_leaves(list(map(len, blocks)), list(map(leaf_hash, blocks)))
        self._appended(batch, durable)
        return first

    def append_placed(self, blocks: Sequence[PlacedBlock], *, durable: bool = True) -> int:
        """Append blocks whose content is on the disk already; see :meth:`append`."""
        self._check_writable()
        first = self.length
        batch = self.batch()
        batch.append_leaves([block.size for block in blocks], [block.hash for block in blocks])
        for index, block in enumerate(blocks, first):
            if block.link is None:
                self.storage.put_block_at(index, block.position, block.size)
            else:
                size = block.size - self.padding
                self.storage.put_linked_block(index, block.link, block.position, size, self.fork)
        self._appended(batch, durable)
        return first

    def _check_writable(self) -> None:
        self.check_usable()
        if not self.writable:
            raise DriveError("this core is read-only here: its secret key is not in the store")

    def _appended(self, batch: TreeBatch, durable: bool) -> None:
        first = self.length
        if batch.length == first:
            return
        self.bitfield.set_range(first, batch.length)
        self._take_over(batch)
        self._head_pending = True
        self.storage.store.before_commit(self, self._put_head)
        if durable:
            self.make_durable()
        self.emit(ChangeKind.APPEND, first, batch.length - first)

    def _put_head(self) -> None:
        self.storage.put_head(self._head)

    def make_durable(self) -> None:
        """Put what was appended on the disk for good. No peer may be told of it before."""
        if self._head_pending:
            self.storage.store.commit()
            self._head_pending = False

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once all that the core holds now is on the disk for good."""
        self.storage.store.when_durable(callback)

    def save(self, batch: TreeBatch, signature: bytes | None) -> None:
        """Take over a grown tree that a peer proved."""
        self._take_over(batch)
        self._head.signature = signature
        self.storage.put_head(self._head)

    def _take_over(self, batch: TreeBatch) -> None:
        self.storage.put_nodes(batch.nodes)
        for row in batch.rows:
            self.storage.put_node_row(row)
        self.roots = batch.roots
        self._head.length, self._head.fork, self._head.signature = batch.length, batch.fork, None
        self.save_bitfield()

    def save_bitfield(self) -> None:
        """Store the bitfield's changes, and see how far it reaches without a hole."""
        self.contiguous_length = self.bitfield.first_unset(self.contiguous_length)
        self.storage.put_bitfield(self.bitfield)

    def set_manifest(self, manifest: Manifest) -> None:
        """Remember the manifest, which has been checked against the key."""
        self.verifier = Verifier(self.key, manifest)
        self._writable = None
        self._head.manifest = manifest.encode()
        self.storage.put_head(self._head)

    def assumed_verifier(self) -> Verifier:
        """The verifier to use when no manifest is known: that of a compat core."""
        return self.verifier or Verifier(self.key, single_signer(self.key, version=0))

    def truncate(self, length: int, fork: int | None = None) -> None:
        """Cut the core to ``length`` blocks, at a new ``fork`` (by default the next one)."""
        self._check_writable()
        if not 0 <= length <= self.length:
            raise DriveError(f"the core has {self.length} blocks and can't be cut to {length}")
        if fork is not None and fork <= self.fork:
            raise DriveError(f"the core is at fork {self.fork} already")
        batch = TreeBatch(self.roots_at(length), length, self.fork + 1 if fork is None else fork)
        removed = self.length - length
        self.drop_blocks(length, self.length)
        self.drop_nodes(length)
        self.truncations.append((batch.fork, length))
        self._take_over(batch)
        self._put_head()
        self.storage.store.commit()
        self.emit(ChangeKind.TRUNCATE, length, removed)

    def freeze(self, proof: Data) -> None:
        """Give up the core for good, because of the ``proof`` that its writer signed another tree.

        What is held can still be read; nothing is appended, served or taken from peers any more.
        """
        self.conflict = Data(0, proof.fork, upgrade=proof.upgrade)
        self.storage.put_user_data(_CONFLICT, self.conflict.encode())
        self.storage.store.commit()
        self.emit(ChangeKind.CONFLICT, 0, self.length)

    def check_usable(self) -> None:
        """Raises :class:`~pelure.errors.ConflictError` if the core was given up."""
        if self.conflict is not None:
            raise ConflictError(
                "this drive can't be trusted any more: its secret key was used in two places, and two "
                "different histories are signed with it. Nothing more of it is read from peers or served; "
                "its owner has to make a new one"
            )

    def drop_nodes(self, length: int) -> None:
        """Forget all tree nodes that reach beyond the first ``length`` blocks."""
        for index in self.storage.node_indexes(2 * length):
            self.storage.delete_node(index)
        index = 2 * length - 2
        while length and index < 4 * self.length:
            if flat_tree.right_span(index) >= 2 * length:
                self.storage.delete_node(index)
            index = flat_tree.parent(index)

    def drop_blocks(self, start: int, end: int) -> int:
        """Forget the blocks ``start`` to ``end`` (exclusive); return the bytes freed."""
        freed = 0
        self.fresh.clear()
        index = self.bitfield.first_set(start, end)
        while index is not None:
            freed += self.storage.delete_block(index)
            index = self.bitfield.first_set(index + 1, end)
        self.bitfield.set_range(start, min(end, self.length), False)
        self.contiguous_length = min(self.contiguous_length, start)
        return freed

    def link_blocks(self, first: int, count: int, file: LinkedFile) -> None:
        """Keep ``count`` blocks from ``first`` on in ``file``, which holds just their bytes.

        Only for blocks of the present fork. They are checked against the tree whenever they are read, like
        all linked blocks. Raises :class:`~pelure.hyper.core.tree.NodeMissing` if one is not known.
        """
        number, position = self.storage.add_link(file), 0
        for index in range(first, first + count):
            size = need(self.get_node, 2 * index).size - self.padding
            if self.bitfield.get(index) and size > INLINE_LIMIT and not self.storage.linked_file_of(index):
                self.storage.delete_block(index)
                self.storage.put_linked_block(index, number, position, size, self.fork)
            position += size

    def clear(self, start: int, end: int) -> int:
        """Delete the content of blocks ``start`` to ``end`` (exclusive) here; return the bytes freed."""
        end = min(end, self.length)
        if start < 0 or start >= end:
            return 0
        freed = self.drop_blocks(start, end)
        self.save_bitfield()
        self.storage.store.commit()
        self.emit(ChangeKind.CLEAR, start, end - start)
        return freed

    def get_stored(self, index: int) -> bytes | None:
        """Block ``index`` as it goes to peers, checked against the tree; ``None`` if it is not held.

        Raises :class:`~pelure.errors.DriveError` if what the disk has is not the block any more.
        """
        found = self.storage.get_block(index) if self.bitfield.get(index) else None
        if isinstance(found, LinkedBlock):
            found = self._check_linked(index, found)[0]
        elif found is not None and leaf_hash(found) != need(self.get_node, 2 * index).hash:
            raise DriveError(f"the store is damaged: block {index} is not what it was")
        return found

    def get_local(self, index: int) -> bytes | None:
        """Block ``index``, decrypted; ``None`` if it is not held. Raises like :meth:`get_stored`."""
        if not self.bitfield.get(index):
            return None
        found = self.fresh.take(index)
        if found is not None:
            return found if self.encryption is None else self.encryption.open(index, found)
        stored = self.storage.get_block(index)
        if isinstance(stored, LinkedBlock):
            return self._check_linked(index, stored)[1]
        if stored is None:
            return None
        if leaf_hash(stored) != need(self.get_node, 2 * index).hash:
            raise DriveError(f"the store is damaged: block {index} is not what it was")
        return stored if self.encryption is None else self.encryption.open(index, stored)

    def _check_linked(self, index: int, block: LinkedBlock) -> tuple[bytes, bytes]:
        stored = block.data
        if self.encryption is not None:
            stored = self.encryption.seal(index, block.fork, block.data)
        if leaf_hash(stored) != need(self.get_node, 2 * index).hash:
            self.storage.store.open_files.forget(block.path)
            raise LinkedFileChanged(block.path, "has changed")
        return stored, block.data

    def get_inline(self, start: int, end: int) -> dict[int, bytes]:
        """The short blocks held of ``start`` to ``end`` (exclusive), decrypted, read in one go."""
        found = self.storage.get_inline_blocks(start, end)
        if self.encryption is None:
            return found
        return {index: self.encryption.open(index, block) for index, block in found.items()}

    def find(self, position: int) -> tree.SeekResult:
        """Where byte ``position`` is, as far as the nodes held here tell."""
        return tree.seek(self.get_node, self.roots, self.length, position, self.padding)

    def byte_offset(self, index: int) -> int:
        """Bytes before block ``index``. Raises ``NodeMissing``."""
        return tree.byte_offset(self.get_node, self.roots, 2 * index) - self.padding * index

    def missing_nodes(self, index: int) -> int:
        """How many levels a proof of tree node ``index`` has to climb to reach a node that is held."""
        end = 2 * self.length
        climb = 0
        while not flat_tree.contains(index, end) and self.get_node(index) is None:
            index = flat_tree.parent(index)
            climb += 1
        return climb

    def can_upgrade(self, length: int) -> bool:
        """Whether growth from ``length`` blocks can be proved with the nodes held here."""
        if length > self.length:
            return False
        return all(self.get_node(index) is not None for index in flat_tree.full_roots(length))

    def check_version(self, fork: int, length: int) -> None:
        """Raises ``NotAvailable`` if the first ``length`` blocks as of ``fork`` were cut off since."""
        for new_fork, cut in self.truncations:
            if new_fork > fork and cut < length:
                raise NotAvailable(f"version {length} is gone: the core was truncated to {cut}")
