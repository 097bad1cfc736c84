"""Fuzz target: cells, messages, certificates, proxy requests. ``make fuzz``, or with libFuzzer's options.

Whatever the input, a decoder returns or raises ``ProtocolError``; encoding and decoding it changes nothing.
"""

from __future__ import annotations

import sys
from typing import Any

import atheris

with atheris.instrument_imports():
    from pelure.errors import ProtocolError
    from pelure.tor.cell import messages, onion_messages, relay_messages
    from pelure.tor.cell.certs import Ed25519Cert, RsaCrossCert
    from pelure.tor.cell.extensions import DosParameters, decode_extensions
    from pelure.tor.cell.framing import CellReader
    from pelure.tor.cell.linkspec import decode_specifiers
    from pelure.tor.cell.relay_header import decode_relay_body
    from pelure.tor.client.socks import ProxyParser

MESSAGES: list[Any] = [
    kind
    for module in (messages, relay_messages, onion_messages)
    for kind in vars(module).values()
    if isinstance(kind, type) and hasattr(kind, "decode") and kind.__module__ == module.__name__
]
DECODERS = (
    Ed25519Cert.decode,
    RsaCrossCert.decode,
    DosParameters.decode,
    decode_extensions,
    decode_specifiers,
    decode_relay_body,
    lambda data: CellReader().feed(data),
    lambda data: CellReader(wide=False).feed(data),
    lambda data: ProxyParser().feed(data),
)


def one_input(data: bytes) -> None:
    """Give ``data`` to every decoder."""
    for decode in DECODERS:
        try:
            decode(data)
        except ProtocolError:
            pass
    for kind in MESSAGES:
        try:
            message = kind.decode(data)
        except ProtocolError:
            continue
        encoded = message.encode()
        assert kind.decode(encoded).encode() == encoded


def main() -> None:
    """Run until libFuzzer is done."""
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
