"""Authority keys and certificates go both ways between ``tor-gencert``, C tor and pelure."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from interop.ctor import CTorNetwork
from interop.ctor.keys import make_authority_keys
from pelure.errors import ConfigError
from pelure.tor.authority.keys import CERTIFICATE_FILE, LIFETIME, SIGNING_KEY_FILE, AuthorityKeys
from pelure.tor.directory.consensus import parse_consensus

pytestmark = pytest.mark.ctor


def test_keys_of_tor_gencert(tmp_path: Path) -> None:
    v3ident = make_authority_keys(tmp_path, 7000)
    keys = AuthorityKeys.load(tmp_path, time.time())
    assert keys.identity.hex().upper() == v3ident
    assert keys.certificate.address == "127.0.0.1:7000"
    # The identity key is encrypted: its certificate can't be renewed here, and is used to its end.
    assert AuthorityKeys.load(tmp_path, keys.certificate.expires - 60).certificate == keys.certificate
    with pytest.raises(ConfigError):
        AuthorityKeys.load(tmp_path, keys.certificate.published + 2 * LIFETIME)


def test_c_tor_votes_with_keys_of_pelure(tmp_path: Path) -> None:
    made = AuthorityKeys.create(tmp_path, "127.0.0.1:7000", time.time())
    network = CTorNetwork(authorities=1, relays=3)
    authority = network.authorities[0]
    for name in (SIGNING_KEY_FILE, CERTIFICATE_FILE):
        shutil.copy(tmp_path / "keys" / name, authority.node.data / "keys" / name)
    authority.v3ident = made.identity.hex().upper()
    with network:
        text = network.directory("/tor/status-vote/current/consensus-microdesc")
        assert network.authorities[0].node.document_warnings() == []
    signatures = parse_consensus(text).signatures
    assert [(one.identity, one.signing_key) for one in signatures] == [
        (made.identity, made.signing.public.identity)
    ]
