"""Compressed directory documents (dir-spec 6.3, proposal 278): decoded within bounds, encoded for caches.

What a peer sends may be a bomb: output is produced piece by piece and the limit enforced before each, and
many empty streams in a row are no document.
"""

from __future__ import annotations

import zlib

import zstandard

from pelure.errors import DirectoryError

ACCEPT_ENCODING = "x-zstd, deflate, gzip, identity"
"""What a client of this project takes, best first."""

_PIECE = 64 << 10
_MAX_STREAMS = 256
"""Compressed streams in one answer: each costs a copy of what follows, and an empty one has eight bytes."""
_MAX_WINDOW = 8 << 20
_ZSTD_LEVEL = 3
_DEFLATE_LEVEL = 6


def decompress(data: bytes, encoding: str, limit: int) -> bytes:
    """Decode ``data`` as its ``Content-Encoding`` says; at most ``limit`` bytes.

    Raises ``DirectoryError`` for an unknown encoding, malformed or truncated data, or more than ``limit``.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        pieces = [data]
    elif encoding in ("deflate", "gzip", "x-gzip"):
        pieces = _inflate(data, limit)
    elif encoding in ("x-zstd", "zstd"):
        pieces = _unzstd(data, limit)
    else:
        raise DirectoryError(f"a directory answered in unknown encoding {encoding[:30]!r}")
    result = b"".join(pieces)
    if len(result) > limit:
        raise DirectoryError(f"a directory's answer unpacks to more than the {limit} bytes allowed")
    return result


def _inflate(data: bytes, limit: int) -> list[bytes]:
    """zlib and gzip streams, several of them one after the other if need be (C tor flushes so)."""
    pieces: list[bytes] = []
    size = 0
    while data:
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
        try:
            piece = decoder.decompress(data, limit + 1 - size)
        except zlib.error:
            raise DirectoryError("malformed deflate data from a directory") from None
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            break
        if not decoder.eof:
            raise DirectoryError("truncated deflate data from a directory")
        if len(pieces) >= _MAX_STREAMS:
            raise DirectoryError("a directory's answer is in too many pieces")
        data = decoder.unused_data
    return pieces


def _unzstd(data: bytes, limit: int) -> list[bytes]:
    pieces: list[bytes] = []
    size = 0
    try:
        decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        with decoder.stream_reader(data, read_across_frames=True) as reader:
            while size <= limit and (piece := reader.read(_PIECE)):
                pieces.append(piece)
                size += len(piece)
    except zstandard.ZstdError:
        raise DirectoryError("malformed zstd data from a directory") from None
    return pieces


def compress(data: bytes, encoding: str) -> bytes:
    """Encode as ``x-zstd``, ``deflate``, ``gzip`` or ``identity``; raises ``DirectoryError`` for others."""
    if encoding == "identity":
        return data
    if encoding == "x-zstd":
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(data)
    if encoding == "deflate":
        return zlib.compress(data, _DEFLATE_LEVEL)
    if encoding == "gzip":
        return zlib.compress(data, _DEFLATE_LEVEL, zlib.MAX_WBITS | 16)
    raise DirectoryError(f"unknown encoding {encoding[:30]!r}")


def choose_encoding(accepted: str) -> str:
    """The best encoding to answer with, given a request's ``Accept-Encoding`` (``identity`` if none fits)."""
    offered = {word.split(";", 1)[0].strip().lower() for word in accepted.split(",")}
    return next((name for name in ("x-zstd", "deflate", "gzip") if name in offered), "identity")
