"""Fuzz target: every parser of directory documents. ``make fuzz``, or run this file with libFuzzer's options.

Whatever the input, a parser returns or raises ``DirectoryError``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports():
    from pelure.errors import DirectoryError
    from pelure.tor.directory.compression import decompress
    from pelure.tor.directory.consensus import parse_consensus
    from pelure.tor.directory.detached import parse_detached
    from pelure.tor.directory.diff import diff_digests
    from pelure.tor.directory.exit_policy import ExitPolicy, PortPolicy
    from pelure.tor.directory.extra_info import parse_extra_info
    from pelure.tor.directory.key_certificate import parse_key_certificate
    from pelure.tor.directory.microdescriptor import parse_microdescriptor
    from pelure.tor.directory.protocols import Protocols
    from pelure.tor.directory.router_descriptor import parse_router_descriptor
    from pelure.tor.directory.vote import parse_vote

PARSERS = (
    parse_consensus,
    parse_vote,
    parse_detached,
    parse_key_certificate,
    parse_router_descriptor,
    parse_extra_info,
    parse_microdescriptor,
    diff_digests,
    lambda data: decompress(data, "deflate", 100_000),
    lambda data: decompress(data, "x-zstd", 100_000),
    lambda data: ExitPolicy.parse(data.decode("latin-1").split("\n")).summary(),
    lambda data: PortPolicy.parse(data.decode("latin-1")),
    lambda data: Protocols.parse(data.decode("latin-1")),
)


VECTORS = Path(__file__).parents[1] / "vectors" / "directory"


def one_input(data: bytes) -> None:
    """Give ``data`` to every parser."""
    for parse in PARSERS:
        try:
            parse(data)
        except DirectoryError:
            pass


def main() -> None:
    """Start from the published documents; what is found on the way goes to a folder of its own."""
    with tempfile.TemporaryDirectory() as corpus:
        atheris.Setup([*sys.argv, corpus, str(VECTORS)], one_input)
        atheris.Fuzz()


main()
