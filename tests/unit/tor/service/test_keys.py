"""The HiddenServiceDir folder (rend-spec-v3 App. F, G)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pelure.errors import ConfigError
from pelure.tor.onion.auth_files import encode_auth
from pelure.tor.onion.client_auth import ClientAuthKey
from pelure.tor.service.keys import NOBODY, ServiceKeys


def public() -> bytes:
    return ClientAuthKey.generate(os.urandom).public


def test_a_folder_is_made_private_and_loads_again(tmp_path: Path) -> None:
    folder = tmp_path / "service"
    keys = ServiceKeys.open(folder, os.urandom)
    assert (folder / "hostname").read_text() == f"{keys.address}\n"
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("hs_ed25519_secret_key", "hs_ed25519_public_key", "hostname"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    again = ServiceKeys.open(folder, os.urandom)
    assert (again.identity, again.address) == (keys.identity, keys.address)
    with pytest.raises(ConfigError, match="already"):
        ServiceKeys.create(folder, os.urandom)


def test_clients_are_added_and_removed_on_disk(tmp_path: Path) -> None:
    keys = ServiceKeys.create(tmp_path / "service", os.urandom)
    alice, bob = public(), public()
    keys.add_client("alice", alice)
    keys.add_client("bob", bob)
    file = tmp_path / "service/authorized_clients/alice.auth"
    assert file.read_text() == encode_auth(alice)
    assert ServiceKeys.load(tmp_path / "service").clients == {"alice": alice, "bob": bob}
    keys.remove_client("alice", os.urandom)
    assert not file.exists()
    assert not keys.reload_clients()
    (tmp_path / "service/authorized_clients/carol.auth").write_text(encode_auth(alice))
    assert keys.reload_clients()
    assert keys.clients == {"bob": bob, "carol": alice}


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 65, "a\nb", "a b"])
def test_a_clients_name_is_a_plain_file_name(tmp_path: Path, name: str) -> None:
    keys = ServiceKeys.create(tmp_path / "service", os.urandom)
    with pytest.raises(ConfigError):
        keys.add_client(name, public())
    with pytest.raises(ConfigError):
        keys.remove_client(name, os.urandom)


def test_unreadable_client_files_never_make_a_service_public(tmp_path: Path) -> None:
    keys = ServiceKeys.create(tmp_path / "service", os.urandom)
    clients = tmp_path / "service/authorized_clients"
    (clients / "bad.auth").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError):
        ServiceKeys.load(tmp_path / "service")
    keys.add_client("good", public())
    assert list(ServiceKeys.load(tmp_path / "service").clients) == ["good"]


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        ServiceKeys.load(tmp_path)
    one, two = (ServiceKeys.create(tmp_path / name, os.urandom) for name in ("one", "two"))
    assert one.address != two.address
    (tmp_path / "one/hs_ed25519_public_key").write_bytes(
        (tmp_path / "two/hs_ed25519_public_key").read_bytes()
    )
    with pytest.raises(ConfigError, match="belong together"):
        ServiceKeys.load(tmp_path / "one")
    (tmp_path / "two/hs_ed25519_secret_key").write_bytes(b"short")
    with pytest.raises(ConfigError):
        ServiceKeys.load(tmp_path / "two")


def test_a_service_can_live_in_memory() -> None:
    keys = ServiceKeys.generate(os.urandom)
    keys.add_client("alice", public())
    assert not keys.reload_clients()
    keys.remove_client("alice", os.urandom)
    assert list(keys.clients) == [NOBODY]
    assert repr(keys.identity.expanded) not in repr(keys)


def test_removing_the_last_client_never_makes_a_service_public(tmp_path: Path) -> None:
    keys = ServiceKeys.create(tmp_path / "service", os.urandom)
    keys.add_client("alice", public())
    keys.remove_client("alice", os.urandom)
    assert list(ServiceKeys.load(tmp_path / "service").clients) == [NOBODY]
    bob = public()
    keys.add_client("bob", bob)
    assert ServiceKeys.load(tmp_path / "service").clients == {"bob": bob}
    keys.open_to_all()
    assert ServiceKeys.load(tmp_path / "service").clients == {}
