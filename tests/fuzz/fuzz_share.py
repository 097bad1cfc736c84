"""Fuzz target: what readers, publishers and peers of drives are given. ``make fuzz``, or libFuzzer's options.

Private links, replication messages, manifests, index blocks and HTTP ranges: whatever the input, a decoder
returns or raises its documented error.
"""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["pelure.share.link", "pelure.hyper", "pelure.web.ranges"]):
    from pelure.errors import LinkFormatError, PelureError
    from pelure.hyper.bee.messages import Block, Header
    from pelure.hyper.core.manifest import Manifest
    from pelure.hyper.encoding import z32
    from pelure.hyper.encoding.compact import Reader
    from pelure.hyper.wire import messages
    from pelure.share.link import PrivateLink, split_path
    from pelure.web.ranges import RangeNotSatisfiable, parse_range

MESSAGE_KINDS = range(16)


def one_input(data: bytes) -> None:
    """Give ``data`` to every decoder."""
    for kind in MESSAGE_KINDS:
        with contextlib.suppress(PelureError):
            messages.decode(kind, Reader(data))
    for decode in (Manifest.decode, Header.decode, lambda text: Block.decode(5, text)):
        with contextlib.suppress(PelureError):
            decode(data)
    text = data.decode("latin-1")
    with contextlib.suppress(PelureError):
        z32.decode_key(text)
    for link in (text, f"pelure:{text}"):
        with contextlib.suppress(LinkFormatError):
            read = PrivateLink.decode(split_path(link)[0])
            assert PrivateLink.decode(read.encode()) == read
    with contextlib.suppress(RangeNotSatisfiable):
        found = parse_range(f"bytes={text}", 1000)
        assert found is None or 0 <= found.start < found.end <= 1000


def main() -> None:
    """Run until libFuzzer is done."""
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
