"""A relay's keys: kept as C tor keeps them, renewed in time, never replaced by mistake; its descriptor."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pelure.errors import ConfigError
from pelure.tor.cell.certs import CertType
from pelure.tor.directory.network import parse_network, torrc_options
from pelure.tor.directory.router_descriptor import parse_router_descriptor
from pelure.tor.relay.config import RelayConfig
from pelure.tor.relay.keys import DAY, RelayKeys
from pelure.tor.relay.publish import PROTOCOLS, build_documents

from .support import NOW, TORRC, key_files


def write_keys(folder: Path, index: int = 0) -> Path:
    (folder / "keys").mkdir()
    for name, content in key_files(index).items():
        (folder / "keys" / name).write_bytes(content)
        os.utime(folder / "keys" / name, (NOW, NOW))
    return folder


def test_keys_are_kept_in_the_layout_of_c_tor(tmp_path: Path) -> None:
    first = RelayKeys.load(write_keys(tmp_path), os.urandom, NOW)
    again = RelayKeys.load(tmp_path, os.urandom, NOW)
    assert again.rsa.public == first.rsa.public
    assert (again.identity, again.signing, again.onion) == (first.identity, first.signing, first.onion)
    secret = (tmp_path / "keys/ed25519_master_id_secret_key").read_bytes()
    assert secret[:32] == b"== ed25519v1-secret: type0 ==\0\0\0" and secret[32:] == first.identity.expanded
    ntor = (tmp_path / "keys/secret_onion_key_ntor").read_bytes()
    assert ntor[:32].rstrip(b"\0") == b"== c25519v1: onion ==" and ntor[64:] == first.onion.public
    assert (tmp_path / "keys/secret_id_key").read_bytes().startswith(b"-----BEGIN RSA PRIVATE KEY-----")
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert "expanded" not in repr(first) and first.onion.secret.hex() not in repr(first)


def test_signing_and_onion_keys_are_renewed_in_time(tmp_path: Path) -> None:
    keys = RelayKeys.load(write_keys(tmp_path), os.urandom, NOW)
    assert keys.renewed(os.urandom, NOW + DAY) is keys
    later = keys.renewed(os.urandom, NOW + 29 * DAY)
    assert later.identity == keys.identity and later.rsa == keys.rsa
    assert later.signing != keys.signing
    later.signing_cert.verify(keys.identity.public, cert_type=CertType.IDENTITY_V_SIGNING, now=NOW + 29 * DAY)
    # Clients with a consensus of yesterday still use the old onion key, for a week.
    assert set(later.accepted_onion_keys) == {keys.onion.public, later.onion.public}
    last = later.renewed(os.urandom, NOW + 37 * DAY)
    assert set(last.accepted_onion_keys) == {later.onion.public}


def test_keys_are_made_where_there_are_none(tmp_path: Path) -> None:
    now = time.time()
    made = RelayKeys.load(tmp_path, os.urandom, now)
    again = RelayKeys.load(tmp_path, os.urandom, now)
    assert again.rsa.public == made.rsa.public and again.tap.public == made.tap.public
    assert made.rsa.public != made.tap.public
    assert (again.identity, again.signing, again.onion.public) == (
        made.identity,
        made.signing,
        made.onion.public,
    )
    for path in (tmp_path / "keys").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_each_key_is_renewed_at_its_time_and_on_disk(tmp_path: Path) -> None:
    keys = RelayKeys.load(write_keys(tmp_path), os.urandom, NOW)
    keys = keys.renewed(os.urandom, NOW + 26 * DAY)  # whatever the signing key's age was
    later = keys.renewed(os.urandom, NOW + 29 * DAY)
    assert later.signing == keys.signing and later.onion != keys.onion and later.old_onion == keys.onion
    os.utime(tmp_path / "keys/secret_onion_key_ntor", (NOW + 29 * DAY, NOW + 29 * DAY))
    loaded = RelayKeys.load(tmp_path, os.urandom, NOW + 35 * DAY)
    assert loaded.accepted_onion_keys == later.accepted_onion_keys and loaded.signing == keys.signing
    last = RelayKeys.load(tmp_path, os.urandom, NOW + 37 * DAY)
    assert last.old_onion is None and not (tmp_path / "keys/secret_onion_key_ntor.old").exists()
    assert last.renewed(os.urandom, NOW + 50 * DAY) is last
    assert last.renewed(os.urandom, NOW + 52 * DAY).signing != last.signing


@pytest.mark.parametrize(
    ("name", "start"), [("ed25519_master_id_public_key", 32), ("secret_onion_key_ntor", 64)]
)
def test_a_public_key_of_another_secret_key_is_told(tmp_path: Path, name: str, start: int) -> None:
    path = write_keys(tmp_path) / "keys" / name
    path.write_bytes(path.read_bytes()[:start] + os.urandom(32))
    with pytest.raises(ConfigError, match="public key"):
        RelayKeys.load(tmp_path, os.urandom, NOW)


@pytest.mark.parametrize("foreign", ["ed25519_signing_cert", "ed25519_signing_secret_key"])
@pytest.mark.parametrize("missing", [False, True])
def test_a_signing_key_that_is_missing_or_another_relays_is_replaced(
    tmp_path: Path, foreign: str, missing: bool
) -> None:
    path = write_keys(tmp_path) / "keys" / foreign
    path.unlink()
    if not missing:
        path.write_bytes(key_files(1)[foreign])
    keys = RelayKeys.load(tmp_path, os.urandom, NOW)
    keys.signing_cert.verify(keys.identity.public, cert_type=CertType.IDENTITY_V_SIGNING, now=NOW)
    assert keys.signing_cert.certified_key == keys.signing.public
    assert RelayKeys.load(tmp_path, os.urandom, NOW).signing == keys.signing


def test_a_signing_key_with_the_certificate_of_another_identity_is_replaced(tmp_path: Path) -> None:
    write_keys(tmp_path)
    for name in ("ed25519_signing_cert", "ed25519_signing_secret_key"):
        (tmp_path / "keys" / name).write_bytes(key_files(1)[name])
    keys = RelayKeys.load(tmp_path, os.urandom, NOW)
    keys.signing_cert.verify(keys.identity.public, cert_type=CertType.IDENTITY_V_SIGNING, now=NOW)


@pytest.mark.parametrize("name", ["ed25519_master_id_secret_key", "secret_onion_key_ntor"])
def test_key_files_of_another_kind_or_cut_short_are_told(tmp_path: Path, name: str) -> None:
    path = write_keys(tmp_path) / "keys" / name
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", whole[:3] + b"x" + whole[4:]):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match="expected kind"):
            RelayKeys.load(tmp_path, os.urandom, NOW)


def test_keys_that_can_not_be_read_are_told(tmp_path: Path) -> None:
    (write_keys(tmp_path) / "keys/secret_onion_key_ntor").unlink()
    (tmp_path / "keys/secret_onion_key_ntor").mkdir()
    with pytest.raises(ConfigError, match="can't use the keys"):
        RelayKeys.load(tmp_path, os.urandom, NOW)


@pytest.mark.parametrize("name", ["secret_id_key", "ed25519_master_id_secret_key", "secret_onion_key_ntor"])
def test_damaged_keys_are_not_replaced(tmp_path: Path, name: str) -> None:
    write_keys(tmp_path)
    (tmp_path / "keys" / name).write_bytes(b"damaged")
    with pytest.raises(ConfigError):
        RelayKeys.load(tmp_path, os.urandom, NOW)
    assert (tmp_path / "keys" / name).read_bytes() == b"damaged"


@pytest.mark.parametrize("name", ["ed25519_signing_secret_key", "ed25519_signing_cert"])
def test_a_damaged_signing_key_is_replaced(tmp_path: Path, name: str) -> None:
    keys = RelayKeys.load(write_keys(tmp_path), os.urandom, NOW)
    (tmp_path / "keys" / name).write_bytes(b"damaged")
    again = RelayKeys.load(tmp_path, os.urandom, NOW)
    assert again.identity == keys.identity and again.signing != keys.signing
    assert RelayKeys.load(tmp_path, os.urandom, NOW).signing == again.signing


def test_an_identity_that_is_missing_but_has_a_public_key_is_not_replaced(tmp_path: Path) -> None:
    write_keys(tmp_path)
    (tmp_path / "keys/ed25519_master_id_secret_key").unlink()
    with pytest.raises(ConfigError, match="missing"):
        RelayKeys.load(tmp_path, os.urandom, NOW)


def test_the_descriptor_is_one_that_an_authority_parses(tmp_path: Path) -> None:
    keys = RelayKeys.load(write_keys(tmp_path), os.urandom, NOW)
    config = RelayConfig.from_torrc(
        parse_network(TORRC), torrc_options("Nickname tester\nExitPolicy accept *:80,reject *:*"), tmp_path
    )
    descriptor, extra_info = build_documents(config, keys, 9001, ("2001:db8::7", 443), 5000, 60, NOW)
    parsed = parse_router_descriptor(descriptor)
    assert (parsed.nickname, parsed.orport, parsed.ed_id) == ("tester", 9001, keys.identity.public)
    assert parsed.protocols == PROTOCOLS and parsed.ipv6 == ("2001:db8::7", 443)
    assert parsed.exit_policy.allows("8.8.8.8", 80) and not parsed.exit_policy.allows("8.8.8.8", 81)
    assert not parsed.exit_policy.allows("10.0.0.1", 80)
    assert extra_info.startswith(b"extra-info tester ")


def test_the_identity_s_secret_key_may_be_elsewhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = RelayKeys.load(write_keys(tmp_path), os.urandom, NOW)
    folder = tmp_path / "keys"
    secret = (folder / "ed25519_master_id_secret_key").read_bytes()
    (folder / "ed25519_master_id_secret_key").unlink()
    offline = RelayKeys.load(tmp_path, os.urandom, NOW)
    assert offline.identity.public == keys.identity.public
    assert (offline.signing, offline.signing_cert) == (keys.signing, keys.signing_cert)
    assert offline.renewed(os.urandom, NOW + DAY) is offline and not caplog.messages
    late = NOW + 29 * DAY
    assert offline.renewed(os.urandom, late).signing == keys.signing
    assert "tor --keygen" in caplog.text, "it says what is to be done before it is too late"
    assert offline.renewed(os.urandom, NOW + 31 * DAY).signing == keys.signing, "nor does it end the relay"
    with pytest.raises(ConfigError, match="tor --keygen"):
        RelayKeys.load(tmp_path, os.urandom, NOW + 31 * DAY)

    (folder / "ed25519_master_id_secret_key").write_bytes(secret)
    made = RelayKeys.load(tmp_path, os.urandom, late)
    (folder / "ed25519_master_id_secret_key").unlink()
    assert offline.renewed(os.urandom, late).signing == made.signing != keys.signing
