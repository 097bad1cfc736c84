"""The directory meta-format (dir-spec section 1.2): keyword lines with optional PEM-like objects.

Documents are handled as Latin-1 text, so that text offsets are byte offsets and digests can be taken
over exact spans. Sizes are checked before memory is spent. All malformed input raises ``DirectoryError``.
"""

from __future__ import annotations

import binascii
import calendar
import mmap
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise

from pelure.errors import DirectoryError

MAX_DOCUMENT_LENGTH = 64 << 20
MAX_OBJECT_LENGTH = 128 << 10
MAX_LINE_LENGTH = 256 << 10
MAX_ITEMS = 1_000_000

_KEYWORD = re.compile(r"[A-Za-z0-9-]+")
_BEGIN = re.compile(r"-----BEGIN ([A-Za-z0-9 -]{1,64})-----")
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


@dataclass(slots=True)
class Item:
    """One keyword line, ``text[start:end]`` of its document including the object that follows, if any."""

    keyword: str
    rest: str
    start: int
    end: int
    label: str = ""
    object: bytes = b""

    @property
    def args(self) -> list[str]:
        """The arguments, split at white space."""
        return self.rest.split()

    def arg(self, index: int) -> str:
        """Argument ``index``. Raises ``DirectoryError`` if there are fewer."""
        args = self.args
        if index >= len(args):
            raise DirectoryError(f"too few arguments to {self.keyword!r}")
        return args[index]

    def need_object(self, label: str) -> bytes:
        """The object's bytes. Raises ``DirectoryError`` unless it is there under ``label``."""
        if self.label != label:
            raise DirectoryError(f"{self.keyword!r} needs an object of type {label!r}")
        return self.object


def decode_document(document: bytes, limit: int = MAX_DOCUMENT_LENGTH) -> str:
    """The document as Latin-1 text; raises ``DirectoryError`` if it exceeds ``limit`` bytes or has a NUL."""
    if len(document) > limit:
        raise DirectoryError(f"directory document of {len(document)} bytes is too large")
    if b"\0" in document:
        raise DirectoryError("directory document holds a NUL byte")
    return document.decode("latin-1")


def tokenize(text: str, start: int = 0, end: int | None = None) -> Iterator[Item]:
    """Yield the items of ``text[start:end]``; an ``opt`` prefix and empty lines are skipped."""
    stop = len(text) if end is None else end
    position = start
    count = 0
    while position < stop:
        line_end = text.find("\n", position, stop)
        line_end = stop if line_end < 0 else line_end
        count += 1
        if line_end - position > MAX_LINE_LENGTH or count > MAX_ITEMS:
            raise DirectoryError("directory document has an overlong line or too many lines")
        line = text[position:line_end]
        after = min(line_end + 1, stop)
        if not line.strip():
            position = after
            continue
        item = _keyword_line(line.removeprefix("opt "), position, after)
        if text.startswith("-----BEGIN ", after):
            _read_object(text, item, stop)
        yield item
        position = item.end


def _keyword_line(line: str, start: int, end: int) -> Item:
    match = _KEYWORD.match(line)
    if match is None:
        raise DirectoryError(f"malformed keyword in line {line[:40]!r}")
    rest = line[match.end() :]
    if rest and rest[0] not in " \t\r":
        raise DirectoryError(f"malformed keyword in line {line[:40]!r}")
    return Item(match.group(), rest.lstrip(" \t").rstrip("\r"), start, end)


def _read_object(text: str, item: Item, stop: int) -> None:
    begin = item.end
    match = _BEGIN.match(text, begin, stop)
    if match is None:
        raise DirectoryError("malformed BEGIN line of an object")
    label = match.group(1)
    footer = f"\n-----END {label}-----"
    close = text.find(footer, match.end(), min(stop, begin + MAX_OBJECT_LENGTH * 2))
    if close < 0:
        raise DirectoryError(f"object {label!r} has no end or is too large")
    item.label = label
    item.object = decode_base64(text[match.end() : close].replace("\n", "").replace("\r", ""))
    if len(item.object) > MAX_OBJECT_LENGTH:
        raise DirectoryError(f"object {label!r} is too large")
    finish = close + len(footer)
    if finish < stop and text[finish] == "\r":
        finish += 1
    if finish < stop and text[finish] != "\n":
        raise DirectoryError(f"garbage after object {label!r}")
    item.end = min(finish + 1, stop)


