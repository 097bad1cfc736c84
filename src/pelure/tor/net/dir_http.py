"""Directory requests over a stream: the little of HTTP/1.0 that Tor's directory protocol is (dir-spec 5, 6).

The stream comes from ``BEGIN_DIR`` on some circuit; whose, and to which relay, is the caller's business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pelure.errors import DirectoryError
from pelure.streams import ByteStream

MAX_HEAD = 16_384
_STATUS = re.compile("[1-9][0-9][0-9]")


@dataclass(frozen=True)
class DirResponse:
    """A directory's answer: ``status`` as in HTTP, header names in lower case, the body as it was sent.

    ``reason``: the words beside the status; authorities say there why they refuse something.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    reason: str = field(default="", compare=False)


async def get(stream: ByteStream, path: str, *, limit: int, headers: str = "") -> DirResponse:
    """GET ``path``; ``headers`` are further header lines, each ending in CRLF.

    Raises :class:`DirectoryError` if the answer is malformed or its body exceeds ``limit`` bytes, and what
    the stream raises.
    """
    await stream.write(f"GET {path} HTTP/1.0\r\n{headers}\r\n".encode("ascii"))
    return await _read_response(stream, limit)


async def post(stream: ByteStream, path: str, body: bytes, *, limit: int = MAX_HEAD) -> DirResponse:
    """POST ``body`` to ``path``. Raises as :func:`get` does."""
    head = f"POST {path} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    await stream.write(head.encode("ascii") + body)
    return await _read_response(stream, limit)


async def _read_response(stream: ByteStream, limit: int) -> DirResponse:
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        if len(received) > MAX_HEAD:
            raise DirectoryError("a directory's answer has an endless header")
        data = await stream.read()
        if not data:
            raise DirectoryError("a directory ended its answer within the header")
        received += data
    status, reason, headers = _parse_head(bytes(received[:end]))
    del received[: end + 4]
    length = _content_length(headers)
    if length is not None and length > limit:
        raise DirectoryError(f"a directory's answer of {length} bytes is larger than the {limit} allowed")
    while len(received) < (limit + 1 if length is None else length) and (data := await stream.read()):
        received += data
    if length is None and len(received) > limit:
        raise DirectoryError(f"a directory's answer is larger than the {limit} bytes allowed")
    if length is not None and len(received) < length:
        raise DirectoryError("a directory's answer was cut short")
    return DirResponse(status, headers, bytes(received[:length]), reason)


def _parse_head(head: bytes) -> tuple[int, str, dict[str, str]]:
    status_line, *lines = head.decode("latin-1").split("\r\n")
    parts = status_line.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not _STATUS.fullmatch(parts[1]):
        raise DirectoryError("a directory's answer is not HTTP")
    headers = {}
    for line in lines:
        name, separator, value = line.partition(":")
        if separator:
            headers[name.strip().lower()] = value.strip()
    return int(parts[1]), "".join(parts[2:]), headers


def _content_length(headers: dict[str, str]) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise DirectoryError("a directory's answer has a malformed Content-Length")
    return int(text)
