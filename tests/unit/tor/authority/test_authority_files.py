"""An authority's key files and the bandwidth file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ConfigError, DirectoryError
from pelure.tor.authority.bandwidth_file import MAX_AGE, parse_bandwidth_file
from pelure.tor.authority.keys import LIFETIME, AuthorityKeys

NOW = 1_700_000_000.0


def test_keys_are_made_loaded_and_renewed(tmp_path: Path) -> None:
    made = AuthorityKeys.create(tmp_path, "127.0.0.1:7000", NOW, identity_bits=2048)
    assert made.certificate.address == "127.0.0.1:7000"
    assert stat.S_IMODE((tmp_path / "keys" / "authority_identity_key").stat().st_mode) == 0o600
    loaded = AuthorityKeys.load(tmp_path, NOW)
    assert (loaded.identity, loaded.certificate) == (made.identity, made.certificate)
    renewed = AuthorityKeys.load(tmp_path, NOW + LIFETIME - 86400)
    assert renewed.identity == made.identity
    assert renewed.signing.public.identity != made.signing.public.identity
    assert renewed.certificate.expires > made.certificate.expires
    with pytest.raises(ConfigError, match="already"):
        AuthorityKeys.create(tmp_path, "127.0.0.1:7000", NOW)


def test_an_offline_identity_key(tmp_path: Path) -> None:
    made = AuthorityKeys.create(tmp_path, "127.0.0.1:7000", NOW, identity_bits=2048)
    (tmp_path / "keys" / "authority_identity_key").unlink()
    assert AuthorityKeys.load(tmp_path, NOW + LIFETIME - 86400).certificate == made.certificate
    with pytest.raises(ConfigError, match="not valid now"):
        AuthorityKeys.load(tmp_path, NOW + LIFETIME + 86400)


def test_missing_and_damaged_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        AuthorityKeys.load(tmp_path, NOW)
    AuthorityKeys.create(tmp_path, "127.0.0.1:7000", NOW, identity_bits=2048)
    (tmp_path / "keys" / "authority_signing_key").write_text("rubbish")
    with pytest.raises(ConfigError, match="damaged"):
        AuthorityKeys.load(tmp_path, NOW)


def test_bandwidth_file() -> None:
    text = (
        b"1700000000\nversion=1.4.0\nsoftware=sbws\n=====\n"
        b"bw=760 node_id=$68A483E05A2ABDCA6DA5A3EF8DB5177638A27F80 nick=Test\n"
        b"node_id=$" + b"11" * 20 + b" bw=12\nnode_id=$" + b"22" * 20 + b" bw=99 vote=0\n"
        b"node_id=$33 bw=9\nnode_id=$" + b"44" * 20 + b" bw=-3\n"
        b"bw=5 nick=Nobody\nnode_id=$" + b"55" * 20 + b"\n"
    )
    found = parse_bandwidth_file(text)
    assert found.bandwidths == {
        bytes.fromhex("68A483E05A2ABDCA6DA5A3EF8DB5177638A27F80"): 760,
        bytes([0x11]) * 20: 12,
    }
    assert found.fresh(1_700_000_000 + MAX_AGE) and not found.fresh(1_700_000_001 + MAX_AGE)


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=200))
def test_bandwidth_file_of_random_bytes(data: bytes) -> None:
    for document in (data, b"1\n" + data):
        try:
            parse_bandwidth_file(document)
        except DirectoryError:
            pass
