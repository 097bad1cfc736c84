"""The errors a caller of pelure may see.

One small tree. Each message is one sentence for a person: what failed, and, where something can be
done, what to do next. No message, argument or ``repr`` of these errors ever holds a secret.
"""

from __future__ import annotations


class PelureError(Exception):
    """Anything pelure refuses or fails to do; ``str()`` of it is fit to print."""


class ProtocolError(PelureError):
    """A peer broke the protocol it speaks: malformed, oversized or out-of-turn bytes."""


class CryptoError(ProtocolError):
    """A signature, MAC, digest or handshake did not verify."""


class LinkError(PelureError):
    """A link (TLS connection to a relay) could not be made or was lost."""


class CircuitError(PelureError):
    """A circuit could not be built or was torn down; ``reason`` is its DESTROY reason, if one came."""

    def __init__(self, message: str, reason: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class StreamError(PelureError):
    """A stream was refused or ended abnormally; ``reason`` is its RELAY_END reason, if one came."""

    def __init__(self, message: str, reason: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class DirectoryError(PelureError):
    """A directory document is malformed, unsigned, outdated, or can't be fetched."""


class PathError(PelureError):
    """No path that satisfies the constraints exists in the current consensus."""


class OnionServiceError(PelureError):
    """An onion service can't be found, reached or published; ``code`` is its SOCKS5 code (proposal 304)."""

    def __init__(self, message: str, code: int = 0x01) -> None:
        super().__init__(message)
        self.code = code


class AccessDenied(PelureError):
    """The other side, or a local rule, does not let this key or link in."""


class DriveError(PelureError):
    """A drive or core is damaged, closed, of the wrong key, or can't do what was asked."""


class StorageError(DriveError):
    """A store on this machine can't be written: the disk is full or failing."""


class ConflictError(DriveError):
    """A core's writer has signed two histories that contradict each other: neither can be trusted further."""


class LinkFormatError(PelureError):
    """Text that is not a valid private link; says where and why."""


class ConfigError(PelureError):
    """A setting, file or command argument that can't be used."""
