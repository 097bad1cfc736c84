"""Where a blob is in its core, and block maps (HYPER-FACTS §16)."""

from __future__ import annotations

from dataclasses import dataclass

from pelure.errors import ProtocolError
from pelure.hyper.encoding.compact import MAX_UINT, Reader

_MAX_MAP_ENTRIES = 8192
MAX_MAP_BLOCKS = 64
_FIELDS = ("blockOffset", "byteOffset", "blockLength", "byteLength")
_JSON = "{{" + ",".join(f'"{name}":{{}}' for name in _FIELDS) + "}}"
_MAPPED_JSON = _JSON.removesuffix("}}") + ',"blockMap":true}}'


@dataclass(frozen=True, slots=True)
class BlobId:
    """``block_length`` blocks from ``block_offset``, with ``byte_length`` bytes from ``byte_offset``.

    With ``block_map`` these blocks hold the list of the blob's blocks, and the byte figures are those of the
    list.
    """

    block_offset: int
    byte_offset: int
    block_length: int
    byte_length: int
    block_map: bool = False

    def to_json(self) -> str:
        """The form in a drive's entry."""
        values = (self.block_offset, self.byte_offset, self.block_length, self.byte_length)
        return (_MAPPED_JSON if self.block_map else _JSON).format(*values)

    @classmethod
    def from_json(cls, value: object) -> BlobId:
        """Raises :class:`~pelure.errors.ProtocolError` for anything but a valid id."""
        if not isinstance(value, dict):
            raise ProtocolError("a file's entry has a malformed blob")
        block_offset, byte_offset, block_length, byte_length = (_number(value, name) for name in _FIELDS)
        return cls(block_offset, byte_offset, block_length, byte_length, bool(value.get("blockMap")))


def _number(value: dict[str, object], name: str) -> int:
    number = value.get(name)
    if type(number) is not int or not 0 <= number <= MAX_UINT:
        raise ProtocolError("a file's entry has a blob with malformed numbers")
    return number


def decode_block_map(block: bytes) -> list[tuple[int, int]]:
    """One block of a block map: (block number, bytes) in order. Raises ``ProtocolError``."""
    r = Reader(block)
    if r.uint() != 0:
        raise ProtocolError("a block map has an unknown version")
    count = r.count(2)
    if count > _MAX_MAP_ENTRIES:
        raise ProtocolError("a block map has too many entries")
    return [(r.uint(), r.uint()) for _ in range(count)]
