"""Which network, and where its state is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelure.errors import ConfigError
from pelure.tor.client.state import ClientState, load_network, network_label
from pelure.tor.directory.network import PUBLIC

TORRC = "TestingTorNetwork 1\nDirAuthority a orport=5001 v3ident={} 127.0.0.1:7000 {}\n"


def private(path: Path, identity: str) -> Path:
    path.write_text(TORRC.format(identity * 40, "B" * 40))
    return path


def test_networks_by_name(tmp_path: Path) -> None:
    assert load_network("public", tmp_path) is PUBLIC
    assert load_network(PUBLIC, tmp_path) is PUBLIC
    network = load_network(private(tmp_path / "net", "A"), tmp_path)
    assert network.testing and len(network.voters) == 1
    with pytest.raises(ConfigError, match="net up"):
        load_network("embedded", tmp_path)
    with pytest.raises(ConfigError, match="network file"):
        load_network(tmp_path / "missing", tmp_path)


def test_each_network_has_its_own_folder(tmp_path: Path) -> None:
    one = load_network(private(tmp_path / "one", "A"), tmp_path)
    two = load_network(private(tmp_path / "two", "C"), tmp_path)
    same = load_network(private(tmp_path / "same", "A"), tmp_path)
    assert network_label(PUBLIC) == "public"
    assert network_label(one) == network_label(same) != network_label(two)


def test_a_second_program_works_on_a_copy(tmp_path: Path) -> None:
    first = ClientState(tmp_path, PUBLIC, "client")
    first.folder.write("guards.json", b"[]")
    (first.folder.path / ".guards.json.x7").write_bytes(b"half of")  # is being written just now
    second = ClientState(tmp_path, PUBLIC, "client")
    assert second.folder.path != first.folder.path
    assert second.folder.read("guards.json") == b"[]"
    assert sorted(path.name for path in second.folder.path.iterdir()) == ["guards.json", "lock"]
    assert second.folder.path.stat().st_mode & 0o077 == 0
    second.folder.write("guards.json", b"other")
    second.close()
    assert not second.folder.path.exists()
    assert first.folder.read("guards.json") == b"[]"
    first.close()
    third = ClientState(tmp_path, PUBLIC, "client")
    assert third.folder.path == first.folder.path
    third.close()


def test_a_state_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        ClientState(tmp_path / "file", PUBLIC, "client")
