"""Identities and managers for the tests of links, and a disk that is full."""

from __future__ import annotations

import errno
import os
import time

import pytest

from pelure.tor.cell.certs import CertType, Ed25519Cert, RsaCrossCert
from pelure.tor.crypto.keys import Ed25519KeyPair
from pelure.tor.crypto.rsa import RsaKeyPair
from pelure.tor.directory.relay import Relay
from pelure.tor.net.identity import LinkIdentity

DAY = 86400.0


def make_identity(now: float | None = None) -> LinkIdentity:
    """A relay's link identity with fresh keys, made at ``now``."""
    at = time.time() if now is None else now
    rsa_key, ed_key = RsaKeyPair.generate(1024), Ed25519KeyPair.generate(os.urandom)
    signing = Ed25519KeyPair.generate(os.urandom)
    signing_cert = Ed25519Cert.create(CertType.IDENTITY_V_SIGNING, signing.public, ed_key, at + 30 * DAY)
    cross = RsaCrossCert.create(ed_key.public, rsa_key, at + 180 * DAY)
    return LinkIdentity.make(
        rsa_key, ed_key.public, signing, signing_cert.encode(), cross.encode(), ("127.0.0.1",), os.urandom, at
    )


def relay_at(identity: LinkIdentity, address: tuple[str, int]) -> Relay:
    """``identity`` as a relay that clients can connect to."""
    return Relay("test", identity.rsa_public.identity, identity.ed_id, bytes(32), (address,))


class FullDisk:
    """A disk on which nothing can be written durably while it :attr:`is_full`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.is_full = False
        self._fsync = os.fsync
        patch.setattr(os, "fsync", self._sync)

    def _sync(self, handle: int) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fsync(handle)
