"""Fuzzing of the onion layer's parsers of untrusted bytes: descriptors, introductions, key and auth files.

Run by ``make fuzz``; needs atheris. Only the documented errors may come out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports(
    include=["pelure.tor.onion", "pelure.tor.cell", "pelure.tor.directory.tokenizer"]
):
    from pelure.errors import ConfigError, DirectoryError, ProtocolError
    from pelure.tor.cell.onion_messages import Introduce2, IntroducePayload
    from pelure.tor.onion.auth_files import AuthPrivate, decode_auth
    from pelure.tor.onion.first_layer import FirstLayer
    from pelure.tor.onion.introduction import Introduction, IntroKeys
    from pelure.tor.onion.key_files import decode_public_key, decode_secret_key
    from pelure.tor.onion.outer import OuterDescriptor
    from pelure.tor.onion.second_layer import SecondLayer
    from pelure.tor.service.targets import parse_port

NOW = 1_800_000_000.0
KEYS = IntroKeys.generate(os.urandom)

PARSERS: list[Callable[[bytes], object]] = [
    lambda data: OuterDescriptor.parse(data, NOW),
    FirstLayer.parse,
    lambda data: SecondLayer.parse(data, b"k" * 32, NOW),
    lambda data: SecondLayer.parse(b"create2-formats 2\n" + data, b"k" * 32, NOW),
    lambda data: Introduction.open(Introduce2.decode(data), KEYS, [b"s" * 32]),
    IntroducePayload.decode,
    decode_secret_key,
    decode_public_key,
    lambda data: decode_auth(data.decode("latin-1")),
    lambda data: AuthPrivate.decode(data.decode("latin-1")),
    lambda data: parse_port(data.decode("latin-1")),
]


def one_input(data: bytes) -> None:
    if not data:
        return
    try:
        PARSERS[data[0] % len(PARSERS)](data[1:])
    except (ConfigError, DirectoryError, ProtocolError):
        pass


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
