"""The server's side of directory requests (dir-spec sections 5 and 6): HTTP/1.0 requests in, replies out.

No I/O: the bytes come from a DirPort or from a ``BEGIN_DIR`` stream. (The client's side is
:mod:`pelure.tor.net.dir_http`.)
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from pelure.errors import ProtocolError
from pelure.tor.directory.compression import choose_encoding, compress

MAX_HEAD = 16_384
MAX_BODY = 4 << 20
REASONS = {
    200: "OK",
    304: "Not modified",
    400: "Bad request",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    413: "Payload too large",
    503: "Directory busy",
}


@dataclass(frozen=True, slots=True)
class DirRequest:
    """A request: ``path`` without a ``.z`` suffix (``deflated`` says there was one), lower-case headers."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    deflated: bool = False

    @property
    def encoding(self) -> str:
        """The best encoding that the client takes a reply in."""
        return "deflate" if self.deflated else choose_encoding(self.headers.get("accept-encoding", ""))

    @property
    def modified_since(self) -> float | None:
        """The time of ``If-Modified-Since`` in epoch seconds, None if absent or malformed."""
        text = self.headers.get("if-modified-since", "")
        try:
            return float(calendar.timegm(time.strptime(text, "%a, %d %b %Y %H:%M:%S GMT")))
        except ValueError:
            return None


def parse_request(received: bytes | bytearray, max_body: int = MAX_BODY) -> tuple[DirRequest, int] | None:
    """The request at the start of ``received`` and its length in bytes; None while it is incomplete.

    Raises ``ProtocolError`` if it is not HTTP or too large.
    """
    end = received.find(b"\r\n\r\n", 0, MAX_HEAD)
    if end < 0:
        if len(received) >= MAX_HEAD:
            raise ProtocolError("a directory request has an endless header")
        return None
    lines = bytes(received[:end]).decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith(("/", "http://")):
        raise ProtocolError("a directory request is not HTTP")
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise ProtocolError("a directory request has a malformed header")
        headers[name.strip().lower()] = value.strip()
    length_text = headers.get("content-length", "0")
    if not (length_text.isascii() and length_text.isdigit() and len(length_text) <= 10):
        raise ProtocolError("a directory request has a malformed Content-Length")
    length = int(length_text)
    if length > max_body:
        raise ProtocolError("a directory request is too large")
    total = end + 4 + length
    if len(received) < total:
        return None
    path = words[1]
    if path.startswith("http://"):
        path = "/" + path.removeprefix("http://").partition("/")[2]
    deflated = path.endswith(".z")
    body = bytes(received[end + 4 : total])
    return DirRequest(words[0], path.removesuffix(".z"), headers, body, deflated), total


@dataclass(frozen=True, slots=True)
class DirReply:
    """A reply; ``expires``: seconds for which it may be cached, ``encoding`` that of ``body``."""

    status: int
    body: bytes = field(default=b"", repr=False)
    reason: str = ""
    encoding: str = "identity"
    expires: int = 0

    def encode(self, now: float, peer: str = "") -> bytes:
        """The bytes of the reply; ``peer``: the client's IP address, told to it so that it learns it."""
        lines = [
            f"HTTP/1.0 {self.status} {self.reason or REASONS.get(self.status, 'Unknown')}",
            f"Date: {_http_date(now)}",
        ]
        if peer:
            lines.append(f"X-Your-Address-Is: {peer}")
        if self.body:
            lines += [
                "Content-Type: text/plain",
                f"Content-Encoding: {self.encoding}",
                f"Content-Length: {len(self.body)}",
            ]
        if self.expires:
            lines.append(f"Expires: {_http_date(now + self.expires)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + self.body


def _http_date(now: float) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now))


class EncodedBody:
    """A document that is asked for often, compressed once for each encoding."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._encoded: dict[str, bytes] = {"identity": data}

    def reply(self, request: DirRequest, expires: int = 0) -> DirReply:
        """The reply with this document in the best encoding that ``request`` accepts."""
        encoding = request.encoding
        body = self._encoded.get(encoding)
        if body is None:
            body = self._encoded[encoding] = compress(self.data, encoding)
        return DirReply(200, body, encoding=encoding, expires=expires)


def encoded_reply(request: DirRequest, data: bytes, expires: int = 0) -> DirReply:
    """A reply with ``data``, encoded for this request."""
    return DirReply(200, compress(data, request.encoding), encoding=request.encoding, expires=expires)