def split_at(document: bytes | mmap.mmap, start: re.Pattern[bytes]) -> Iterator[bytes]:
    """Yield the pieces of ``document`` that begin where ``start`` matches; what comes before is dropped."""
    begins = (match.start() for match in start.finditer(document))
    for begin, end in pairwise(chain(begins, (len(document),))):
        yield document[begin:end]


class Section:
    """The items of one document or part of it, with checks of how often a keyword may appear."""

    def __init__(self, items: list[Item], name: str) -> None:
        self.items = items
        self.name = name
        self._by_keyword: dict[str, list[Item]] = {}
        for item in items:
            self._by_keyword.setdefault(item.keyword, []).append(item)

    def all(self, keyword: str) -> list[Item]:
        """Every item of ``keyword``, in order."""
        return self._by_keyword.get(keyword, [])

    def maybe(self, keyword: str) -> Item | None:
        """The item of ``keyword``, None if absent. Raises ``DirectoryError`` if it is repeated."""
        found = self.all(keyword)
        if len(found) > 1:
            raise DirectoryError(f"{self.name} repeats {keyword!r}")
        return found[0] if found else None

    def one(self, keyword: str) -> Item:
        """The item of ``keyword``. Raises ``DirectoryError`` unless there is exactly one."""
        item = self.maybe(keyword)
        if item is None:
            raise DirectoryError(f"{self.name} lacks {keyword!r}")
        return item


def parse_time(text: str) -> float:
    """Seconds since the epoch of ``YYYY-MM-DD HH:MM:SS`` (UTC). Raises ``DirectoryError``."""
    if not _TIME.fullmatch(text) or not text.isascii():
        raise DirectoryError(f"malformed time {text[:30]!r}")
    try:
        return float(calendar.timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S")))
    except ValueError:
        raise DirectoryError(f"impossible time {text!r}") from None


def format_time(seconds: float) -> str:
    """``YYYY-MM-DD HH:MM:SS`` in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(int(seconds)))


def decode_base64(text: str, length: int | None = None) -> bytes:
    """Bytes of base64 ``text``, padding optional, ``length`` of them if given; raises ``DirectoryError``."""
    try:
        data = binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except (binascii.Error, ValueError):
        raise DirectoryError("malformed base64 in a directory document") from None
    if length is not None and len(data) != length:
        raise DirectoryError(f"base64 value has {len(data)} bytes, not {length}")
    return data


def encode_base64(data: bytes) -> str:
    """Base64 without padding, as directory documents use it for digests and keys."""
    return binascii.b2a_base64(data, newline=False).decode().rstrip("=")


def encode_object(label: str, data: bytes) -> str:
    """A PEM-like object: base64 in lines of 64 characters between BEGIN and END."""
    encoded = binascii.b2a_base64(data, newline=False).decode()
    lines = [encoded[index : index + 64] for index in range(0, len(encoded), 64)]
    return "".join(f"{line}\n" for line in [f"-----BEGIN {label}-----", *lines, f"-----END {label}-----"])


def parse_hex(text: str, length: int) -> bytes:
    """Exactly ``length`` bytes from hexadecimal ``text`` (either case). Raises ``DirectoryError``."""
    try:
        data = binascii.unhexlify(text)
    except (binascii.Error, ValueError):
        raise DirectoryError(f"malformed hexadecimal {text[:48]!r}") from None
    if len(data) != length:
        raise DirectoryError(f"hexadecimal value has {len(data)} bytes, not {length}")
    return data


def parse_int(text: str, low: int, high: int) -> int:
    """A decimal integer within ``low`` to ``high``. Raises ``DirectoryError``."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19):
        raise DirectoryError(f"malformed number {text[:30]!r}")
    value = int(text)
    if not low <= value <= high:
        raise DirectoryError(f"number {value} is out of range")
    return value
